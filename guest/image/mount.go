package image

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/rawcall"
)

// fileSystem is one that is mounted by the calls that take each option by itself, of whatever
// length, and that say what was wrong (fsopen(2), Documentation/filesystems/mount_api.rst).
type fileSystem struct {
	kind, source string
	options      []string // NAME=VALUE, or NAME
	preferred    []string // NAME, left out where the kernel does not know it
	readOnly     bool
}

func (f fileSystem) mount(target string) error {
	fd, err := unix.Fsopen(f.kind, unix.FSOPEN_CLOEXEC)
	if err != nil {
		return fmt.Errorf("the guest's kernel has no file system %s: %w", f.kind, err)
	}
	context := os.NewFile(uintptr(fd), f.kind)
	defer context.Close()
	if err := f.configure(fd); err != nil {
		return fmt.Errorf("%s: %w%s", f.kind, err, said(context))
	}
	attributes := 0
	if f.readOnly {
		attributes = unix.MOUNT_ATTR_RDONLY
	}
	mount, err := unix.Fsmount(fd, unix.FSMOUNT_CLOEXEC, attributes)
	if err != nil {
		return fmt.Errorf("%s: %w%s", f.kind, os.NewSyscallError("fsmount", err), said(context))
	}
	defer unix.Close(mount)
	if err := unix.MoveMount(mount, "", unix.AT_FDCWD, target, unix.MOVE_MOUNT_F_EMPTY_PATH); err != nil {
		return &os.PathError{Op: "move_mount", Path: target, Err: err}
	}
	return nil
}

func (f fileSystem) configure(fd int) error {
	if err := unix.FsconfigSetString(fd, "source", f.source); err != nil {
		return err
	}
	if f.readOnly {
		if err := unix.FsconfigSetFlag(fd, "ro"); err != nil {
			return err
		}
	}
	for _, option := range f.options {
		name, value, valued := strings.Cut(option, "=")
		// lowerdir+=DIR is the option lowerdir+ (overlayfs.rst).
		var err error
		if valued {
			err = unix.FsconfigSetString(fd, name, value)
		} else {
			err = unix.FsconfigSetFlag(fd, name)
		}
		if err != nil {
			return fmt.Errorf("option %s: %w", name, err)
		}
	}
	for _, option := range f.preferred {
		if err := unix.FsconfigSetFlag(fd, option); err != nil && !errors.Is(err, unix.EINVAL) {
			return fmt.Errorf("option %s: %w", option, err)
		}
	}
	return unix.FsconfigCreate(fd)
}

// said is what the kernel says besides, a line for each read, with a letter and a space before
// it.
func said(context *os.File) string {
	var lines []string
	line := make([]byte, 512)
	for {
		n, err := rawcall.Retry(func() (int, error) { return unix.Read(int(context.Fd()), line) })
		if err != nil || n < 3 {
			break
		}
		lines = append(lines, strings.TrimSpace(string(line[2:n])))
	}
	if len(lines) == 0 {
		return ""
	}
	return " (" + strings.Join(lines, "; ") + ")"
}
