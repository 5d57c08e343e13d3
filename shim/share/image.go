package share

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/beneath"
	"github.com/msb-runtime/containerd-shim-msb/shim/image"
	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
)

// OpenImage opens a file that holds a file system, as containerd sees it, whose mount namespace
// is host. What is no regular file is refused: a link, too, which containerd does not follow
// either for a layer of its own.
func OpenImage(host mountns.Namespace, path string) (*Source, error) {
	file, err := host.OpenFile(path, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return nil, fmt.Errorf("image: %w", sourceError(path, err))
	}
	source := &Source{path: path, object: object{file, host}}
	info, err := file.Stat()
	if err == nil && !info.Mode().IsRegular() {
		err = fmt.Errorf("image %s is %s, and an image is a regular file: name one: %w", path, kindOf(info.Mode()), errdefs.ErrInvalidArgument)
	}
	if err == nil {
		err = source.check()
	}
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return source, nil
}

func kindOf(mode os.FileMode) string {
	if mode.IsDir() {
		return "a directory"
	}
	return cmp.Or(kindNames[mode.Type()], "a socket")
}

// An Image is how a file that holds a file system is mounted by the guest.
type Image struct {
	// Type is that of the file system.
	Type string
	// ReadOnly tells that nothing writes to the file.
	ReadOnly bool
	// Alone says that one container has it, such as what an overlay writes to.
	Alone bool
	// Mounted is all else that matters, such as what the image is checked by.
	Mounted string
}

// AddImage stages a file that holds a file system. It is staged once, however often it is added,
// for each way in which the guest mounts it, unless one container is to have it alone. A VM
// that writes to one has it alone on this host, and it keeps its size: the guest's kernel, which
// writes what it likes, gets no more of the disk. An ext4 image that is read must not change
// meanwhile, so nobody may have it to write. The source is OpenImage's; the caller owns it and
// closes it.
func (t *Trees) AddImage(source *Source, image Image) (Share, error) {
	add := func() (Share, error) { return t.stageImage(source, image.Type, image.ReadOnly) }
	if image.Alone {
		return add()
	}
	return t.users.add(source.object, Attributes{ReadOnly: image.ReadOnly}, image.Type+" "+image.Mounted, add)
}

func (t *Trees) stageImage(source *Source, kind string, readOnly bool) (Share, error) {
	if kind == image.EROFS {
		return t.addFile(source, Attributes{ReadOnly: true})
	}
	lock, err := source.lock(!readOnly)
	if err != nil {
		return Share{}, err
	}
	share, err := t.addFile(source, Attributes{ReadOnly: readOnly, Shield: !readOnly, Fixed: true})
	if err != nil {
		return Share{}, errors.Join(err, lock.Close())
	}
	t.locks.keep(share.Tag, lock)
	return share, nil
}

// lock locks a file until what it returns is closed, or this process ends (flock(2)).
func (s *Source) lock(exclusive bool) (*os.File, error) {
	file, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", s.file.Fd()))
	if err != nil {
		return nil, sourceError(s.path, err)
	}
	how := unix.LOCK_SH
	if exclusive {
		how = unix.LOCK_EX
	}
	if err := unix.Flock(int(file.Fd()), how|unix.LOCK_NB); err != nil {
		file.Close()
		if err == unix.EWOULDBLOCK {
			return nil, fmt.Errorf("image %s is in use by another container, and one that is written to has one user: give each container one of its own: %w", s.path, errdefs.ErrFailedPrecondition)
		}
		return nil, fmt.Errorf("locking image %s: %w", s.path, err)
	}
	return file, nil
}

// locks are those of images, by their shares' tags. The zero value has none.
type locks struct {
	mu    sync.Mutex
	files map[string]*os.File
}

func (l *locks) keep(tag string, file *os.File) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.files == nil {
		l.files = make(map[string]*os.File)
	}
	l.files[tag] = file
}

func (l *locks) release(tag string) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if file := l.files[tag]; file != nil {
		file.Close()
		delete(l.files, tag)
	}
}

func (l *locks) close() {
	l.mu.Lock()
	defer l.mu.Unlock()
	for tag, file := range l.files {
		file.Close()
		delete(l.files, tag)
	}
}

// AddAssembled makes a root file system of images on the host, out of the guest's sight, and
// shares the result. It is for what the guest cannot make: an overlay whose upper directory is
// on the host.
func (t *Trees) AddAssembled(root *image.Root) (Share, error) {
	assembled, err := t.inCopy(func() (string, error) { return t.assemble(root) })
	if err != nil {
		return Share{}, fmt.Errorf("making the root file system of images: %w", err)
	}
	defer assembled.Close()
	if err := t.restrict(assembled, Attributes{}); err != nil {
		return Share{}, err
	}
	return t.addTree(rootfsPrefix, assembled, Hidden{})
}

