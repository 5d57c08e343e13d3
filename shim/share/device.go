package share

import (
	"errors"
	"fmt"
	"io"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// A Device is a block device of the host's, opened and checked. The caller closes it.
type Device struct {
	*Source
	// BlockSize is the size of its logical blocks, in bytes.
	BlockSize uint32
	// ReadOnly tells that nothing is written to it: nothing is to be, or can be.
	ReadOnly bool
}

// OpenDevice opens a block device of the host's by its numbers, to be written to unless it is
// readOnly. path is the container's, for errors.
func OpenDevice(path string, major, minor uint32, readOnly bool) (_ *Device, err error) {
	node, err := deviceNode(path, major, minor)
	if err != nil {
		return nil, fmt.Errorf("device %s: %w", path, err)
	}
	device := &Device{Source: &Source{path: path, object: object{file: node}, kind: os.ModeDevice}, ReadOnly: readOnly}
	size, err := device.look()
	switch {
	case err != nil:
		err = fmt.Errorf("device %s cannot be opened: the host's block device %d:%d: %w (%w)", path, major, minor, errors.Unwrap(err), errdefs.ErrInvalidArgument)
	case size == 0:
		err = fmt.Errorf("device %s: the host's block device %d:%d has a size of 0, which it keeps in a microVM: give it a medium or a file first: %w", path, major, minor, errdefs.ErrInvalidArgument)
	default:
		return device, nil
	}
	return nil, errors.Join(err, node.Close())
}

// deviceNode is a node of a device, opened with O_PATH: it is of a file system that is mounted
// nowhere, and goes with the descriptor. Where containerd has found the device nobody tells.
func deviceNode(name string, major, minor uint32) (*os.File, error) {
	context, err := unix.Fsopen("tmpfs", unix.FSOPEN_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsopen", err)
	}
	defer unix.Close(context)
	if err := unix.FsconfigCreate(context); err != nil {
		return nil, os.NewSyscallError("fsconfig", err)
	}
	root, err := unix.Fsmount(context, unix.FSMOUNT_CLOEXEC, unix.MOUNT_ATTR_NOSUID|unix.MOUNT_ATTR_NOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("fsmount", err)
	}
	defer unix.Close(root)
	const place = "device"
	if err := unix.Mknodat(root, place, unix.S_IFBLK|0o600, int(unix.Mkdev(major, minor))); err != nil {
		return nil, os.NewSyscallError("mknodat", err)
	}
	fd, err := unix.Openat(root, place, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("openat", err)
	}
	return os.NewFile(uintptr(fd), name), nil
}

// look opens the device, as far as that is needed to see that there is one and what it is like
// (BLKSSZGET, BLKROGET), and tells its size in bytes.
func (d *Device) look() (size int64, err error) {
	opened, err := os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", d.file.Fd()), os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return 0, err
	}
	defer opened.Close()
	block, err := unix.IoctlGetInt(int(opened.Fd()), unix.BLKSSZGET)
	if err != nil {
		return 0, os.NewSyscallError("BLKSSZGET", err)
	}
	locked, err := unix.IoctlGetInt(int(opened.Fd()), unix.BLKROGET)
	if err != nil {
		return 0, os.NewSyscallError("BLKROGET", err)
	}
	d.BlockSize, d.ReadOnly = uint32(block), d.ReadOnly || locked != 0
	return opened.Seek(0, io.SeekEnd)
}

// firstNumber is above what programs in a guest take for their own loop devices.
const firstNumber = 1000

// AddDevice stages a block device: the guest finds a file of its size. It is staged once, however
// often it is added, so that what containers of a pod write to it they read from each other.
func (t *Trees) AddDevice(device *Device) (Share, error) {
	attributes := Attributes{ReadOnly: device.ReadOnly, Shield: true, Fixed: true}
	return t.users.add(device.object, attributes, "device", func() (Share, error) {
		share, err := t.addFile(device.Source, attributes)
		share.Number = firstNumber + t.devices.Add(1)
		return share, err
	})
}
