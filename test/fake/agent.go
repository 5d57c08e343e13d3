package fake

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"github.com/sirupsen/logrus"
	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
)

// An Agent is the guest of a machine. Its methods may be called at any time and
// concurrently; before the guest has booted, those that need its connection wait for it.
type Agent struct {
	machine *Machine
	tasks   *tasks
	bundles *bundles
	stdio   *streams
	events  chan *api.Event
	cut     chan error // ends the stream of events

	mu         sync.Mutex
	behaviours map[string]Behaviour      // by full name; guarded by mu
	before     map[string][]*Gate        // guarded by mu
	after      map[string][]*Gate        // guarded by mu
	calls      []*Call                   // guarded by mu
	ports      map[uint32]func(net.Conn) // guarded by mu
	transfers  transfers
	shells     shells
	control    []*wire // under the control streams; guarded by mu
}

// eventQueue is how many events wait for the host, as many as with guest/agent.
const eventQueue = 1024

func newAgent(m *Machine) *Agent {
	a := &Agent{
		machine: m, bundles: newBundles(), stdio: newStreams(),
		events: make(chan *api.Event, eventQueue), cut: make(chan error, 1),
		behaviours: make(map[string]Behaviour),
		before:     make(map[string][]*Gate), after: make(map[string][]*Gate),
		ports: make(map[uint32]func(net.Conn)),
	}
	a.tasks = newTasks(a)
	return a
}

// life ends with the machine.
func (a *Agent) life() context.Context { return a.machine.life }

// begin serves the host's streams until the link is closed.
func (a *Agent) begin(link *link) {
	ctx := log.WithLogger(a.life(), quiet())
	rpc, err := a.server()
	if err != nil {
		a.machine.Die(err)
		return
	}
	control := &handover{conns: make(chan net.Conn), done: make(chan struct{})}
	go func() { _ = rpc.Serve(ctx, control) }()
	go func() {
		defer rpc.Close()
		for {
			conn, err := link.guestAccept()
			if err != nil {
				return
			}
			go a.accept(conn, control)
		}
	}()
}

// quiet is a logger for ttrpc's server: what a guest logs is not in the host's log.
func quiet() *log.Entry {
	logger := logrus.New()
	logger.SetOutput(io.Discard)
	return logrus.NewEntry(logger)
}

func (a *Agent) server() (*ttrpc.Server, error) {
	rpc, err := ttrpc.NewServer()
	if err != nil {
		return nil, err
	}
	rpc.RegisterService("containerd.task.v3.Task", a.taskService())
	rpc.RegisterService("msb.guest.v1.Guest", a.guestService())
	return rpc, nil
}

// accept answers the header of a stream and serves it. It owns conn.
func (a *Agent) accept(conn net.Conn, control *handover) {
	header, err := api.AcceptStream(conn)
	if err != nil {
		conn.Close()
		return
	}
	var serve func(net.Conn) // what the stream is for
	open := func(context.Context) (answer proto.Message, err error) {
		switch purpose := header.Purpose.(type) {
		case *api.StreamHeader_Control:
			serve = func(conn net.Conn) { a.serveControl(conn, control) }
		case *api.StreamHeader_Stdio:
			serve, err = a.stdio.add(purpose.Stdio, conn)
		case *api.StreamHeader_Port:
			serve, err = a.port(purpose.Port.Port)
		case *api.StreamHeader_Transfer:
			serve = func(conn net.Conn) { a.transfers.serve(conn, purpose.Transfer) }
		case *api.StreamHeader_Shell:
			serve = func(conn net.Conn) { a.shells.serve(conn, purpose.Shell) }
		case *api.StreamHeader_Clock:
			serve = func(conn net.Conn) { _, _ = io.Copy(io.Discard, conn) } // it never asks
		default:
			err = fmt.Errorf("a stream for %T: %w", purpose, errdefs.ErrNotImplemented)
		}
		return &api.StreamReply{}, err
	}
	reply, err := a.invoke(a.life(), streamName(header), header, open)
	switch {
	case err != nil:
		reply = &api.StreamReply{Error: err.Error()}
	case reply == nil:
		reply = raw(nil)
	}
	if _, writeErr := protodelim.MarshalTo(conn, reply); err != nil || writeErr != nil || serve == nil {
		conn.Close()
	}
	// What was opened ends by itself where the host has left meanwhile.
	if serve != nil {
		serve(conn)
	}
}

func streamName(header *api.StreamHeader) string {
	switch header.Purpose.(type) {
	case *api.StreamHeader_Stdio:
		return "Stream.Stdio"
	case *api.StreamHeader_Port:
		return "Stream.Port"
	case *api.StreamHeader_Transfer:
		return "Stream.Transfer"
	case *api.StreamHeader_Clock:
		return "Stream.Clock"
	case *api.StreamHeader_Shell:
		return "Stream.Shell"
	default:
		return "Stream.Control"
	}
}

