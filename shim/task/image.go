package task

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/image"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/share"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
)

// attachRoot gives the VM the container's root file system: a share, or images of which the
// guest makes it.
func (c *container) attachRoot(ctx context.Context, p *sandbox.Prepared, rootfs []mount.Mount) error {
	plan, err := image.Plan(rootfs)
	if err != nil {
		return err
	}
	if plan != nil && plan.InGuest() && p.MountsImages() {
		return c.attachImages(p, plan)
	}
	root, err := c.addRoot(p, plan, rootfs)
	if err != nil {
		return err
	}
	c.attached.root = &root
	tellWithheld(ctx, "/", root)
	return nil
}

// addRoot shares a root file system that is mounted on the host.
func (c *container) addRoot(p *sandbox.Prepared, plan *image.Root, rootfs []mount.Mount) (share.Share, error) {
	switch {
	case plan != nil:
		return p.Trees.AddAssembled(plan)
	case len(rootfs) == 0: // the client prepared it: runtime-spec, root.path
		return p.Trees.AddPreparedRootfs(c.plan.Rootfs)
	}
	return p.Trees.AddRootfs(rootfs)
}

// attachImages stages the images of a root file system and describes it to the agent.
func (c *container) attachImages(p *sandbox.Prepared, plan *image.Root) error {
	root := &api.ImageRoot{ReadOnly: plan.ReadOnly}
	for _, i := range plan.Images {
		staged, err := c.attachImage(p, i, !i.ReadOnly)
		if err != nil {
			return err
		}
		root.Images = append(root.Images, staged)
	}
	for _, dir := range plan.Make {
		root.Make = append(root.Make, &api.NewDirectory{Directory: directory(dir.Dir), Mode: dir.Mode, Uid: dir.UID, Gid: dir.GID})
	}
	if plan.Overlay == nil {
		root.Directory = directory(plan.Dir)
	} else {
		root.Overlay = overlay(plan.Overlay)
	}
	c.attached.assembled = root
	return nil
}

// attachVolumes stages the images that the container mounts. Containers of a pod that mount one
// have one file system, as they would on one host.
func (c *container) attachVolumes(p *sandbox.Prepared) error {
	for _, volume := range c.plan.Volumes {
		if p.Network().Host {
			return withHostNetwork("mount "+volume.Destination, "cannot mount images", ", or mount a directory")
		}
		staged, err := c.attachImage(p, volume.Image, false)
		if err != nil {
			return fmt.Errorf("mount %s: %w", volume.Destination, err)
		}
		c.attached.volumes = append(c.attached.volumes, staged)
	}
	return nil
}

// attachDevices stages the host's block devices that the container is given.
func (c *container) attachDevices(p *sandbox.Prepared) error {
	for _, block := range c.plan.BlockDevices {
		if p.Network().Host {
			return withHostNetwork("device "+block.Path, "has no block devices of the host", "")
		}
		staged, err := c.stageDevice(p, block)
		if err != nil {
			return err
		}
		c.attached.devices = append(c.attached.devices, staged)
	}
	return nil
}

// withHostNetwork refuses what a VM that has the host's network cannot, with another remedy if
// there is one.
func withHostNetwork(what, cannot, remedy string) error {
	return fmt.Errorf("%s: a VM that has the host's network %s, because its kernel is another: give the container a network of its own%s: %w", what, cannot, remedy, errdefs.ErrInvalidArgument)
}

// stageDevice stages one block device. What was staged is in c, also after an error.
func (c *container) stageDevice(p *sandbox.Prepared, block spec.BlockDevice) (*api.BlockDevice, error) {
	device, err := share.OpenDevice(block.Path, block.Major, block.Minor, block.ReadOnly)
	if err != nil {
		return nil, err
	}
	defer device.Close()
	staged, err := p.Trees.AddDevice(device)
	if err != nil {
		return nil, err
	}
	c.attached.images = append(c.attached.images, staged)
	file := &api.FileMount{Tag: staged.Tag, Name: []byte(staged.Name), Destination: block.Path, ReadOnly: device.ReadOnly}
	return &api.BlockDevice{File: file, Number: staged.Number, BlockSize: device.BlockSize}, nil
}

// attachImage stages the files of an image and describes it to the agent. alone says that no
// other container has it.
func (c *container) attachImage(p *sandbox.Prepared, i image.Image, alone bool) (*api.Image, error) {
	staged := &api.Image{Type: i.Type}
	for _, device := range i.Devices {
		file, err := c.stageImage(p, device, share.Image{Type: i.Type, ReadOnly: true})
		if err != nil {
			return nil, err
		}
		staged.Devices = append(staged.Devices, file)
	}
	var err error
	if staged.Verity, err = verity(p, i); err != nil {
		return nil, err
	}
	staged.File, err = c.stageImage(p, i.Source, share.Image{Type: i.Type, ReadOnly: i.ReadOnly, Alone: alone, Mounted: mounted(staged)})
	return staged, err
}

// mounted is all, besides its file and type, that the mount of an image depends on.
func mounted(i *api.Image) string {
	text := fmt.Sprintf("%x %d", i.GetVerity().GetRootHash(), i.GetVerity().GetHashOffset())
	for _, device := range i.Devices {
		text += " " + device.Tag
	}
	return text
}

// verity is how an image is to be checked; nil if it is not.
func verity(p *sandbox.Prepared, i image.Image) (*api.Verity, error) {
	if i.Verity == "" {
		return nil, nil
	}
	source, err := p.OpenImage(i.Verity)
	if err != nil {
		return nil, err
	}
	defer source.Close()
	content, err := source.Content(image.MaxVerity)
	if err != nil {
		return nil, err
	}
	read, err := image.ReadVerity(content)
	if err != nil {
		return nil, fmt.Errorf("file %s: %w", i.Verity, err)
	}
	return &api.Verity{RootHash: read.RootHash, HashOffset: read.HashOffset}, nil
}

// stageImage stages one file. What was staged is in c, also after an error.
func (c *container) stageImage(p *sandbox.Prepared, path string, image share.Image) (*api.FileMount, error) {
	source, err := p.OpenImage(path)
	if err != nil {
		return nil, err
	}
	defer source.Close()
	staged, err := p.Trees.AddImage(source, image)
	if err != nil {
		return nil, err
	}
	c.attached.images = append(c.attached.images, staged)
	return &api.FileMount{Tag: staged.Tag, Name: []byte(staged.Name), Destination: path, ReadOnly: image.ReadOnly}, nil
}

func overlay(o *image.Overlay) *api.Overlay {
	described := &api.Overlay{Options: o.Options}
	for _, dir := range o.Lower {
		described.Lower = append(described.Lower, directory(dir))
	}
	if o.Upper != nil {
		described.Upper, described.Work = directory(*o.Upper), directory(*o.Work)
	}
	return described
}

func directory(dir image.Dir) *api.Directory {
	return &api.Directory{Image: uint32(dir.Image), Path: []byte(dir.Path)}
}
