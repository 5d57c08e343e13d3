package fake

import (
	"context"
	"net"

	"github.com/msb-runtime/containerd-shim-msb/vm/mux"
)

// A link carries the streams between host and guest over one connection, as with real
// machines.
type link struct {
	host, guest *mux.Session
	wire        *wire // under the guest's session
}

func newLink() *link {
	hostEnd, guestEnd := net.Pipe()
	wire := newWire(guestEnd, muxFrames)
	return &link{host: mux.Host(hostEnd), guest: mux.Guest(wire), wire: wire}
}

func (l *link) dial() (net.Conn, error) { return conn(l.host.Open()) }

func (l *link) accept(ctx context.Context) (net.Conn, error) {
	return conn(l.host.AcceptContext(ctx))
}

// conn is a stream as an interface, which is nil when there is none.
func conn(stream *mux.Stream, err error) (net.Conn, error) {
	if err != nil {
		return nil, err
	}
	return stream, nil
}

func (l *link) broken() <-chan struct{} { return l.host.Done() }
func (l *link) cause() error            { return l.host.Err() }

func (l *link) guestAccept() (net.Conn, error) { return l.guest.Accept() }
func (l *link) guestOpen() (net.Conn, error)   { return conn(l.guest.Open()) }

func (l *link) close() {
	l.wire.Close() // first: it may hold up the guest's session
	l.host.Close()
	l.guest.Close()
}
