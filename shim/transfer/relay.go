package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/vm"
)

// maxText is how much of an error's text is taken from the guest, in bytes.
const maxText = 4 << 10

// toClient passes an archive of the guest's on.
func (r *relay) toClient(ctx context.Context) error {
	for {
		frame, err := r.receive()
		if err != nil {
			return err
		}
		if frame.Result != nil {
			return result(frame.Result)
		}
		if len(frame.Data) == 0 {
			return brokenOff(errEmpty)
		}
		if err := r.client.write(ctx, frame.Data); err != nil {
			return err
		}
		r.moved.Add(int64(len(frame.Data)))
	}
}

// errEmpty is that a guest sends frames with nothing in them, which take no time and have no end.
var errEmpty = errors.New("a frame with neither data nor a result")

// errEarly is that a guest tells of a result before it has the whole archive.
var errEarly = fmt.Errorf("the guest ended the transfer before the archive did: %w", errdefs.ErrAborted)

// toGuest passes an archive of the client's on, and waits for the result. The guest may tell
// it at any time: an archive may be one that it does not take.
func (r *relay) toGuest(ctx context.Context) error {
	feeding, early := context.WithCancel(ctx)
	defer early()
	told := make(chan error, 1)
	go func() {
		told <- r.result()
		early()
	}()
	fedErr := r.feed(feeding)
	if fedErr == nil {
		_ = r.guest.SetReadDeadline(time.Now().Add(Idle))
		return <-told
	}
	if feeding.Err() == nil && !errors.Is(fedErr, errClosed) {
		return fedErr // the client's
	}
	if err := <-told; err != nil {
		return err
	}
	return errEarly
}

// errClosed is that the guest takes no more of an archive. It may have said why.
var errClosed = errors.New("the guest has closed the stream")

// feed writes the client's archive to the guest.
func (r *relay) feed(ctx context.Context) error {
	for {
		data, err := r.client.read(ctx)
		if errors.Is(err, io.EOF) {
			api.CloseWrite(r.guest)
			return nil
		}
		if err != nil {
			return err
		}
		_ = r.guest.SetWriteDeadline(time.Now().Add(Idle))
		if _, err := r.guest.Write(data); errors.Is(err, os.ErrDeadlineExceeded) {
			return brokenOff(err)
		} else if err != nil {
			return errClosed
		}
		r.moved.Add(int64(len(data)))
	}
}

// result waits for the last frame of a guest that sends no archive.
func (r *relay) result() error {
	frame, err := api.ReceiveTransfer(r.guest)
	switch {
	case err != nil:
		return brokenOff(err)
	case frame.Result == nil:
		return fmt.Errorf("the guest sent an archive where it has to take one: %w", errdefs.ErrUnavailable)
	}
	return result(frame.Result)
}

// receive reads a frame of a guest that sends an archive.
func (r *relay) receive() (*api.TransferFrame, error) {
	_ = r.guest.SetReadDeadline(time.Now().Add(Idle))
	frame, err := api.ReceiveTransfer(r.guest)
	if err != nil {
		return nil, brokenOff(err)
	}
	return frame, nil
}

// brokenOff says how the guest ended a transfer without a result.
func brokenOff(err error) error {
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return fmt.Errorf("the guest did nothing for a transfer for %v: %w", Idle, context.DeadlineExceeded)
	}
	return fmt.Errorf("the guest broke the transfer off: %v: %w", err, errdefs.ErrUnavailable)
}

// result is the error that the guest tells: text and class are the guest's.
func result(told *api.TransferResult) error {
	if told.Code == 0 {
		return nil
	}
	return errgrpc.ToNative(status.Error(codes.Code(told.Code), vm.Printable(told.Error, maxText)))
}
