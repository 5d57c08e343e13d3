// Package mountns works in the mount namespace that containerd is in. What a client names
// by a path is what has that path there: the shim's own namespace is as containerd's was
// when the shim started, and mounts that were made since have reached it only where the
// host's are shared (mount_namespaces(7)).
package mountns

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
)

// A Namespace is a mount namespace. The zero value is the one that the caller is in.
type Namespace struct{ file *os.File }

// Of is the namespace that a file of /proc/PID/ns names. The file stays the caller's, and
// open as long as the namespace is used.
func Of(file *os.File) Namespace { return Namespace{file} }

// Do runs f in the namespace, on a thread that ends with it.
func (n Namespace) Do(f func() error) error {
	if n.file == nil {
		return f()
	}
	return thread.Run(func() error {
		if err := n.Enter(); err != nil {
			return err
		}
		return f()
	})
}

// Copy runs f in a copy of the namespace, on a thread that ends with it. What f mounts goes
// with the copy, and reaches no other.
func (n Namespace) Copy(f func() error) error {
	return thread.Run(func() error {
		if err := n.Enter(); err != nil {
			return err
		}
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return fmt.Errorf("copying a mount namespace: %w", os.NewSyscallError("unshare", err))
		}
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			return fmt.Errorf("isolating the copy of a mount namespace: %w", os.NewSyscallError("mount", err))
		}
		return f()
	})
}

// Enter moves the calling thread into the namespace, for good: see package thread.
func (n Namespace) Enter() error {
	// A thread that shares its root with others cannot change it (setns(2)).
	if err := unix.Unshare(unix.CLONE_FS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	if n.file == nil {
		return nil
	}
	if err := unix.Setns(int(n.file.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("entering containerd's mount namespace: %w", os.NewSyscallError("setns", err))
	}
	return nil
}

// OpenFile is os.OpenFile in the namespace.
func (n Namespace) OpenFile(path string, flags int, mode os.FileMode) (file *os.File, err error) {
	err = n.Do(func() error {
		file, err = os.OpenFile(path, flags, mode)
		return err
	})
	return file, err
}
