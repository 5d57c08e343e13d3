// Package image mounts images, which are staged files that hold a file system each: volumes of
// containers, and what root file systems are made of. It also makes the devices of block devices
// of the host's, which are staged as files, too.
//
// As of a mounted file, nothing of the files tree is in sight any longer than it takes to mount
// what is wanted: an image holds its file open, and no path leads there.
package image

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/guest/bundle"
	"github.com/msb-runtime/containerd-shim-msb/internal/beneath"
	"github.com/msb-runtime/containerd-shim-msb/internal/unmount"
)

// Images are those that are mounted in the guest, each once, whatever containers have it. The
// zero value is ready for use, and its methods may be called concurrently.
type Images struct {
	mu    sync.Mutex        // who mounts an image, or the files tree
	loops map[string]uint32 // of block devices, by the tags of their files; guarded by mu
}

// Prepare mounts the images of a container that are not mounted yet, its root file system's and
// volumes, makes the root, unless it is none of images, and attaches block devices. After an error
// only what others have is left.
func (i *Images) Prepare(request *api.CreateBundleRequest) (err error) {
	if err := api.CheckName("container id", request.Container); err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	made, err := mountImages(slices.Concat(request.Root.GetImages(), request.Volumes))
	defer func() {
		if err != nil {
			err = errors.Join(err, i.release(request.Container, made))
		}
	}()
	if err != nil {
		return err
	}
	attached, err := i.attachDevices(request.Devices)
	made = append(made, attached...)
	if err != nil || request.Root == nil {
		return err
	}
	a := assembly{images: request.Root.Images}
	for _, dir := range request.Root.Make {
		if err := a.make(dir); err != nil {
			return err
		}
	}
	return a.mountRoot(api.RootPath(request.Container), request.Root)
}

// Release takes the root file system of a container away, and the images and block devices of
// these tags. Without an error all that was written to them is on the host. What is not there is
// no error.
func (i *Images) Release(container string, tags []string) error {
	if err := api.CheckName("container id", container); err != nil {
		return err
	}
	i.mu.Lock()
	defer i.mu.Unlock()
	errs := []error{i.release(container, tags)}
	if len(tags) > 0 {
		errs = append(errs, forget())
	}
	return errors.Join(errs...)
}

func (i *Images) release(container string, tags []string) error {
	root := api.RootPath(container)
	errs := []error{unmount.Path(root), remove(root)}
	for _, tag := range tags {
		if err := api.CheckName("tag", tag); err != nil {
			errs = append(errs, err)
			continue
		}
		place := api.ImagePath(tag)
		errs = append(errs, bundle.SyncAndUnmount("image", tag, place), remove(place), unguard(tag), i.detach(tag))
	}
	return errors.Join(errs...)
}

