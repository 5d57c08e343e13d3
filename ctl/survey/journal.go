package survey

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/journal/api"
)

// A Batch is lines that a shim keeps, and before them how many it kept no longer.
type Batch struct {
	Lost  uint64
	Lines []Line
}

// A Line is one of a shim's log or of a guest's console. The text of both may be the guest's.
type Line struct {
	Time time.Time
	Text string
}

// errSilent is why a shim that has not answered in time is not waited for.
var errSilent = errors.New("no answer")

// elsewhere is where the lines are that a shim does not tell.
const elsewhere = "what it has logged until then is in containerd's log"

// Read calls each with the last lines of a sandbox's log or console, and with those that come if
// it follows: then it ends with ctx, or when the shim has ended, which it tells.
func (h Host) Read(ctx context.Context, s Sandbox, source api.Source, follow bool, each func(Batch) error) (ended bool, err error) {
	silent := fmt.Errorf("%w: %s", s.errHung(h.Patience), elsewhere)
	gone := fmt.Errorf("%w: %s", s.ErrLost(), elsewhere)
	switch s.State {
	case Hung:
		return false, silent
	case Lost:
		return false, gone
	}
	reading, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	late := time.AfterFunc(h.Patience, func() { cancel(errSilent) })
	defer late.Stop()
	q := make(queue, maxQueue)
	read := make(chan error, 1)
	go func() {
		defer close(q)
		read <- q.fill(reading, s.Address, &api.ReadRequest{Source: source, Follow: follow}, func() { late.Stop() })
	}()
	answered := false
	for batch := range q {
		answered = true
		if err := each(batch); err != nil {
			return false, err
		}
	}
	err = <-read
	switch {
	case ctx.Err() != nil:
		return false, nil
	case err == nil:
		return follow, nil
	case errors.Is(context.Cause(reading), errSilent), errors.Is(err, unix.EAGAIN): // more connections than it takes
		return false, silent
	case errdefs.IsNotImplemented(errgrpc.ToNative(err)):
		return false, fmt.Errorf("%w: %s", s.errOlder("keeps no lines"), elsewhere)
	case errors.Is(err, errUnreachable) && !answered:
		return false, gone
	case errors.Is(err, errUnreachable) && follow:
		return true, nil
	}
	return false, err
}

// A queue has the batches that were read and that nobody has taken yet. What takes them may wait
// for a terminal, and ttrpc's client gives up when what it receives is not taken for a second.
type queue chan Batch

// maxQueue is how many of them wait. Each has at most what a shim keeps.
const maxQueue = 64

// errUnreachable is that a shim's socket is not served, or no longer.
var errUnreachable = errors.New("the shim cannot be reached")

// fill puts what a shim answers into the queue, until that ends. What there is no room for is
// lost, and told with what comes after it.
func (q queue) fill(ctx context.Context, address string, request *api.ReadRequest, answered func()) error {
	client, err := connect(ctx, address)
	if err != nil {
		return fmt.Errorf("%w: %w", errUnreachable, err)
	}
	defer client.Close()
	var lost uint64
	stream, err := api.NewJournalClient(client).Read(ctx, request)
	for err == nil {
		var received *api.Batch
		if received, err = stream.Recv(); err != nil {
			break
		}
		answered()
		batch := batchOf(received)
		batch.Lost += lost
		select {
		case q <- batch:
			lost = 0
		default:
			lost = batch.Lost + uint64(len(batch.Lines))
		}
	}
	if lost > 0 {
		select {
		case q <- Batch{Lost: lost}:
		case <-ctx.Done():
		}
	}
	switch {
	case errors.Is(err, io.EOF):
		return nil
	case errors.Is(err, ttrpc.ErrClosed):
		return fmt.Errorf("%w: %w", errUnreachable, err)
	}
	return err
}

func batchOf(b *api.Batch) Batch {
	batch := Batch{Lost: b.GetLost()}
	for _, line := range b.GetLines() {
		batch.Lines = append(batch.Lines, Line{line.GetTime().AsTime(), string(line.GetText())})
	}
	return batch
}
