package guest_test

import (
	"context"
	"io"
	"net"
	"sync"
	"testing"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/guest"
	"github.com/msb-runtime/containerd-shim-msb/test/itself"
)

// A pipe is a machine whose agent is the test: it accepts one stream, reads of it no more
// than it likes, and what it writes is what the host gets.
type pipe struct {
	io.ReadWriteCloser // the agent's end of the control stream
	client             *guest.Client

	near    net.Conn
	refusal error // Dial's
	done    chan struct{}
	once    sync.Once
	why     error // readable after done
}

var _ guest.Machine = (*pipe)(nil)

// connect makes such a machine and a client of it. It ends with the test.
func connect(t *testing.T) *pipe {
	t.Helper()
	itself.NothingLeft(t)
	near, far := net.Pipe()
	p := &pipe{ReadWriteCloser: far, near: near, done: make(chan struct{})}
	t.Cleanup(func() { p.End(nil) })
	accepted := make(chan error, 1)
	go func() {
		_, err := api.AcceptStream(far)
		if err == nil {
			err = api.ReplyStream(far, nil)
		}
		accepted <- err
	}()
	var err error
	if p.client, err = guest.Connect(t.Context(), p, budgets); err != nil {
		t.Fatal(err)
	}
	if err := <-accepted; err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { p.client.Close() })
	return p
}

// Dial implements guest.Machine.
func (p *pipe) Dial(context.Context) (net.Conn, error) { return p.near, p.refusal }

// Done implements guest.Machine.
func (p *pipe) Done() <-chan struct{} { return p.done }

// End implements guest.Machine.
func (p *pipe) End(reason error) {
	p.once.Do(func() {
		p.why = reason
		close(p.done)
		p.Close()
	})
}

// Err implements guest.Machine.
func (p *pipe) Err() error {
	select {
	case <-p.done:
		return p.why
	default:
		return nil
	}
}
