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
type Namespace struct {
	file *os.File
	idle chan *worker // has room for one
}

// Of is the namespace that a file of /proc/PID/ns names. The file stays the caller's, and
// open as long as the namespace is used.
func Of(file *os.File) Namespace { return Namespace{file, make(chan *worker, 1)} }

// A worker is a thread in the namespace. To make one takes as long as all that is done there
// for a mounted file, and there may be a thousand of those: so one is kept.
type worker struct{ jobs chan func() }

// Do runs f in the namespace, on another thread.
func (n Namespace) Do(f func() error) error {
	if n.file == nil {
		return f()
	}
	w, err := n.take()
	if err != nil {
		return err
	}
	result := make(chan error)
	w.jobs <- func() {
		err := f()
		n.give(w)
		result <- err
	}
	return <-result
}

// take is the worker that is idle, or a new one: f may wait for a file server that is gone.
func (n Namespace) take() (*worker, error) {
	select {
	case w := <-n.idle:
		return w, nil
	default:
	}
	w, entered := &worker{make(chan func(), 1)}, make(chan error)
	thread.Go(func() {
		err := n.Enter()
		entered <- err
		if err != nil {
			return
		}
		for job := range w.jobs {
			job()
		}
	})
	return w, <-entered
}

// give is for a worker that has done its job. One more than is kept ends.
func (n Namespace) give(w *worker) {
	select {
	case n.idle <- w:
	default:
		close(w.jobs)
	}
}

// Isolate keeps the mounts of this process's namespace from the one that it was copied from,
// while those that are made there later still arrive (mount_namespaces(7)).
func Isolate() error {
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
		return fmt.Errorf("isolating the shim's mount namespace: %w", err)
	}
	return nil
}

// Identity names the namespace among all that there are now, and for as long as somebody has
// it open.
func (n Namespace) Identity() (string, error) {
	path := "/proc/self/ns/mnt"
	if n.file != nil {
		path = fmt.Sprintf("/proc/self/fd/%d", n.file.Fd())
	}
	return os.Readlink(path)
}

// File opens the namespace once more. The caller closes the file.
func (n Namespace) File() (*os.File, error) {
	if n.file == nil {
		return os.Open("/proc/thread-self/ns/mnt")
	}
	return os.Open(fmt.Sprintf("/proc/self/fd/%d", n.file.Fd()))
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
