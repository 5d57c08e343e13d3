package server

import (
	"errors"
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
)

// A Trial is what FUSE can do on this host: nil, or why not.
type Trial struct {
	Mount       error
	Passthrough error
}

// Try tries it, in a mount namespace that ends with the trial.
func Try() (t Trial) {
	t.Mount = thread.Run(func() error {
		device, err := unix.Open("/dev/fuse", unix.O_RDWR|unix.O_CLOEXEC, 0)
		if err != nil {
			return &os.PathError{Op: "open", Path: "/dev/fuse", Err: err}
		}
		if err := mountAlone(device); err != nil {
			return errors.Join(err, unix.Close(device))
		}
		// It owns the device, and ends when the namespace does.
		s, err := New(device, nil)
		if err != nil {
			return err
		}
		t.Passthrough = s.tryPassThrough()
		return nil
	})
	return t
}

// mountAlone mounts the device's file system where this thread alone sees it.
func mountAlone(device int) error {
	if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
		return os.NewSyscallError("unshare", err)
	}
	if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
		return os.NewSyscallError("mount", err)
	}
	options := fmt.Sprintf("fd=%d,rootmode=%o,user_id=0,group_id=0", device, unix.S_IFDIR)
	return os.NewSyscallError("mount", unix.Mount("msb", os.TempDir(), "fuse.msb", unix.MS_NODEV, options))
}

func (s *Server) tryPassThrough() error {
	fd, err := unix.MemfdCreate("msb", unix.MFD_CLOEXEC)
	if err != nil {
		return os.NewSyscallError("memfd_create", err)
	}
	file := os.NewFile(uintptr(fd), "backing file")
	defer file.Close()
	if !s.canPassThrough(file) {
		return errors.New("the kernel takes no backing file: it has no CONFIG_FUSE_PASSTHROUGH, which is in Linux 6.9 and newer")
	}
	return nil
}
