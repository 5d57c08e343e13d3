package shell

import (
	"context"
	"errors"
	"io"
	"net"

	"github.com/containerd/log"
	"github.com/containerd/ttrpc"

	guestapi "github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/shell/api"
)

// A terminal is what a program is to have, and how large it is meanwhile. nil is none.
type terminal struct {
	*guestapi.Terminal
	sizes chan *guestapi.WindowSize // the last one, which the guest has not been told
}

// RunInTerminal implements the Shell service. It receives api.TerminalRequest and sends one
// api.RunResponse.
func (s *Service) RunInTerminal(ctx context.Context, stream ttrpc.StreamServer) error {
	var first api.TerminalRequest
	if err := stream.RecvMsg(&first); err != nil {
		return err
	}
	t := &terminal{&guestapi.Terminal{Term: first.GetTerm(), Size: sizeOf(&first)}, make(chan *guestapi.WindowSize, 1)}
	if err := guestapi.CheckTerminal(t.Terminal); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		if err := t.receive(stream); !errors.Is(err, io.EOF) {
			cancel(err)
		}
	}()
	answer, err := s.serve(ctx, first.GetRun(), t)
	if err != nil {
		return err
	}
	return stream.SendMsg(answer)
}

// receive takes sizes from the caller, until it sends no more: io.EOF, or why. A guest that takes none has the last
// one wait, and not the caller.
func (t *terminal) receive(stream ttrpc.StreamServer) error {
	for {
		var next api.TerminalRequest
		if err := stream.RecvMsg(&next); err != nil {
			return err
		}
		size := sizeOf(&next)
		if err := guestapi.CheckWindow(size); err != nil {
			return err
		}
		select {
		case <-t.sizes:
		default:
		}
		t.sizes <- size // nobody else sends
	}
}

// forward tells the guest sizes until ctx ends or the stream does.
func (t *terminal) forward(ctx context.Context, conn net.Conn) {
	for {
		select {
		case size := <-t.sizes:
			if err := guestapi.SendWindow(conn, size); err != nil {
				log.G(ctx).WithError(err).Debug("telling the guest the size of a terminal")
				return
			}
		case <-ctx.Done():
			return
		}
	}
}

func sizeOf(r *api.TerminalRequest) *guestapi.WindowSize {
	return &guestapi.WindowSize{Rows: r.GetRows(), Columns: r.GetColumns()}
}
