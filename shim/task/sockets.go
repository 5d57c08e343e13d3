package task

import (
	"context"
	"fmt"
	"time"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/socket"
)

// socketsPatience is how long a creation waits, when all else is done, for the sockets of the
// host in the container's directories. What is found later is there later.
const socketsPatience = 2 * time.Second

// lookForSockets begins to forward the sockets of the host in the directories that the
// container mounts. The look goes on beside the boot; the guest is told when it has created
// the container, and before it starts it.
func (c *container) lookForSockets(ctx context.Context, p *sandbox.Prepared) error {
	dirs, err := c.socketDirectories(p)
	if err != nil || len(dirs) == 0 {
		return err
	}
	c.attached.sockets = p.Sockets.Forward(context.WithoutCancel(ctx), dirs, c.identities, c.tellSockets)
	return nil
}

// socketDirectories opens the directories in which sockets are looked for. After an error
// none is open.
func (c *container) socketDirectories(p *sandbox.Prepared) (dirs []socket.Directory, err error) {
	for i, a := range c.attached.binds {
		bind := c.plan.Binds[i]
		if a.socket != nil || a.share.IsFile || bind.Files.NoSockets {
			continue
		}
		file, err := p.Trees.OpenDir(a.share)
		if err != nil {
			for _, dir := range dirs {
				dir.File.Close()
			}
			return nil, fmt.Errorf("mount %s: looking for sockets: %w", bind.Destination, err)
		}
		dirs = append(dirs, socket.Directory{Share: a.share.Tag, Destination: bind.Destination, File: file, OneMount: bind.Slave})
	}
	return dirs, nil
}

// tellSockets tells the guest of the sockets that are forwarded, as soon as it has created
// the container.
func (c *container) tellSockets(ctx context.Context, sockets []*api.DirectorySocket) error {
	select {
	case <-c.inGuest:
	case <-ctx.Done():
		return ctx.Err()
	}
	sb, err := c.service.pod.Sandbox()
	if err != nil {
		return nil // the VM has ended, and its containers with it
	}
	return sb.Guest.SetSockets(ctx, &api.SetSocketsRequest{Container: c.id, Sockets: sockets})
}

// awaitSockets is for a container that the guest has created.
func (c *container) awaitSockets(ctx context.Context) {
	close(c.inGuest)
	if c.attached.sockets != nil {
		bounded, cancel := context.WithTimeout(ctx, socketsPatience)
		defer cancel()
		c.attached.sockets.Await(bounded)
	}
}
