package task

import (
	"context"
	"fmt"

	"github.com/containerd/containerd/v2/core/mount"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/image"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/share"
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
		staged := &api.Image{Type: i.Type}
		for _, device := range i.Devices {
			file, err := c.stageImage(p, device, i.Type, "", true)
			if err != nil {
				return err
			}
			staged.Devices = append(staged.Devices, file)
		}
		var err error
		if staged.Verity, err = verity(p, i); err != nil {
			return err
		}
		if staged.File, err = c.stageImage(p, i.Source, i.Type, mounted(staged), i.ReadOnly); err != nil {
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
func (c *container) stageImage(p *sandbox.Prepared, path, kind, mounted string, readOnly bool) (*api.FileMount, error) {
	source, err := p.OpenImage(path)
	if err != nil {
		return nil, err
	}
	defer source.Close()
	staged, err := p.Trees.AddImage(source, kind, mounted, readOnly)
	if err != nil {
		return nil, err
	}
	c.attached.images = append(c.attached.images, staged)
	return &api.FileMount{Tag: staged.Tag, Name: []byte(staged.Name), Destination: path, ReadOnly: readOnly}, nil
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
