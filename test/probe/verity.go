package main

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"
)

// The device mapper's calls (include/uapi/linux/dm-ioctl.h).
const (
	mapperHeader = 312 // struct dm_ioctl
	mapperCall   = 0xc138fd00
	mapperCreate = 3
	mapperRemove = 4
	mapperResume = 6
	mapperLoad   = 9
)

// verity has dm-verity guard blocks of a file on a loop device: it is read as it is, and not
// at all once it was changed.
func verity([]string) error {
	file, remove, err := temporary()
	if err != nil {
		return err
	}
	defer remove()
	const block = 4096
	data := bytes.Repeat([]byte{'a'}, 2*block)
	// The block behind them has their sums, and its own sum is the tree's root
	// (Documentation/admin-guide/device-mapper/verity.rst).
	sum := sha256.Sum256(data[:block])
	tree := append(bytes.Repeat(sum[:], 2), make([]byte, block-2*len(sum))...)
	root := sha256.Sum256(tree)
	if err := os.WriteFile(file, append(data, tree...), 0o600); err != nil {
		return err
	}
	loop, err := exec.Command("losetup", "--find", "--show", file).Output()
	if err != nil {
		return fmt.Errorf("losetup: %w", err)
	}
	device := strings.TrimSpace(string(loop))
	defer func() { _ = exec.Command("losetup", "--detach", device).Run() }()

	minor, err := miscMinor("device-mapper")
	if err != nil {
		return err
	}
	node := filepath.Join(filepath.Dir(file), "mapper")
	if err := unix.Mknod(node, unix.S_IFCHR|0o600, int(unix.Mkdev(10, minor))); err != nil {
		return err
	}
	control, err := os.OpenFile(node, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer control.Close()
	if _, err := mapper(control, mapperCreate, ""); err != nil {
		return err
	}
	defer func() { _, _ = mapper(control, mapperRemove, "") }()
	if _, err := mapper(control, mapperLoad, fmt.Sprintf("1 %[1]s %[1]s %[2]d %[2]d 2 2 sha256 %[3]x -", device, block, root)); err != nil {
		return err
	}
	number, err := mapper(control, mapperResume, "")
	if err != nil {
		return err
	}
	guarded := filepath.Join(filepath.Dir(file), "guarded")
	if err := unix.Mknod(guarded, unix.S_IFBLK|0o600, int(number)); err != nil {
		return err
	}
	if got, err := os.ReadFile(guarded); err != nil || !bytes.Equal(got, data) {
		return fmt.Errorf("of %d bytes %d are read: %w", len(data), len(got), err)
	}
	if err := corrupt(file, device, guarded); err != nil {
		return err
	}
	if _, err := os.ReadFile(guarded); !errors.Is(err, unix.EIO) {
		return fmt.Errorf("a block that was changed is read: %w", err)
	}
	return nil
}

// corrupt changes a file's first byte, and has the devices above it forget what they read.
func corrupt(file, device, guarded string) error {
	written, err := os.OpenFile(file, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = written.WriteAt([]byte{'b'}, 0)
	if err := errors.Join(err, written.Close()); err != nil {
		return err
	}
	for _, path := range []string{device, guarded} {
		opened, err := os.Open(path)
		if err != nil {
			return err
		}
		_, err = raw("BLKFLSBUF", unix.SYS_IOCTL, opened.Fd(), unix.BLKFLSBUF, 0)
		if err := errors.Join(err, opened.Close()); err != nil {
			return err
		}
	}
	return nil
}

// mapper makes a call about the device "probe", for the table's load with the parameters of
// its one target, and returns the device's number.
func mapper(control *os.File, call uintptr, parameters string) (device uint64, err error) {
	buffer := make([]byte, mapperHeader+512)
	binary.NativeEndian.PutUint32(buffer, 4) // the version
	binary.NativeEndian.PutUint32(buffer[12:], uint32(len(buffer)))
	binary.NativeEndian.PutUint32(buffer[16:], mapperHeader) // where the targets begin
	copy(buffer[48:], "probe")
	if parameters != "" {
		binary.NativeEndian.PutUint32(buffer[20:], 1) // target
		binary.NativeEndian.PutUint32(buffer[28:], 1) // DM_READONLY_FLAG
		target := buffer[mapperHeader:]               // struct dm_target_spec
		binary.NativeEndian.PutUint64(target[8:], 16) // sectors
		copy(target[24:40], "verity")
		copy(target[40:], parameters)
	}
	_, err = raw("device mapper", unix.SYS_IOCTL, control.Fd(), mapperCall|call, uintptr(unsafe.Pointer(&buffer[0])))
	return binary.NativeEndian.Uint64(buffer[40:]), err
}

// miscMinor is the minor number of one of the kernel's miscellaneous devices.
func miscMinor(name string) (minor uint32, err error) {
	data, err := os.ReadFile("/proc/misc")
	if err != nil {
		return 0, err
	}
	for line := range strings.Lines(string(data)) {
		var found string
		if _, err := fmt.Sscan(line, &minor, &found); err == nil && found == name {
			return minor, nil
		}
	}
	return 0, fmt.Errorf("the kernel has no %s", name)
}
