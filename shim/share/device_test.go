package share

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/loop"
)

// loopDevice is a block device of a size, by its numbers.
func loopDevice(t *testing.T, size int64) (major, minor uint32) {
	t.Helper()
	device, _ := loop.New(t, size, false)
	var s unix.Stat_t
	if err := unix.Fstat(int(device.Fd()), &s); err != nil {
		t.Fatal(err)
	}
	return unix.Major(s.Rdev), unix.Minor(s.Rdev)
}

// A block device is staged once for all that may do the same with it, and has a number of its
// own.
func TestAddDevice(t *testing.T) {
	trees := trees(t)
	trees.shield = &shieldOf{serves: file(t, "")}
	add := func(major, minor uint32, readOnly bool) Share {
		t.Helper()
		device, err := OpenDevice("/dev/disk", major, minor, readOnly)
		if err != nil {
			t.Fatal(err)
		}
		defer device.Close()
		if device.BlockSize != 512 || device.ReadOnly != readOnly {
			t.Errorf("%+v", device)
		}
		share, err := trees.AddDevice(device)
		if err != nil {
			t.Fatal(err)
		}
		return share
	}
	major, minor := loopDevice(t, 1<<20)
	first, again, locked := add(major, minor, false), add(major, minor, false), add(major, minor, true)
	major, minor = loopDevice(t, 1<<20)
	other := add(major, minor, false)
	if again.Tag != first.Tag || again.Number != first.Number {
		t.Errorf("%+v; the first is %+v", again, first)
	}
	for name, share := range map[string]Share{"one to be read": locked, "another device": other} {
		if share.Tag == first.Tag || share.Number == first.Number {
			t.Errorf("%s is %+v; the first is %+v", name, share, first)
		}
	}
	if trees.Release(again) || !trees.Release(first) {
		t.Error("the last user is another")
	}
}

func TestOpenDeviceRefused(t *testing.T) {
	major, minor := loopDevice(t, 0)
	for want, numbers := range map[string][2]uint32{
		"cannot be opened: the host's block device 8:255": {8, 255},
		"has a size of 0": {major, minor},
	} {
		_, err := OpenDevice("/dev/disk", numbers[0], numbers[1], false)
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "device /dev/disk") || !strings.Contains(err.Error(), want) {
			t.Errorf("%v, want %s", err, want)
		}
	}
}
