package share

import (
	"fmt"
	"os"
	"strings"
	"sync"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// users counts, for each directory, image or device that is shared, by how many mounts. Containers of a
// pod that mount one directory so have one file system in the guest: locks, shared
// mappings and inotify work between them, as they do with runc.
type users struct {
	mu     sync.Mutex
	shares map[identity]*used
}

// identity is a directory of a mount, shared in one way. As long as it is shared, no other
// directory has its device and inode; the mount, which may be more restricted than
// another of the same directory, is not kept.
type identity struct {
	device, inode, mount uint64
	attributes           Attributes
	mounted              string // of an image or a device: how the guest has it
}

type used struct {
	share Share
	count int
}

// identify identifies a directory. With mounts below it, it has no identity: what a
// share of it holds depends on when it was made.
func identify(dir object, attributes Attributes) (_ identity, ok bool, err error) {
	var stat unix.Statx_t
	// The unique id, of Linux 6.8, is never used again; older kernels give the other.
	const mask = unix.STATX_TYPE | unix.STATX_INO | unix.STATX_MNT_ID | unix.STATX_MNT_ID_UNIQUE
	if err := unix.Statx(int(dir.file.Fd()), "", unix.AT_EMPTY_PATH, mask, &stat); err != nil {
		return identity{}, false, &os.PathError{Op: "statx", Path: dir.file.Name(), Err: err}
	}
	id := identity{device: unix.Mkdev(stat.Dev_major, stat.Dev_minor), inode: stat.Ino, mount: stat.Mnt_id, attributes: attributes}
	switch stat.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
	case unix.S_IFBLK: // whatever node leads to it
		return identity{device: unix.Mkdev(stat.Rdev_major, stat.Rdev_minor), attributes: attributes}, true, nil
	default:
		return id, true, nil // an image: nothing is mounted below a file
	}
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", dir.file.Fd()))
	if err != nil {
		return identity{}, false, err
	}
	var below []*mountinfo.Info
	err = dir.in.Do(func() (err error) {
		below, err = mountinfo.GetMounts(func(info *mountinfo.Info) (skip, stop bool) {
			isBelow := strings.HasPrefix(info.Mountpoint, strings.TrimSuffix(path, "/")+"/")
			return !isBelow, isBelow
		})
		return err
	})
	return id, len(below) == 0, err
}

// add shares a directory or an image, or returns the share that there is of it. Images that the
// guest mounts in different ways (mounted) are apart.
func (u *users) add(dir object, attributes Attributes, mounted string, share func() (Share, error)) (Share, error) {
	u.mu.Lock()
	defer u.mu.Unlock()
	key, known, err := identify(dir, attributes)
	if err != nil {
		return Share{}, err
	}
	key.mounted = mounted
	if !known {
		return share()
	}
	if have := u.shares[key]; have != nil {
		have.count++
		return have.share, nil
	}
	added, err := share()
	if err != nil {
		return Share{}, err
	}
	added.key = key
	if u.shares == nil {
		u.shares = make(map[identity]*used)
	}
	u.shares[key] = &used{share: added, count: 1}
	return added, nil
}

// release takes one mount off, and tells whether it was the last. A share that stays (see
// Trees.Remove) is there for the next.
func (u *users) release(share Share) (last bool) {
	u.mu.Lock()
	defer u.mu.Unlock()
	have := u.shares[share.key]
	if have == nil || have.share.Tag != share.Tag {
		return true
	}
	have.count--
	if have.count == 0 && !share.hides {
		delete(u.shares, share.key)
	}
	return have.count == 0
}
