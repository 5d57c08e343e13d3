package task

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/share"
	"github.com/msb-runtime/containerd-shim-msb/shim/socket"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
	"github.com/msb-runtime/containerd-shim-msb/shim/trace"
)

// given is what a container has of the host for one of its plan's binds: a share,
// or a socket.
type given struct {
	share  share.Share
	socket *socket.Socket
}

// place is where runc takes it from in the guest.
func (g given) place(container string) string {
	switch {
	case g.socket != nil:
		return api.FilePath(container, g.socket.Tag)
	case g.share.IsFile:
		return api.FilePath(container, g.share.Tag)
	}
	return api.SharePath(g.share.Tag)
}

func (g given) takeBack(sb *sandbox.Sandbox) error {
	if g.socket != nil {
		return sb.Sockets.Remove(g.socket.Tag)
	}
	return sb.Trees.Remove(g.share)
}

// share gives the VM the container's root file system and what it mounts. What it
// gave is in c, also after an error.
func (s *Service) share(ctx context.Context, sb *sandbox.Sandbox, c *container, rootfs []mount.Mount) error {
	defer trace.Phase(ctx, "share")()
	if len(rootfs) == 0 {
		// The client prepared it (ctr run --rootfs): runtime-spec, root.path.
		rootfs = []mount.Mount{{Type: "bind", Source: c.plan.Rootfs, Options: []string{"rbind", "rw"}}}
	}
	root, err := sb.Trees.AddRootfs(rootfs)
	if err != nil {
		return err
	}
	c.root = &root
	for _, bind := range c.plan.Binds {
		g, err := give(sb, bind)
		if err != nil {
			return fmt.Errorf("mount %s: %w", bind.Destination, err)
		}
		c.given = append(c.given, g)
	}
	return nil
}

func give(sb *sandbox.Sandbox, bind spec.Bind) (g given, err error) {
	source, err := share.OpenSource(bind.Source)
	if err != nil {
		return given{}, err
	}
	defer source.Close()
	switch {
	case source.IsDir() && bind.Files.Asked != "":
		return given{}, fmt.Errorf("option %s is for files and %s is a directory: leave it out: %w", bind.Files.Asked, bind.Source, errdefs.ErrInvalidArgument)
	case source.IsSocket():
		g.socket, err = sb.Sockets.Add(source, bind.Files.Follow)
	default:
		g.share, err = sb.Trees.Add(source, attributesOf(bind))
	}
	return g, err
}

// attributesOf is what holds for a bind. Who can write a file could also set its
// metadata, so that is what is shielded.
func attributesOf(bind spec.Bind) share.Attributes {
	uids, gids := bind.IDMap.Options()
	return share.Attributes{
		IDMap:    share.IDMap{UIDs: uids, GIDs: gids, Recursive: bind.RecursiveIDMap},
		ReadOnly: bind.ReadOnly, RecursiveReadOnly: bind.RecursiveReadOnly,
		Recursive: bind.Recursive, Slave: bind.Slave,
		Shield: bind.Files.Follow || !bind.ReadOnly && !bind.Files.HostMetadata,
		Follow: bind.Files.Follow,
	}
}

// release leaves in the container's hands what nobody else in its VM uses.
func (c *container) release(sb *sandbox.Sandbox) {
	if c.released {
		return
	}
	c.released = true
	c.given = slices.DeleteFunc(c.given, func(g given) bool { return g.socket == nil && !sb.Trees.Release(g.share) })
}

// unshare takes back what a container was given; the guest has let go of it.
func (s *Service) unshare(sb *sandbox.Sandbox, c *container) (err error) {
	c.endAnchor()
	c.release(sb)
	for i := len(c.given) - 1; i >= 0; i-- {
		err = errors.Join(err, c.given[i].takeBack(sb))
	}
	c.given = nil
	if c.root != nil {
		err = errors.Join(err, sb.Trees.Remove(*c.root))
		c.root = nil
	}
	return err
}

// bundleRequest is the container as the agent is to prepare it, with places of its
// pod.
func (c *container) bundleRequest(sb *sandbox.Sandbox, places spec.Places) (*api.CreateBundleRequest, error) {
	request := &api.CreateBundleRequest{Container: c.id}
	places.Rootfs, places.Cgroup, places.Network = api.SharePath(c.root.Tag), filepath.Join("/", c.id), api.NetworkPath()
	places.Users = api.UsersPath()
	places.Joined, places.Binds = c.joined, make([]string, len(c.given))
	for i, g := range c.given {
		bind := c.plan.Binds[i]
		places.Binds[i] = g.place(c.id)
		switch {
		case g.socket != nil:
			uid, gid := bind.IDMap.Owner(g.socket.UID, g.socket.GID)
			request.Sockets = append(request.Sockets, &api.SocketMount{
				Tag: g.socket.Tag, Destination: bind.Destination, Mode: g.socket.Mode, Uid: uid, Gid: gid,
			})
		case g.share.IsFile:
			request.Files = append(request.Files, &api.FileMount{
				Tag: g.share.Tag, Name: []byte(g.share.Name), Destination: bind.Destination, ReadOnly: bind.ReadOnly,
			})
		default:
			paths, err := submounts(sb, g.share, bind)
			if err != nil {
				return nil, fmt.Errorf("mount %s: %w", bind.Destination, err)
			}
			request.Submounts = append(request.Submounts, paths...)
		}
	}
	var err error
	request.Spec, err = c.plan.Guest(places)
	return request, err
}

// submounts are the paths in the pool of a shared directory's mount and, where only that
// one is to be read-only, of those below it.
func submounts(sb *sandbox.Sandbox, shared share.Share, bind spec.Bind) ([][]byte, error) {
	paths := [][]byte{[]byte(shared.Tag)}
	if !bind.ReadOnly || !bind.Recursive || bind.RecursiveReadOnly {
		return paths, nil
	}
	below, err := sb.Trees.Submounts(shared)
	for _, path := range below {
		paths = append(paths, []byte(path))
	}
	return paths, err
}

// removeBundle lets the guest write everything back and let go of the shares.
func (s *Service) removeBundle(ctx context.Context, sb *sandbox.Sandbox, c *container) error {
	c.release(sb)
	request := &api.RemoveBundleRequest{Container: c.id}
	if c.root != nil {
		request.Shares = append(request.Shares, c.root.Tag)
	}
	for _, g := range c.given {
		if g.socket == nil && !g.share.IsFile {
			request.Shares = append(request.Shares, g.share.Tag)
		}
	}
	response, err := sb.Guest.RemoveBundle(ctx, request)
	if err != nil {
		if err = s.native(sb, err); !sb.Running() {
			return nil // what the guest had went with its VM
		}
		return err
	}
	log.G(ctx).WithField("bytes", response.AgentResident).Debug("trace: the agent's resident memory")
	return nil
}
