package share

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// kernelFileSystems are those through which the host's kernel is asked and told, with their
// numbers of statfs(2) (linux/magic.h). They hold no data: most of their files have no
// size, so nothing of them could be read through a file server; what can be written rules
// the host; and the links of proc(5) lead to whatever its processes have open.
var kernelFileSystems = map[string]int64{
	"binder": unix.BINDERFS_SUPER_MAGIC, "binfmt_misc": unix.BINFMTFS_MAGIC,
	"bpf": unix.BPF_FS_MAGIC, "cgroup": unix.CGROUP_SUPER_MAGIC, "cgroup2": unix.CGROUP2_SUPER_MAGIC,
	"configfs": 0x62656570, "cpuset": unix.CGROUP_SUPER_MAGIC, "debugfs": unix.DEBUGFS_MAGIC,
	"devpts": unix.DEVPTS_SUPER_MAGIC, "efivarfs": unix.EFIVARFS_MAGIC, "fusectl": 0x65735543,
	"mqueue": 0x19800202, "nfsd": 0x6e667364, "nsfs": unix.NSFS_MAGIC, "proc": unix.PROC_SUPER_MAGIC,
	"pstore": unix.PSTOREFS_MAGIC, "resctrl": unix.RDTGROUP_SUPER_MAGIC, "rpc_pipefs": 0x67596969,
	"securityfs": unix.SECURITYFS_MAGIC, "selinuxfs": unix.SELINUX_MAGIC, "smackfs": unix.SMACK_MAGIC,
	"sysfs": unix.SYSFS_MAGIC, "tracefs": unix.TRACEFS_MAGIC, "xenfs": unix.XENFS_SUPER_MAGIC,
}

// checkFileSystem refuses a source that is the kernel's. One by the usual path, such as
// /proc, never comes here: it means the guest's own.
func (s *Source) checkFileSystem() error {
	var stat unix.Statfs_t
	if err := unix.Fstatfs(int(s.file.Fd()), &stat); err != nil {
		return &os.PathError{Op: "statfs", Path: s.path, Err: err}
	}
	for name, magic := range kernelFileSystems {
		if int64(stat.Type) == magic {
			return kernelError(s.path, name)
		}
	}
	return nil
}

func kernelError(path, fileSystem string) error {
	return fmt.Errorf("source %s is on %s, which is of the host's kernel and not shared with a microVM: name /proc or /sys itself for the guest's own, or leave it out: %w", path, fileSystem, errdefs.ErrInvalidArgument)
}

// sievePasses are how often more of the kernel's file systems may turn up than there were.
const sievePasses = 16

// sieve takes the kernel's file systems out of a tree of mounts that is attached nowhere,
// before the guest sees it, and tells the paths below the tree where they were. The tree is
// then attached out of the guest's sight.
func (t *Trees) sieve(tree *os.File, dir string) (withheld []string, err error) {
	if err := os.Mkdir(dir, 0o700); err != nil {
		return nil, err
	}
	if err := attach(tree, dir); err != nil {
		return nil, err
	}
	for range sievePasses {
		paths, err := kernelMounts(dir)
		if err != nil || len(paths) == 0 {
			return withheld, err
		}
		for _, path := range paths {
			// With all that is below it. What has gone with another is not there any more.
			err := unix.Unmount(path, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
			if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
				return nil, &os.PathError{Op: "unmount", Path: path, Err: err}
			}
			if below := strings.TrimPrefix(path, dir+"/"); !isBelowAny(below, withheld) {
				withheld = append(withheld, below)
			}
		}
	}
	return nil, fmt.Errorf("the file systems of the host's kernel below a mount change all the time; mount it again: %w", errdefs.ErrUnavailable)
}

// kernelMounts are the paths of those below dir, each before what is below it.
func kernelMounts(dir string) (paths []string, err error) {
	found, err := mountinfo.GetMounts(func(info *mountinfo.Info) (skip, stop bool) {
		_, isKernels := kernelFileSystems[info.FSType]
		return !isKernels || !strings.HasPrefix(info.Mountpoint+"/", dir+"/"), false
	})
	for _, info := range found {
		if info.Mountpoint == dir {
			return nil, fmt.Errorf("the root file system is on %s, which is of the host's kernel and not shared with a microVM: give the container another: %w", info.FSType, errdefs.ErrInvalidArgument)
		}
		paths = append(paths, info.Mountpoint)
	}
	slices.Sort(paths)
	return paths, err
}

func isBelowAny(path string, dirs []string) bool {
	return slices.ContainsFunc(dirs, func(dir string) bool { return strings.HasPrefix(path+"/", dir+"/") })
}

// unsieved undoes what sieve has left of a tree that was not moved on.
func unsieved(dir string) error {
	err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENOENT) {
		return &os.PathError{Op: "unmount", Path: dir, Err: err}
	}
	if err := os.Remove(dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}
