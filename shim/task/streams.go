package task

import (
	"context"
	"sync"

	"github.com/containerd/log"

	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/stdio"
)

// connect opens a process's streams in the guest, and meanwhile asks something else of it, which
// needs no more of them than their names. Both are over when it returns; besides is what became
// of the other. After an error the streams are closed.
func (p *process) connect(ctx context.Context, sb *sandbox.Sandbox, streams *stdio.Streams, ask func() error) (besides, err error) {
	asked := make(chan error, 1)
	go func() { asked <- ask() }()
	if err = streams.Connect(ctx, sb.Guest); err != nil {
		streams.Close()
	} else {
		p.streams.Store(streams)
	}
	return <-asked, err
}

// endStreams ends the client's ends of processes' streams, and returns what those streams are
// called in the guest. Once is enough. All end at the same time, because a guest that does not
// take the end of its streams holds each up for a moment.
func endStreams(processes ...*process) (ids []string) {
	var ending sync.WaitGroup
	for _, p := range processes {
		if streams := p.streams.Swap(nil); streams != nil {
			ids = append(ids, streams.IDs()...)
			ending.Go(streams.Close)
		}
	}
	ending.Wait()
	return ids
}

// closeStdio ends processes' streams, first of all the client's ends. Nobody waits for the
// guest, because nothing on the host depends on it; as with any call, one that does not answer
// loses its VM.
func (c *container) closeStdio(ctx context.Context, processes ...*process) {
	ids := endStreams(processes...)
	sb, err := c.service.pod.Sandbox()
	if err != nil || len(ids) == 0 {
		return
	}
	go func() {
		if err := sb.Guest.CloseStdio(context.WithoutCancel(ctx), ids); err != nil {
			log.G(ctx).WithError(err).Debug("closing stdio in the guest")
		}
	}()
}
