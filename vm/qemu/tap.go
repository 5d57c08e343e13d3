package qemu

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
	"github.com/msb-runtime/containerd-shim-msb/vm"
)

const tunDevice = "/dev/net/tun"

// openTaps attaches to the TAP devices of a network. QEMU gets the descriptors, so
// that it needs no device node. The caller closes those it gets, also after an
// error.
func openTaps(network vm.Network) (files []*os.File, err error) {
	if len(network.Interfaces) == 0 {
		return nil, nil
	}
	err = thread.InNetwork(network.Namespace, func() error {
		for _, i := range network.Interfaces {
			file, err := openTap(i.Tap)
			if err != nil {
				return fmt.Errorf("attaching to the TAP device %s: %w", i.Tap, err)
			}
			files = append(files, file)
		}
		return nil
	})
	return files, err
}

func openTap(name string) (*os.File, error) {
	fd, err := unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	request, err := unix.NewIfreq(name)
	if err == nil {
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		err = unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}
	if err != nil {
		unix.Close(fd)
		return nil, err
	}
	return os.NewFile(uintptr(fd), name), nil
}
