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

// attachments are what a container has of the host in its VM.
type attachments struct {
	root      *share.Share       // the root file system; nil when it is none of the host's
	assembled *api.ImageRoot     // the one that the guest makes of images; nil when it has a share
	volumes   []*api.Image       // for each of the plan's volumes
	devices   []*api.BlockDevice // for each of the plan's block devices
	images    []share.Share      // all that were staged for these
	binds     []attachment       // for each of the plan's binds
	sockets   *socket.Directories
	joined    namespaces // of others in its VM
	released  bool       // what is left in binds and images is this container's alone
}

// attachment is what a container has for one bind: a share, or a socket.
type attachment struct {
	share  share.Share
	socket *socket.Socket
}

// place is where crun takes it from in the guest.
func (a attachment) place(container string) string {
	switch {
	case a.socket != nil:
		return api.FilePath(container, a.socket.Tag)
	case a.share.IsFile:
		return api.FilePath(container, a.share.Tag)
	}
	return api.SharePath(a.share.Tag)
}

func (a attachment) detach(p *sandbox.Prepared) error {
	if a.socket != nil {
		return p.Sockets.Remove(a.socket.Tag)
	}
	return p.Trees.Remove(a.share)
}

// attach gives the VM the container's root file system and what it mounts. What was
// attached is in c, also after an error.
func (c *container) attach(ctx context.Context, p *sandbox.Prepared, rootfs []mount.Mount) (err error) {
	ctx, phase := trace.Begin(ctx, "share")
	defer phase.End(&err)
	c.identities = socket.NewIdentities(c.plan.Users(), c.plan.Identity())
	if err := c.attachRoot(ctx, p, rootfs); err != nil {
		return err
	}
	if err := c.attachVolumes(p); err != nil {
		return err
	}
	if err := c.attachDevices(p); err != nil {
		return err
	}
	for _, bind := range c.plan.Binds {
		if err := ctx.Err(); err != nil {
			return context.Cause(ctx)
		}
		a, err := c.attachBind(ctx, p, bind)
		if err != nil {
			return fmt.Errorf("mount %s: %w", bind.Destination, err)
		}
		c.attached.binds = append(c.attached.binds, a)
		tellWithheld(ctx, bind.Destination, a.share)
	}
	return c.lookForSockets(ctx, p)
}

// tellWithheld warns of what a mount is without.
func tellWithheld(ctx context.Context, destination string, shared share.Share) {
	if len(shared.Withheld) > 0 {
		log.G(ctx).Warnf("mount %s: file systems of the host's kernel are not shared with a microVM and are left out: %s", destination, spec.Enumerate(shared.Withheld))
	}
}

// maxResolvConf is how many bytes of a resolv.conf are read.
const maxResolvConf = 64 << 10

func (c *container) attachBind(ctx context.Context, p *sandbox.Prepared, bind spec.Bind) (a attachment, err error) {
	source, err := p.OpenSource(bind.Source)
	if err != nil {
		return attachment{}, err
	}
	defer source.Close()
	if bind.Destination == spec.ResolvConf {
		addResolvers(ctx, p, source)
	}
	switch {
	case source.IsDir() && bind.Files.Asked != "":
		return attachment{}, fmt.Errorf("option %s is for files and %s is a directory: leave it out: %w", bind.Files.Asked, bind.Source, errdefs.ErrInvalidArgument)
	case !source.IsDir() && len(bind.Hide) > 0:
		return attachment{}, fmt.Errorf("option x-msb.hide is for directories and %s is none: leave it out: %w", bind.Source, errdefs.ErrInvalidArgument)
	case !source.IsDir() && bind.Files.AskedOfDir != "":
		return attachment{}, fmt.Errorf("option %s is for directories and %s is none: leave it out: %w", bind.Files.AskedOfDir, bind.Source, errdefs.ErrInvalidArgument)
	case bind.Socket && !source.IsSocket():
		return attachment{}, fmt.Errorf("source %s is not a socket, and a mount of type uds is one of a socket: use the type bind: %w", bind.Source, errdefs.ErrInvalidArgument)
	case source.IsSocket():
		a.socket, err = p.Sockets.Add(source, bind.Files.Follow, c.identities)
	default:
		a.share, err = p.Trees.Add(source, attributesOf(bind))
	}
	return a, err
}

// addResolvers is not worth failing for: a file server may keep the file from root, and let
// the container's user read it.
func addResolvers(ctx context.Context, p *sandbox.Prepared, source *share.Source) {
	content, err := source.Content(maxResolvConf)
	if err != nil {
		log.G(ctx).WithError(err).Warnf("%s cannot be read: resolvers that it names on loopback addresses do not answer in the VM", source.Path())
		return
	}
	p.Sockets.Resolvers.Add(content)
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
		Hidden: share.Hide(bind.Hide, bind.HideAny),
	}
}

// release drops the container's references to shares that others in its VM use too, and
// leaves those that are to be taken away with it.
func (a *attachments) release(p *sandbox.Prepared) {
	if a.released {
		return
	}
	a.released = true
	a.binds = slices.DeleteFunc(a.binds, func(b attachment) bool { return b.socket == nil && !p.Trees.Release(b.share) })
	a.images = slices.DeleteFunc(a.images, func(image share.Share) bool { return !p.Trees.Release(image) })
}

