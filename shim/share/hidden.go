package share

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// Hidden are paths below a directory that are not shared with it. The zero value hides
// nothing. It can be compared: what hides other paths is another share.
type Hidden struct {
	named, any string // each path with a NUL after it
}

// Hide puts paths together, all below the source and without "..". The named ones must be
// there; of the others those that are, whenever that is.
func Hide(named, others []string) Hidden {
	return Hidden{joinPaths(named), joinPaths(others)}
}

// joinPaths sorts paths so that each is before the one that it is below: it is still found
// when that is covered.
func joinPaths(paths []string) string {
	sorted := slices.Clone(paths)
	slices.Sort(sorted)
	sorted = slices.Compact(sorted)
	slices.Reverse(sorted)
	var joined strings.Builder
	for _, path := range sorted {
		joined.WriteString(path + "\x00")
	}
	return joined.String()
}

// forEachPath does something with each of joined paths until it fails.
func forEachPath(joined string, do func(path string) error) error {
	for path := range strings.SplitAfterSeq(joined, "\x00") {
		if path == "" {
			continue
		}
		if err := do(strings.TrimSuffix(path, "\x00")); err != nil {
			return err
		}
	}
	return nil
}

// maxCovers is how many hidden things the shares of one VM may have at one time. Each is a
// mount in the pool and one in what is served of it, in the shim's mount namespace, and as
// many while the VMM's is copied from that; a namespace has 100,000 at most, where
// fs.mount-max is not changed (proc_sys_fs(5)).
const maxCovers = 10_000

// coverAttempts are how often a hidden thing may be replaced while it is being covered. The
// kernel takes the cover off what is renamed over a moment before the new thing has the name:
// coverPause is for that moment.
const (
	coverAttempts = 100
	coverPause    = 200 * time.Microsecond
)

var (
	// errLink is of a path that is, or goes through, a symbolic link.
	errLink     = errors.New("a symbolic link")
	errReplaced = fmt.Errorf("it is replaced all the time: %w", errdefs.ErrUnavailable)
)

// covers are what is mounted over hidden things: an empty directory or an empty file that
// nobody can change. Who owns the VMM cannot take them away, since it may not unmount
// (umount(2)); nor rename or remove what they are on, since that is a mount point where it
// looks (rename(2), EBUSY).
type covers struct {
	dir    string // has one of each
	served string // shows each cover of the pool again
	device uint64 // of the file system that they are of, and nothing in a share is
	most   int64
	made   atomic.Int64
}

// openCovers makes what covers hidden things, in a directory of a file system that is in no
// share. What is below served is not counted.
func openCovers(dir, served string) (*covers, error) {
	c := &covers{dir: dir, served: served, most: maxCovers}
	if err := errors.Join(os.Mkdir(dir, 0o700), os.Mkdir(c.emptyDir(), 0o555), os.WriteFile(c.emptyFile(), nil, 0o444)); err != nil {
		return nil, err
	}
	var stat unix.Stat_t
	if err := unix.Stat(c.emptyFile(), &stat); err != nil {
		return nil, &os.PathError{Op: "stat", Path: c.emptyFile(), Err: err}
	}
	c.device = stat.Dev
	return c, nil
}

func (c *covers) emptyDir() string  { return filepath.Join(c.dir, "dir") }
func (c *covers) emptyFile() string { return filepath.Join(c.dir, "file") }

// hide covers what is hidden in the share at a directory, unless it is covered.
func (c *covers) hide(at string, hidden Hidden) error {
	return c.each(at, hidden, func(root *os.File, path string, named bool, err error) error {
		switch {
		case !isAbsent(err):
			return hideError(path, err)
		case !named || c.isBelowOne(root, path):
			return nil
		}
		return fmt.Errorf("path %.64q, which is to be hidden, is not there: create it before, so that it cannot appear later, or leave it out: %w", path, errdefs.ErrNotFound)
	})
}

// isBelowOne tells whether a path would be below a cover.
func (c *covers) isBelowOne(root *os.File, path string) bool {
	for dir := filepath.Dir(path); dir != "."; dir = filepath.Dir(dir) {
		thing, err := openHidden(root, dir)
		if err != nil {
			continue
		}
		var stat unix.Stat_t
		err = unix.Fstat(thing, &stat)
		unix.Close(thing)
		if err == nil {
			return stat.Dev == c.device
		}
	}
	return false
}

// again is hide for a share that the guest has. What is not there need not be hidden, nor a
// symbolic link, which has no content. It tells whether something is replaced all the time.
func (c *covers) again(at string, hidden Hidden) (replaced bool, err error) {
	err = c.each(at, hidden, func(_ *os.File, path string, _ bool, err error) error {
		switch {
		case errors.Is(err, errReplaced):
			replaced = true
			return nil
		case isAbsent(err), errors.Is(err, errLink), isServers(err):
			return nil
		}
		return hideError(path, err)
	})
	if isServers(err) {
		err = nil
	}
	return replaced, err
}

