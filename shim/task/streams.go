package task

import (
	"context"

	"github.com/containerd/log"
)

// closeStdio ends a process's streams, first of all the client's ends. Once is enough.
func (c *container) closeStdio(ctx context.Context, p *process) {
	streams := p.streams.Swap(nil)
	if streams == nil {
		return
	}
	streams.Close()
	if sb, err := c.service.pod.Sandbox(); err == nil {
		if err := sb.Guest.CloseStdio(ctx, streams.IDs()); err != nil {
			log.G(ctx).WithError(err).Debug("closing stdio in the guest")
		}
	}
}
