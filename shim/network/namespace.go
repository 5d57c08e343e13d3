package network

import (
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
)

// openNamespace opens the network namespace that has a path in a mount namespace.
func openNamespace(mounts mountns.Namespace, path string) (*os.File, error) {
	file, err := mounts.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, fmt.Errorf("the container's network namespace cannot be opened: %w (%w)", err, errdefs.ErrFailedPrecondition)
	}
	kind, err := unix.IoctlRetInt(int(file.Fd()), unix.NS_GET_NSTYPE)
	if err != nil || kind != unix.CLONE_NEWNET {
		file.Close()
		return nil, fmt.Errorf("%s, which linux.namespaces names, is not a network namespace: %w", path, errdefs.ErrInvalidArgument)
	}
	return file, nil
}

// newNamespace makes one, with loopback up. It lives as long as somebody has it
// open or is in it.
func newNamespace() (file *os.File, err error) {
	err = thread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("making a network namespace: %w", err)
		}
		loopback, err := netlink.LinkByName("lo")
		if err != nil {
			return err
		}
		if err := netlink.LinkSetUp(loopback); err != nil {
			return err
		}
		file, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	return file, err
}
