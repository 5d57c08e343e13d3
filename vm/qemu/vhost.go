package qemu

import (
	"errors"
	"os"

	"golang.org/x/sys/unix"
)

const vhostDevice = "/dev/vhost-net"

// vhostGetFeatures is VHOST_GET_FEATURES (include/uapi/linux/vhost.h), which vhost-net alone
// answers and which changes nothing.
const vhostGetFeatures = 0x8008AF00

// CheckVhost tells why the kernel's vhost-net cannot be used, with which it copies the packets of
// a guest in KVM; nil if it can. Without it QEMU copies them, with a switch to it and back.
func CheckVhost() error {
	file, err := openVhost(vhostDevice)
	if err != nil {
		return err
	}
	return file.Close()
}

func openVhost(device string) (*os.File, error) {
	file, err := os.OpenFile(device, os.O_RDWR, 0)
	if err != nil {
		return nil, err
	}
	if _, err := unix.IoctlGetInt(int(file.Fd()), vhostGetFeatures); err != nil {
		return nil, errors.Join(&os.PathError{Op: "ioctl", Path: device, Err: err}, file.Close())
	}
	return file, nil
}
