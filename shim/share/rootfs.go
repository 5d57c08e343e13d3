package share

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/image"
)

// mountRootfs mounts what containerd hands over with containerd's own code, which takes
// directories and devices from the namespace that it runs in. So that is a copy of
// containerd's, where even what containerd has mounted after it started the shim is found
// (its mount manager does so since 2.4), and where nothing can be left behind. The result
// is attached nowhere, and the caller closes it.
func (t *Trees) mountRootfs(mounts []mount.Mount) (*os.File, error) {
	for _, m := range mounts {
		if strings.Contains(m.Type, "/") {
			return nil, image.ForManager(fmt.Sprintf("a mount of type %q", m.Type))
		}
	}
	return t.inCopy(func() (string, error) {
		for _, m := range mounts {
			short, err := shorten(m)
			if err != nil {
				return "", err
			}
			if err := short.Mount(t.dir); err != nil {
				return "", err
			}
		}
		return t.dir, nil
	})
}

// inCopy is what mount mounts in a copy of containerd's mount namespace, and says where.
func (t *Trees) inCopy(mount func() (place string, err error)) (root *os.File, err error) {
	err = t.host.Copy(func() error {
		place, err := mount()
		if err != nil {
			return err
		}
		fd, err := unix.OpenTree(unix.AT_FDCWD, place, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_RECURSIVE)
		if err != nil {
			return &os.PathError{Op: "open_tree", Path: place, Err: err}
		}
		root = os.NewFile(uintptr(fd), place)
		return nil
	})
	return root, err
}

// maxOptions is from which length on, in bytes, containerd's code changes the directory to
// make an overlay's options fit into the page that the kernel takes. It does so on another
// thread, which is not in the namespace of this one.
var maxOptions = os.Getpagesize() - 512

const lowerOption = "lowerdir="

// shorten names the lower directories of an overlay of many from a directory that all of
// them are in, and that becomes the calling thread's.
func shorten(m mount.Mount) (mount.Mount, error) {
	if m.Type != "overlay" || len(strings.Join(m.Options, ",")) < maxOptions {
		return m, nil
	}
	i := slices.IndexFunc(m.Options, func(option string) bool { return strings.HasPrefix(option, lowerOption) })
	if i < 0 {
		return m, nil
	}
	dirs := strings.Split(strings.TrimPrefix(m.Options[i], lowerOption), ":")
	common := commonDir(dirs)
	m.Options = slices.Clone(m.Options)
	for j, dir := range dirs {
		dirs[j] = strings.TrimPrefix(dir, common)
	}
	m.Options[i] = lowerOption + strings.Join(dirs, ":")
	if common == "" || len(strings.Join(m.Options, ",")) >= maxOptions {
		return m, fmt.Errorf("the options of an overlay of %d directories do not fit into a page: use an image of fewer layers: %w", len(dirs), errdefs.ErrInvalidArgument)
	}
	return m, os.Chdir(common)
}

// commonDir is the longest path, with a slash at its end, that all begin with; empty if
// there is none. The kernel escapes a colon in a name by a backslash: such names are left
// alone.
func commonDir(dirs []string) string {
	common := filepath.Dir(dirs[0]) + "/"
	for _, dir := range dirs {
		if !filepath.IsAbs(dir) || strings.HasSuffix(dir, `\`) {
			return ""
		}
		for !strings.HasPrefix(dir, common) {
			common = filepath.Dir(strings.TrimSuffix(common, "/")) + "/"
			if common == "//" {
				return ""
			}
		}
	}
	return common
}
