package guest_test

import (
	"context"
	"errors"
	"io"
	"sync"
	"testing"
	"time"

	"github.com/containerd/log"
	"google.golang.org/protobuf/proto"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/guest"
	"github.com/msb-runtime/containerd-shim-msb/test/fake"
	"github.com/msb-runtime/containerd-shim-msb/test/itself"
	"github.com/msb-runtime/containerd-shim-msb/vm"
)

const (
	// patience bounds the wait for what must come.
	patience = 2 * time.Minute
	// slack is what a hostile guest may make the host's memory grow by in all.
	slack = 32 << 20
)

func init() { log.L.Logger.SetOutput(io.Discard) } // where ttrpc's client tells of what it did not expect

var budgets = guest.DefaultBudgets

// A host is a machine's sandbox, as far as a client needs it.
type host struct {
	vm.Machine
	t      *testing.T
	agent  *fake.Agent
	client *guest.Client

	mu     sync.Mutex
	reason error // guarded by mu
}

var _ guest.Machine = (*host)(nil)

// End implements guest.Machine.
func (h *host) End(reason error) {
	h.mu.Lock()
	if h.reason == nil {
		h.reason = reason
	}
	h.mu.Unlock()
	over, cancel := context.WithCancel(context.Background())
	cancel()
	_ = h.Stop(over)
}

// Err implements guest.Machine.
func (h *host) Err() error {
	h.mu.Lock()
	defer h.mu.Unlock()
	if h.reason != nil {
		return h.reason
	}
	return h.Machine.Err()
}

// die ends the machine from within.
func (h *host) die(why error) {
	h.Machine.(*fake.Machine).Die(why)
	<-h.Done()
}

// dieDuring lets the machine die while it has a call that it never answers.
func (h *host) dieDuring(name string, why error) {
	h.agent.On(name, func(context.Context, *fake.Call) (proto.Message, error) {
		go h.die(why)
		<-h.Done()
		return nil, why
	})
}

// wantAlive fails the test if the machine has ended, or is being ended.
func (h *host) wantAlive() {
	h.t.Helper()
	if err := errors.Join(h.Err(), h.client.Alive()); err != nil {
		h.t.Errorf("the machine was ended: %v", err)
	}
}

// launch starts a machine that nobody is connected to. It is stopped with the test, and
// nothing of it may be left.
func launch(t *testing.T, driver *fake.Driver) *host {
	t.Helper()
	itself.NothingLeft(t)
	machine, err := driver.Start(t.Context(), vm.Config{Console: vm.NewConsole(func(string) {})})
	if err != nil {
		t.Fatal(err)
	}
	h := &host{Machine: machine, t: t, agent: machine.(*fake.Machine).Agent}
	t.Cleanup(func() {
		if err := machine.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return h
}

// boot starts a machine and connects to its agent.
func boot(t *testing.T) *host {
	t.Helper()
	h := launch(t, &fake.Driver{})
	var err error
	if h.client, err = guest.Connect(t.Context(), h, budgets); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { h.client.Close() })
	return h
}

// stdio is the header of a stream that the agent accepts. It takes what is written.
func stdio(id string) *api.StreamHeader {
	return &api.StreamHeader{Purpose: &api.StreamHeader_Stdio{
		Stdio: &api.StdioStream{Id: id, Direction: api.StdioStream_OUTPUT},
	}}
}

// peak is by how much the memory in use grows at most while f runs.
func peak(f func()) int64 {
	before := itself.Memory()
	var highest int64
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for {
			highest = max(highest, itself.Memory()-before)
			select {
			case <-stop:
				return
			case <-time.After(10 * time.Millisecond):
			}
		}
	}()
	f()
	close(stop)
	<-stopped
	return highest
}