// isServers tells an error of a file server of the network that answers the VMM as little.
func isServers(err error) bool {
	return slices.ContainsFunc([]error{unix.ESTALE, unix.EIO, unix.ETIMEDOUT, unix.ENOTCONN, unix.EHOSTDOWN}, func(of error) bool { return errors.Is(err, of) })
}

// each covers each thing, and goes on if judge makes no error of what became of it.
func (c *covers) each(at string, hidden Hidden, judge func(root *os.File, path string, named bool, err error) error) error {
	if hidden == (Hidden{}) {
		return nil
	}
	root, err := os.OpenFile(at, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return err
	}
	defer root.Close()
	return errors.Join(
		forEachPath(hidden.named, func(path string) error { return judge(root, path, true, c.hideOne(root, path)) }),
		forEachPath(hidden.any, func(path string) error { return judge(root, path, false, c.hideOne(root, path)) }))
}

func isAbsent(err error) bool { return errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) }

// hideError says what cannot be hidden.
func hideError(path string, err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, errLink):
		return fmt.Errorf("path %.64q, which is to be hidden, is a symbolic link or goes through one: name what it leads to: %w", path, errdefs.ErrInvalidArgument)
	case errors.Is(err, unix.ENAMETOOLONG):
		return fmt.Errorf("path %.64q…, which is to be hidden, has a name that is too long to be one: leave it out: %w", path, errdefs.ErrInvalidArgument)
	case errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("path %.64q cannot be hidden: the shim's mount namespace has as many mounts as it may: hide a directory that it is in, or raise fs.mount-max: %w", path, errdefs.ErrResourceExhausted)
	}
	return fmt.Errorf("path %.64q cannot be hidden: %w", path, err)
}

// hideOne covers one thing. That it is covered is looked for at its path: it may have been
// replaced meanwhile.
func (c *covers) hideOne(root *os.File, path string) error {
	for range coverAttempts {
		covered, err := c.step(root, path)
		if covered || err != nil {
			return err
		}
	}
	return errReplaced
}

// openHidden opens what is at a path below a directory, with O_PATH and through no link.
func openHidden(root *os.File, path string) (int, error) {
	return unix.Openat2(int(root.Fd()), path, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
}

// step covers what is at a path now, and tells whether it was covered.
func (c *covers) step(root *os.File, path string) (covered bool, err error) {
	thing, err := openHidden(root, path)
	switch {
	case errors.Is(err, unix.ELOOP):
		return false, errLink
	case errors.Is(err, unix.EINTR), errors.Is(err, unix.EAGAIN):
		return false, nil
	case err != nil:
		return false, err
	}
	defer unix.Close(thing)
	var stat unix.Stat_t
	if err := unix.Fstat(thing, &stat); err != nil {
		return false, err
	}
	if stat.Dev == c.device {
		return true, nil
	}
	if err := c.count(); err != nil {
		return false, err
	}
	empty := c.emptyFile()
	if stat.Mode&unix.S_IFMT == unix.S_IFDIR {
		empty = c.emptyDir()
	}
	err = coverWith(empty, thing)
	if errors.Is(err, unix.ENOENT) { // it was removed
		time.Sleep(coverPause)
		return false, nil
	}
	return false, err
}

// coverWith mounts something empty over what a descriptor is of.
func coverWith(empty string, thing int) error {
	cover, err := unix.OpenTree(unix.AT_FDCWD, empty, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return &os.PathError{Op: "open_tree", Path: empty, Err: err}
	}
	defer unix.Close(cover)
	attr := unix.MountAttr{
		Attr_set:    unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC | unix.MOUNT_ATTR_NOSYMFOLLOW,
		Propagation: unix.MS_PRIVATE,
	}
	if err := unix.MountSetattr(cover, "", unix.AT_EMPTY_PATH, &attr); err != nil {
		return os.NewSyscallError("mount_setattr", err)
	}
	err = unix.MoveMount(cover, "", thing, "", unix.MOVE_MOUNT_F_EMPTY_PATH|unix.MOVE_MOUNT_T_EMPTY_PATH)
	return os.NewSyscallError("move_mount", err)
}

// count counts one more, and refuses one too many. Those that are gone are found when there
// seem to be too many.
func (c *covers) count() error {
	if c.made.Load() >= c.most {
		live, err := c.live()
		if err != nil {
			return err
		}
		c.made.Store(live)
	}
	if made := c.made.Add(1); made > c.most {
		return fmt.Errorf("the VM has %d hidden paths, which is as many as may be: hide a directory that they are in: %w", c.most, errdefs.ErrResourceExhausted)
	}
	return nil
}

// live counts covers in this mount namespace.
func (c *covers) live() (int64, error) {
	found, err := mountinfo.GetMounts(func(info *mountinfo.Info) (skip, stop bool) {
		return !c.has(info) || strings.HasPrefix(info.Mountpoint, c.served+"/"), false
	})
	return int64(len(found)), err
}

// has tells whether a mount is a cover.
func (c *covers) has(info *mountinfo.Info) bool {
	return unix.Mkdev(uint32(info.Major), uint32(info.Minor)) == c.device && strings.HasPrefix(info.Root, "/"+filepath.Base(c.dir)+"/")
}
