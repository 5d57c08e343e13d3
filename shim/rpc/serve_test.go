package rpc

import (
	"context"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/ttrpc"

	"github.com/msb-runtime/containerd-shim-msb/shim/config"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/trace"
	"github.com/msb-runtime/containerd-shim-msb/test/fake"
	"github.com/msb-runtime/containerd-shim-msb/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

// A client is containerd's end of a connection.
type client struct {
	*ttrpc.Client
}

// call makes any call at all.
func (c client) call(service, method string, request, response any) error {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	return c.Call(ctx, service, method, request, response)
}

// serve serves what is registered, until the test ends.
func serve(t *testing.T, register func(*ttrpc.Server)) client {
	t.Helper()
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	register(server)
	near, far := net.Pipe()
	go func() { _ = server.Serve(context.Background(), fake.Accepted(far)) }()
	c := client{ttrpc.NewClient(near)}
	t.Cleanup(func() {
		c.Close()
		server.Close()
	})
	return c
}

// A taker is containerd's end of the events.
type taker struct {
	take func() // what Publish does before it has taken an event; nil: nothing
	err  error  // of Close

	mu     sync.Mutex
	taken  []any         // guarded by mu
	closed chan struct{} // closed by Close
	late   int           // events after Close; guarded by mu
}

func newTaker() *taker { return &taker{closed: make(chan struct{})} }

func (p *taker) Publish(_ context.Context, _ string, event events.Event) error {
	if p.take != nil {
		p.take()
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	select {
	case <-p.closed:
		p.late++
	default:
		p.taken = append(p.taken, event)
	}
	return nil
}

func (p *taker) Close() error {
	close(p.closed)
	return p.err
}

func (p *taker) all() (taken []any, late int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.taken, p.late
}

// A world is a whole shim, on a rig's fake machines.
type world struct {
	*rig.Rig
	bundle   string // of a sandbox
	services *Services
	events   *taker
	life     shutdown.Service
	freed    time.Time // when the file of its socket was removed, readable after its end
}

// open makes a shim. It ends with the test.
func open(t *testing.T) *world {
	t.Helper()
	return openTraced(t, nil)
}

// openTraced is open with a tracer, which ends with the shim.
func openTraced(t *testing.T, tracer *trace.Tracer) *world {
	t.Helper()
	bundle := t.TempDir() // before the rig is made, so that it is removed after the rig's end
	s := &world{Rig: rig.New(t), bundle: bundle, events: newTaker()}
	if err := config.SaveOptions(bundle, rig.Options(s.Rig)); err != nil {
		t.Fatal(err)
	}
	ctx, life := shutdown.WithShutdown(namespaces.WithNamespace(context.Background(), "test"))
	s.life = life
	s.services = newServices(ctx, s.events, life, Host{RemoveSocket: s.removeSocket, Tracer: tracer}, time.Now(), func(config.Config) sandbox.Platform { return s.Platform })
	t.Cleanup(s.end)
	return s
}

func (s *world) removeSocket() error {
	s.freed = time.Now()
	return nil
}

// end ends the shim.
func (s *world) end() {
	s.life.Shutdown()
	<-s.life.Done()
}