// closeSockets ends the forwarding of sockets in directories, and looks for no others.
func (a *attachments) closeSockets() error {
	if a.sockets == nil {
		return nil
	}
	defer func() { a.sockets = nil }()
	return a.sockets.Close()
}

// detach takes away what a container has of the host; the guest has let go of it. With the
// place of its VM it has gone already.
func (c *container) detach(p *sandbox.Prepared) (err error) {
	c.endPlaceholder()
	if p == nil {
		return nil
	}
	a := &c.attached
	a.release(p)
	err = a.closeSockets()
	for i := len(a.binds) - 1; i >= 0; i-- {
		err = errors.Join(err, a.binds[i].detach(p))
	}
	a.binds = nil
	for _, image := range a.images {
		err = errors.Join(err, p.Trees.Remove(image))
	}
	a.images = nil
	if a.root != nil {
		err = errors.Join(err, p.Trees.Remove(*a.root))
		a.root = nil
	}
	return err
}

// bundleRequest is the container as the agent is to prepare it, with places of its
// pod.
func (c *container) bundleRequest(p *sandbox.Prepared, places spec.Places) (*api.CreateBundleRequest, error) {
	a := &c.attached
	request := &api.CreateBundleRequest{Container: c.id, Root: a.assembled, Volumes: a.volumes, Devices: a.devices}
	places.Rootfs, places.Cgroup, places.Users = a.rootPlace(c.id), filepath.Join("/", c.id), api.UsersPath()
	places.Network = networkPlace(p.Network(), c.plan.Network())
	for _, volume := range a.volumes {
		places.Volumes = append(places.Volumes, api.ImagePath(volume.File.Tag))
	}
	for _, device := range a.devices {
		places.BlockDevices = append(places.BlockDevices, device.Number)
	}
	places.Binds = make([]string, len(a.binds))
	for i, attached := range a.binds {
		bind := c.plan.Binds[i]
		places.Binds[i] = attached.place(c.id)
		switch {
		case attached.socket != nil:
			uid, gid := bind.IDMap.Owner(attached.socket.UID, attached.socket.GID)
			request.Sockets = append(request.Sockets, &api.SocketMount{
				Tag: attached.socket.Tag, Destination: bind.Destination, Mode: attached.socket.Mode, Uid: uid, Gid: gid,
			})
		case attached.share.IsFile:
			request.Files = append(request.Files, &api.FileMount{
				Tag: attached.share.Tag, Name: []byte(attached.share.Name), Destination: bind.Destination, ReadOnly: bind.ReadOnly,
			})
		default:
			paths, err := submounts(p, attached.share, bind)
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

// rootPlace is where crun takes a container's root file system from in the guest.
func (a *attachments) rootPlace(container string) string {
	if a.assembled != nil {
		return api.RootPath(container)
	}
	return api.SharePath(a.root.Tag)
}

// networkPlace is where a container's network namespace is in the guest of a VM that has a
// network; empty is a new one. The host's network, which the agent has, is a container's only
// if it asks for it.
func networkPlace(has, want spec.Network) string {
	switch {
	case !has.Host:
		return api.NetworkPath()
	case want.IsNew():
		return ""
	}
	return api.AgentNetworkPath()
}

// submounts are the paths in the pool of a shared directory's mount and, where only that
// one is to be read-only, of those below it.
func submounts(p *sandbox.Prepared, shared share.Share, bind spec.Bind) ([][]byte, error) {
	paths := [][]byte{[]byte(shared.Tag)}
	if !bind.ReadOnly || !bind.Recursive || bind.RecursiveReadOnly {
		return paths, nil
	}
	below, err := p.Trees.Submounts(shared)
	for _, path := range below {
		paths = append(paths, []byte(path))
	}
	return paths, err
}

// removeBundle lets the guest write everything back and let go of the shares. What fails is
// told in the log: there is nothing that the client could do about it. A guest that takes
// longer than ctx allows loses its VM.
func (c *container) removeBundle(ctx context.Context, sb *sandbox.Sandbox) {
	c.attached.release(sb.Prepared)
	if err := c.attached.closeSockets(); err != nil {
		log.G(ctx).WithError(err).WithField("id", c.id).Error("taking back sockets of the host")
	}
	request := &api.RemoveBundleRequest{Container: c.id}
	if c.attached.root != nil {
		request.Shares = append(request.Shares, c.attached.root.Tag)
	}
	for _, a := range c.attached.binds {
		if a.socket == nil && !a.share.IsFile {
			request.Shares = append(request.Shares, a.share.Tag)
		}
	}
	for _, image := range c.attached.images {
		request.Images = append(request.Images, image.Tag)
	}
	response, err := sb.Guest.RemoveBundle(ctx, request)
	switch {
	case err == nil:
		log.G(ctx).WithField("bytes", response.AgentResident).Debug("trace: the agent's resident memory")
	case ctx.Err() != nil:
		sb.End(fmt.Errorf("the guest did not let go of what container %s had of the host in time: %w", c.id, errdefs.ErrUnavailable))
	case sb.Running():
		log.G(ctx).WithError(err).WithField("id", c.id).Error("some of what the container wrote may be lost")
	}
}