func (a *Agent) serveControl(conn net.Conn, control *handover) {
	w := newWire(conn, ttrpcFrames)
	a.mu.Lock()
	a.control = append(a.control, w)
	a.mu.Unlock()
	select {
	case control.conns <- w:
	case <-a.life().Done():
		w.Close()
	}
}

// link waits for the connection to the host.
func (a *Agent) link() (*link, error) {
	if err := a.machine.awaitLink(a.life()); err != nil {
		return nil, err
	}
	return a.machine.link, nil
}

// handover is a net.Listener for connections that were accepted elsewhere.
type handover struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
}

// Accepted is a listener with one connection.
func Accepted(conn net.Conn) net.Listener {
	h := &handover{conns: make(chan net.Conn, 1), done: make(chan struct{})}
	h.conns <- conn
	return h
}

func (h *handover) Accept() (net.Conn, error) {
	select {
	case conn := <-h.conns:
		return conn, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

func (h *handover) Addr() net.Addr { return &net.UnixAddr{Name: "fake", Net: "unix"} }

func (h *handover) Close() error {
	h.once.Do(func() { close(h.done) })
	return nil
}

// On has a call answered by a behaviour from now on; nil makes it the honest one again.
// The name is one of Names, or the part behind its dot if that is clear: "Kill" is
// "Task.Kill", and "Start" is "Task.Start", not "Guest.Start".
func (a *Agent) On(name string, b Behaviour) {
	name = resolve(name)
	a.mu.Lock()
	defer a.mu.Unlock()
	a.behaviours[name] = b
}

// Calls are the calls that arrived so far, in their order: all, or those of some names.
func (a *Agent) Calls(names ...string) []*Call {
	var wanted []string
	for _, name := range names {
		wanted = append(wanted, resolve(name))
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	calls := slices.Clone(a.calls)
	if len(wanted) == 0 {
		return calls
	}
	return slices.DeleteFunc(calls, func(c *Call) bool { return !slices.Contains(wanted, c.Name) })
}

// Requests are the requests of one type that arrived so far:
// fake.Requests[*api.SetNetworkRequest](agent).
func Requests[T proto.Message](a *Agent) []T {
	var requests []T
	for _, call := range a.Calls() {
		if request, ok := call.Request.(T); ok {
			requests = append(requests, request)
		}
	}
	return requests
}

// Left names what the guest still has: containers, execs, bundles, open standard
// streams. After the last Delete an honest host has left nothing.
func (a *Agent) Left() []string {
	return slices.Concat(a.tasks.left(), a.bundles.left(), a.stdio.left())
}

// OpenSocket is OpenSocketAs of root.
func (a *Agent) OpenSocket(tag string) (*net.UnixConn, error) {
	return a.OpenSocketAs(tag, &api.Peer{})
}

// OpenSocketAs opens a stream to the host for a mounted socket, as the agent does for each
// connection of a process that is peer, and returns the container's end of the connection.
// The caller closes it. An error is of the host's refusal, or that the machine has ended.
func (a *Agent) OpenSocketAs(tag string, peer *api.Peer) (*net.UnixConn, error) {
	link, err := a.link()
	if err != nil {
		return nil, err
	}
	stream, err := link.guestOpen()
	if err != nil {
		return nil, err
	}
	header := &api.StreamHeader{Purpose: &api.StreamHeader_Socket{Socket: &api.SocketStream{Tag: tag, Peer: peer}}}
	if err := api.OpenStream(stream, header); err != nil {
		stream.Close()
		return nil, err
	}
	near, far, err := socketpair()
	if err != nil {
		stream.Close()
		return nil, err
	}
	go a.join(far, stream)
	return near, nil
}

// ServePort lets the containers' network listen on a loopback port: serve is called with
// each connection that the host makes there, and owns it. nil listens no more.
func (a *Agent) ServePort(port uint32, serve func(net.Conn)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.ports[port] = serve
}

func (a *Agent) port(port uint32) (func(net.Conn), error) {
	a.mu.Lock()
	serve := a.ports[port]
	a.mu.Unlock()
	if serve == nil {
		return nil, fmt.Errorf("port %d: connection refused", port)
	}
	return func(stream net.Conn) {
		near, far, err := socketpair()
		if err != nil {
			stream.Close()
			return
		}
		go serve(near)
		a.join(far, stream)
	}, nil
}

// join copies between a connection of the guest and its stream, as guest/socket and
// guest/network do, and closes both. How the stream is framed is api.Join's business.
func (a *Agent) join(conn *net.UnixConn, stream net.Conn) {
	stop := context.AfterFunc(a.life(), func() { _ = errors.Join(conn.Close(), stream.Close()) })
	defer stop()
	defer stream.Close()
	defer conn.Close()
	api.Join(conn, stream)
}
