package task

import (
	"context"
	"fmt"
	"net"

	"github.com/containerd/errdefs"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
)

// OpenTransfer implements transfer.Guest. A container has its file system from its creation
// to its deletion, whether it runs, is paused or has ended.
func (s *Service) OpenTransfer(ctx context.Context, header *api.TransferStream) (net.Conn, context.Context, error) {
	c, sb, err := s.running(header.Container)
	if err != nil {
		return nil, nil, err
	}
	if err := context.Cause(c.life); err != nil {
		return nil, nil, err
	}
	stream, err := sb.Guest.Dial(ctx, &api.StreamHeader{Purpose: &api.StreamHeader_Transfer{Transfer: header}})
	return stream, c.life, err
}

// errDeleted is why a container's life has ended.
func (c *container) errDeleted() error {
	return fmt.Errorf("task %s is being deleted: %w", c.id, errdefs.ErrNotFound)
}
