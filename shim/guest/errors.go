package guest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"google.golang.org/grpc/status"

	"github.com/msb-runtime/containerd-shim-msb/vm"
)

// maxText is how much of an error's text is taken from the guest, in bytes: it goes to
// clients, and into containerd's log.
const maxText = 4 << 10

// native turns the error of a call into one of errdefs. If the VM has ended, or is being
// ended, it says why.
func (c *Client) native(err error) error {
	switch {
	case err == nil:
		return nil
	case c.machine.Err() != nil:
		c.awaitEnd(endWait)
		return c.gone()
	case broken(err):
		if c.awaitEnd(deathNotice) {
			return c.gone()
		}
		return fmt.Errorf("the agent's stream broke: %w (%w)", err, errdefs.ErrUnavailable)
	case errors.Is(err, context.DeadlineExceeded):
		if c.awaitEnd(deathNotice) {
			return c.gone()
		}
	}
	return cut(classified(err))
}

// broken tells whether an error is that of a connection that broke, or of a stream that was
// being opened. io.ErrClosedPipe is the end of a whole connection of vm/mux.
func broken(err error) bool {
	for _, end := range []error{ttrpc.ErrClosed, io.ErrClosedPipe, io.EOF, io.ErrUnexpectedEOF, syscall.ECONNRESET} {
		if errors.Is(err, end) {
			return true
		}
	}
	return false
}

// classified gives an error that the guest answered the class that its code stands for. It
// leaves the details of the status away: the guest could nest them thousands of levels deep,
// and the host would decode a copy of the rest at each. The host's own errors stay as they
// are.
func classified(err error) error {
	if s, ok := status.FromError(err); ok {
		return errgrpc.ToNative(status.Error(s.Code(), s.Message()))
	}
	return err
}

// awaitEnd tells whether the VM has ended, or ends within a while.
func (c *Client) awaitEnd(wait time.Duration) bool {
	select {
	case <-c.machine.Done():
		return true
	case <-time.After(wait):
		return false
	}
}

// cut bounds the text of an error and keeps its class.
func cut(err error) error {
	text := vm.Printable(err.Error(), maxText)
	if text == err.Error() {
		return err
	}
	return fmt.Errorf("%s: %w", text, errdefs.Resolve(err))
}