func remove(dir string) error {
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// forget drops the idle directory entries of the files tree, which keep its files busy on the
// host as long as another image is mounted from it.
func forget() error {
	stage := api.ImageStagePath()
	return bundle.WithFiles(stage, func() error {
		if err := unix.Mount("", stage, "", unix.MS_REMOUNT, ""); err != nil {
			return &os.PathError{Op: "remount", Path: stage, Err: err}
		}
		return nil
	})
}

// mountImages mounts those that are not there, and tells which those are, also with an error.
func mountImages(images []*api.Image) (made []string, err error) {
	stage := api.ImageStagePath()
	missing, err := missing(images)
	if err != nil {
		return nil, err
	}
	if len(missing) == 0 {
		return nil, nil
	}
	if err := os.MkdirAll(filepath.Dir(api.ImagePath("any")), 0o711); err != nil {
		return nil, err
	}
	err = bundle.WithFiles(stage, func() error {
		for _, image := range missing {
			made = append(made, image.File.Tag)
			if err := mountImage(stage, image); err != nil {
				return fmt.Errorf("image %s cannot be mounted: %w", image.File.Destination, err)
			}
		}
		return nil
	})
	return made, err
}

// missing are those that are not mounted, each once.
func missing(images []*api.Image) (missing []*api.Image, err error) {
	known := make(map[string]bool)
	for _, image := range images {
		tag := image.File.GetTag()
		if err := api.CheckName("tag", tag); err != nil {
			return nil, err
		}
		if known[tag] {
			continue
		}
		known[tag] = true
		if _, err := os.Stat(api.ImagePath(tag)); err != nil {
			missing = append(missing, image)
		}
	}
	return missing, nil
}

// mountImage mounts one. Linux takes erofs from a file, and ext4 from a loop device, which
// reads and writes past the page cache and goes with the mount.
func mountImage(stage string, image *api.Image) error {
	source, err := bundle.Staged(stage, image.File)
	if err != nil {
		return err
	}
	target := api.ImagePath(image.File.Tag)
	if err := os.Mkdir(target, 0o700); err != nil {
		return err
	}
	system := fileSystem{kind: image.Type, source: source, readOnly: image.File.ReadOnly}
	switch image.Type {
	case "erofs":
		files := []string{source}
		if image.Verity != nil {
			if system.source, err = guard(image.File.Tag, source, image.Verity); err != nil {
				return err
			}
		}
		for _, device := range image.Devices {
			path, err := bundle.Staged(stage, device)
			if err != nil {
				return err
			}
			files = append(files, path)
			system.options = append(system.options, "device="+path)
		}
		if image.Verity == nil {
			// Or the guest's page cache has what is read twice: of the file, and of what is in it.
			system.preferred = []string{"directio"}
		}
		if err := system.mount(target); err != nil {
			return err
		}
		return checkComplete(target, files)
	case "ext4":
		loop, err := mount.SetupLoop(source, mount.LoopParams{Readonly: image.File.ReadOnly, Autoclear: true, Direct: true})
		if err != nil {
			return err
		}
		defer loop.Close()
		system.source = loop.Name()
		// What the image says itself may be to end the machine, which others are in.
		system.options = []string{"errors=remount-ro"}
		return system.mount(target)
	}
	return fmt.Errorf("the guest mounts images of erofs and ext4, and this is of %q: %w", image.Type, errdefs.ErrNotImplemented)
}

// checkComplete refuses an image whose files are smaller than the file system in them says: it
// would fail where somebody reads what is missing.
func checkComplete(target string, files []string) error {
	var system unix.Statfs_t
	if err := unix.Statfs(target, &system); err != nil {
		return &os.PathError{Op: "statfs", Path: target, Err: err}
	}
	var have uint64
	for _, file := range files {
		info, err := os.Stat(file)
		if err != nil {
			return err
		}
		have += uint64(info.Size())
	}
	if want := system.Blocks * uint64(system.Bsize); have < want {
		return fmt.Errorf("it has %d bytes, and the file system in it %d: it was truncated, fetch the container's image again: %w", have, want, errdefs.ErrInvalidArgument)
	}
	return nil
}

// assembly makes a root file system of mounted images.
type assembly struct{ images []*api.Image }

// open opens a directory of an image.
func (a assembly) open(dir *api.Directory) (*os.File, error) {
	image, err := a.image(dir)
	if err != nil {
		return nil, err
	}
	opened, err := beneath.Open(api.ImagePath(image.File.Tag), string(dir.Path))
	if err != nil {
		return nil, fmt.Errorf("a directory of image %s: %w", image.File.Destination, err)
	}
	return opened, nil
}

// image is the one that a directory is of.
func (a assembly) image(dir *api.Directory) (*api.Image, error) {
	if int64(dir.GetImage()) >= int64(len(a.images)) {
		return nil, fmt.Errorf("a directory is of image %d, and there are %d: %w", dir.GetImage(), len(a.images), errdefs.ErrInvalidArgument)
	}
	return a.images[dir.GetImage()], nil
}

// make makes a directory of an image, unless it is there.
func (a assembly) make(dir *api.NewDirectory) error {
	image, err := a.image(dir.Directory)
	if err != nil {
		return err
	}
	err = beneath.Make(api.ImagePath(image.File.Tag), string(dir.Directory.Path), os.FileMode(dir.Mode), int(dir.Uid), int(dir.Gid))
	if err != nil {
		return fmt.Errorf("making a directory in image %s: %w", image.File.Destination, err)
	}
	return nil
}

// mountRoot mounts the root file system on target, which it makes.
func (a assembly) mountRoot(target string, root *api.ImageRoot) error {
	if err := os.MkdirAll(filepath.Dir(target), 0o711); err != nil {
		return err
	}
	if err := os.Mkdir(target, 0o700); err != nil {
		return err
	}
	if root.Overlay != nil {
		return a.mountOverlay(target, root.Overlay, root.ReadOnly)
	}
	dir, err := a.open(root.Directory)
	if err != nil {
		return err
	}
	defer dir.Close()
	if err := unix.Mount(beneath.Path(dir), target, "", unix.MS_BIND, ""); err != nil {
		return &os.PathError{Op: "bind", Path: target, Err: err}
	}
	if !root.ReadOnly {
		return nil
	}
	if err := unix.Mount("", target, "", unix.MS_BIND|unix.MS_REMOUNT|unix.MS_RDONLY, ""); err != nil {
		return &os.PathError{Op: "remount read-only", Path: target, Err: err}
	}
	return nil
}

func (a assembly) mountOverlay(target string, overlay *api.Overlay, readOnly bool) error {
	system := fileSystem{kind: "overlay", source: "overlay", options: overlay.Options, readOnly: readOnly}
	var opened []*os.File
	defer func() {
		for _, dir := range opened {
			dir.Close()
		}
	}()
	add := func(option string, dir *api.Directory) error {
		file, err := a.open(dir)
		if err != nil {
			return err
		}
		opened = append(opened, file)
		system.options = append(system.options, option+beneath.Path(file))
		return nil
	}
	for _, lower := range overlay.Lower {
		if err := add("lowerdir+=", lower); err != nil {
			return err
		}
	}
	if overlay.Upper != nil {
		if err := errors.Join(add("upperdir=", overlay.Upper), add("workdir=", overlay.Work)); err != nil {
			return err
		}
	}
	return system.mount(target)
}
