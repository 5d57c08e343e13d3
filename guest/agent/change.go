package agent

import (
	"io"
	"net"

	"github.com/containerd/ttrpc"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/vm/mux"
)

// A Change puts something of a test's between the agent and the host. The product's
// agent is run without any; test/hostile/agent is run with many.
type Change func(*change)

// change is all changes together. Those that are nil change nothing.
type change struct {
	wrapConnection func(io.ReadWriteCloser) io.ReadWriteCloser
	wrapControl    func(net.Conn) net.Conn
	wrapSend       func(SendEvent) SendEvent
	onOpen         func(*mux.Session)
	options        []ttrpc.ServerOpt
}

// SendEvent sends one event to the host.
type SendEvent func(*api.Event) error

// WrapConnection is for the one connection to the host, which carries all streams.
func WrapConnection(wrap func(io.ReadWriteCloser) io.ReadWriteCloser) Change {
	return func(c *change) { c.wrapConnection = wrap }
}

// WrapControl is for the stream that carries ttrpc.
func WrapControl(wrap func(net.Conn) net.Conn) Change {
	return func(c *change) { c.wrapControl = wrap }
}

// WrapCalls stands before each call of both services that has one answer.
func WrapCalls(wrap ttrpc.UnaryServerInterceptor) Change {
	return func(c *change) { c.options = append(c.options, ttrpc.WithUnaryServerInterceptor(wrap)) }
}

// WrapEvents is for how events are sent.
func WrapEvents(wrap func(SendEvent) SendEvent) Change {
	return func(c *change) { c.wrapSend = wrap }
}

// OnOpen is told the session, over which streams to the host can be opened.
func OnOpen(told func(*mux.Session)) Change {
	return func(c *change) { c.onOpen = told }
}

func (c change) connection(conn io.ReadWriteCloser) io.ReadWriteCloser {
	if c.wrapConnection == nil {
		return conn
	}
	return c.wrapConnection(conn)
}

func (c change) control(conn net.Conn) net.Conn {
	if c.wrapControl == nil {
		return conn
	}
	return c.wrapControl(conn)
}

func (c change) send(send SendEvent) SendEvent {
	if c.wrapSend == nil {
		return send
	}
	return c.wrapSend(send)
}

func (c change) opened(session *mux.Session) {
	if c.onOpen != nil {
		c.onOpen(session)
	}
}