// assemble mounts the images of a root below the trees' directory, in a copy of containerd's
// mount namespace, where that is empty, and makes the root of them.
func (t *Trees) assemble(root *image.Root) (place string, err error) {
	if err := mountTmpfs(t.dir, unix.MS_PRIVATE); err != nil {
		return "", err
	}
	for i, image := range root.Images {
		if image.Verity != "" {
			return "", fmt.Errorf("image %s is to be checked by dm-verity, and msb has only guests do so: give writable layers a size (default_size of containerd's snapshotter), or let containerd mount images, by mount = \"host\" in the section images of msb's configuration: %w", image.Source, errdefs.ErrFailedPrecondition)
		}
		place := t.imagePlace(i)
		if err := os.Mkdir(place, 0o700); err != nil {
			return "", err
		}
		if err := mountImage(image, place); err != nil {
			return "", fmt.Errorf("image %s cannot be mounted: %w", image.Source, err)
		}
	}
	for _, dir := range root.Make {
		if err := beneath.Make(t.base(dir.Dir), below(dir.Dir), os.FileMode(dir.Mode), int(dir.UID), int(dir.GID)); err != nil {
			return "", fmt.Errorf("making a directory in an image: %w", err)
		}
	}
	var opened dirs
	defer opened.close()
	final, err := t.final(root, &opened)
	if err != nil {
		return "", err
	}
	if final, err = shorten(final); err != nil {
		return "", err
	}
	place = filepath.Join(t.dir, "root")
	if err := os.Mkdir(place, 0o700); err != nil {
		return "", err
	}
	return place, final.Mount(place)
}

func (t *Trees) imagePlace(i int) string { return filepath.Join(t.dir, fmt.Sprint(i)) }

// base and below are a directory's file system, as far as somebody else has made what is in
// it, and the path from there.
func (t *Trees) base(dir image.Dir) string {
	if dir.Image == image.OnHost {
		return filepath.Dir(dir.Path)
	}
	return t.imagePlace(dir.Image)
}

func below(dir image.Dir) string {
	if dir.Image == image.OnHost {
		return filepath.Base(dir.Path)
	}
	return dir.Path
}

// mountImage mounts one: Linux takes erofs from a file since 6.12, and anything from a loop
// device, which goes with the mount.
func mountImage(i image.Image, place string) error {
	m := mount.Mount{Type: i.Type, Source: i.Source}
	if i.ReadOnly {
		m.Options = append(m.Options, "ro")
	}
	loop := append(slices.Clone(m.Options), "loop")
	if i.Type != image.EROFS {
		m.Options = loop
		return m.Mount(place)
	}
	for _, device := range i.Devices {
		m.Options = append(m.Options, "device="+device)
	}
	err := m.Mount(place)
	if !errors.Is(err, unix.ENOTBLK) {
		return err
	}
	for _, device := range i.Devices {
		opened, err := mount.SetupLoop(device, mount.LoopParams{Readonly: true, Autoclear: true})
		if err != nil {
			return err
		}
		defer opened.Close()
		loop = append(loop, "device="+opened.Name())
	}
	m.Options = loop
	return m.Mount(place)
}

// dirs are opened directories of images.
type dirs []*os.File

func (d *dirs) close() {
	for _, dir := range *d {
		dir.Close()
	}
}

// path opens a directory, and leads to it.
func (d *dirs) path(t *Trees, dir image.Dir) (string, error) {
	if dir.Image == image.OnHost {
		return dir.Path, nil
	}
	if dir.Path == "" {
		return t.imagePlace(dir.Image), nil
	}
	opened, err := beneath.Open(t.imagePlace(dir.Image), dir.Path)
	if err != nil {
		return "", fmt.Errorf("a directory of image %d: %w", dir.Image, err)
	}
	*d = append(*d, opened)
	return beneath.Path(opened), nil
}

// final is the mount that makes the root of what is mounted.
func (t *Trees) final(root *image.Root, opened *dirs) (m mount.Mount, err error) {
	if root.Overlay == nil {
		m = mount.Mount{Type: "bind", Options: []string{"rbind"}}
		m.Source, err = opened.path(t, root.Dir)
	} else {
		m, err = t.overlay(root.Overlay, opened)
	}
	if root.ReadOnly {
		m.Options = append(m.Options, "ro")
	}
	return m, err
}

func (t *Trees) overlay(overlay *image.Overlay, opened *dirs) (mount.Mount, error) {
	m := mount.Mount{Type: "overlay", Source: "overlay", Options: slices.Clone(overlay.Options)}
	var lower []string
	for _, dir := range overlay.Lower {
		path, err := opened.path(t, dir)
		if err != nil {
			return m, err
		}
		lower = append(lower, path)
	}
	m.Options = append(m.Options, lowerOption+strings.Join(lower, ":"))
	if overlay.UIDs != "" {
		m.Options = append(m.Options, "uidmap="+overlay.UIDs, "gidmap="+overlay.GIDs)
	}
	if overlay.Upper == nil {
		return m, nil
	}
	upper, err := opened.path(t, *overlay.Upper)
	if err != nil {
		return m, err
	}
	work, err := opened.path(t, *overlay.Work)
	m.Options = append(m.Options, "upperdir="+upper, "workdir="+work)
	return m, err
}
