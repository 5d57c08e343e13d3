package jail

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// builtRoot is a Root that is mounted in the mount namespace of this thread, and
// not yet the root of anything.
type builtRoot struct {
	dir  *os.File // the new root
	proc *os.File // the host's procfs
	want bool     // /proc/self/fd
}

// descriptorsDir is where a process looks for its own descriptors.
const descriptorsDir = "proc/self/fd"

// build gives this thread a mount namespace of its own and makes a root in it.
// It ends with the thread.
func build(spec Root) (_ *builtRoot, err error) {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return nil, os.NewSyscallError("unshare", err)
	}
	// What the shim mounts later arrives here; nothing goes back.
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return nil, &os.PathError{Op: "mount", Path: "/", Err: err}
	}
	r := &builtRoot{want: spec.Descriptors}
	defer func() {
		if err != nil {
			r.close()
		}
	}()
	if r.proc, err = os.OpenFile("/proc", unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
		return nil, err
	}
	if spec.Whole {
		r.dir, err = os.OpenFile(spec.Dir, unix.O_PATH|unix.O_DIRECTORY, 0)
		return r, err
	}
	// Before the root covers its directory: the sources may be below it.
	trees := make([]int, 0, len(spec.Binds))
	defer func() {
		for _, tree := range trees {
			unix.Close(tree)
		}
	}()
	for _, bind := range spec.Binds {
		tree, err := bind.open()
		if err != nil {
			return nil, err
		}
		trees = append(trees, tree)
	}
	const flags = unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC
	if err := unix.Mount("jail", spec.Dir, "tmpfs", flags, "mode=0755,size=1m"); err != nil {
		return nil, &os.PathError{Op: "mount", Path: spec.Dir, Err: err}
	}
	if r.dir, err = os.OpenFile(spec.Dir, unix.O_PATH|unix.O_DIRECTORY, 0); err != nil {
		return nil, err
	}
	for i, bind := range spec.Binds {
		if err := bind.attach(trees[i], filepath.Join(spec.Dir, bind.Target)); err != nil {
			return nil, err
		}
	}
	if spec.Descriptors {
		if err := os.MkdirAll(filepath.Join(spec.Dir, descriptorsDir), 0o755); err != nil {
			return nil, err
		}
	}
	readOnly := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(unix.AT_FDCWD, spec.Dir, 0, &readOnly); err != nil {
		return nil, &os.PathError{Op: "mount_setattr", Path: spec.Dir, Err: err}
	}
	return r, nil
}

func (r *builtRoot) close() {
	for _, file := range []*os.File{r.dir, r.proc} {
		if file != nil {
			file.Close()
		}
	}
}

// descriptors binds the directory of the process's own descriptors to where it
// looks for it. The process has no other way to procfs.
func (r *builtRoot) descriptors(pid int) error {
	if !r.want {
		return nil
	}
	tree, err := unix.OpenTree(int(r.proc.Fd()), filepath.Join(strconv.Itoa(pid), "fd"), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return fmt.Errorf("taking the descriptors of process %d: %w", pid, err)
	}
	defer unix.Close(tree)
	if err := unix.MoveMount(tree, "", int(r.dir.Fd()), descriptorsDir, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return fmt.Errorf("giving process %d its descriptors: %w", pid, err)
	}
	return nil
}

// enter makes it the root of every process in this mount namespace and lets go of
// the host's (pivot_root(2), "pivot_root(".", ".")").
func (r *builtRoot) enter() error {
	if err := unix.Fchdir(int(r.dir.Fd())); err != nil {
		return os.NewSyscallError("fchdir", err)
	}
	if err := unix.PivotRoot(".", "."); err != nil {
		return fmt.Errorf("pivot_root: %w; the host's root must be a file system that is mounted, not an initramfs (%w)", err, errdefs.ErrFailedPrecondition)
	}
	if err := unix.Unmount(".", unix.MNT_DETACH); err != nil {
		return fmt.Errorf("letting go of the host's root: %w", err)
	}
	return unix.Chdir("/")
}

// open takes the source out of the host's tree, detached and with its attributes.
func (b Bind) open() (int, error) {
	flags := uint(unix.OPEN_TREE_CLONE | unix.OPEN_TREE_CLOEXEC)
	attrFlags := uint(unix.AT_EMPTY_PATH)
	if b.Tree {
		flags |= unix.AT_RECURSIVE
	}
	tree, err := unix.OpenTree(unix.AT_FDCWD, b.Source, flags)
	if err != nil {
		return -1, &os.PathError{Op: "open_tree", Path: b.Source, Err: err}
	}
	attr := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_NOSUID}
	if !b.Device {
		attr.Attr_set |= unix.MOUNT_ATTR_NODEV
	}
	if !b.Exec {
		attr.Attr_set |= unix.MOUNT_ATTR_NOEXEC
	}
	if b.ReadOnly {
		attr.Attr_set |= unix.MOUNT_ATTR_RDONLY
		attrFlags |= unix.AT_RECURSIVE
	}
	if err := unix.MountSetattr(tree, "", attrFlags, &attr); err != nil {
		unix.Close(tree)
		return -1, &os.PathError{Op: "mount_setattr", Path: b.Source, Err: err}
	}
	return tree, nil
}

// attach makes the target, of the source's kind, and mounts the source on it.
func (b Bind) attach(tree int, target string) error {
	var stat unix.Stat_t
	if err := unix.Fstat(tree, &stat); err != nil {
		return &os.PathError{Op: "fstat", Path: b.Source, Err: err}
	}
	if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
		return err
	}
	var err error
	if stat.Mode&unix.S_IFMT == unix.S_IFDIR {
		err = os.Mkdir(target, 0o755)
	} else {
		err = os.WriteFile(target, nil, 0o600)
	}
	if err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	if err := unix.MoveMount(tree, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "move_mount", Path: target, Err: err}
	}
	return nil
}
