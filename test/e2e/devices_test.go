package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/loop"
)

// A block device of the host's is one of the guest's: it has its size, what is written to it is on
// the host's, and nothing is written beyond it, nor to one that may only be read.
func TestBlockDevices(t *testing.T) {
	nothingLeft(t)
	const size = 24 << 20
	data, file := loop.New(t, size, false)
	locked, _ := loop.New(t, size, true)
	c := start(t, options{spec: []oci.SpecOpts{
		oci.WithDevices(data.Name(), "/dev/disk", "rwm"), oci.WithDevices(locked.Name(), "/dev/locked", "rwm"), oci.WithAddedCapabilities([]string{"CAP_SYS_ADMIN"}),
	}}, sleeper...)
	c.keepShell()
	for _, want := range []struct{ script, printed string }{
		{"wc -c </dev/disk; stat -c '%F %u' /dev/disk; cat /sys/block/loop*/queue/logical_block_size | sort -u", fmt.Sprintf("%d\nblock special file 0\n512", size)},
		{"printf written | dd of=/dev/disk bs=4096 seek=1000 conv=fsync,notrunc 2>/dev/null; dd if=/dev/disk bs=4096 skip=1000 count=1 2>/dev/null | head -c 7", "written"},
		{"dd if=/dev/zero of=/dev/disk bs=1M seek=23 2>&1 | grep -o 'No space left on device'", "No space left on device"},
		{"dd if=/dev/zero of=/dev/locked bs=1M count=1 conv=fsync 2>&1 | grep -c 'not permitted\\|Read-only\\|denied'", "1"},
	} {
		if got := c.must(want.script); got != want.printed {
			t.Errorf("%s\nprinted %q, want %q", want.script, got, want.printed)
		}
	}
	// What was synchronised is on the host.
	there := make([]byte, len("written"))
	if _, err := data.ReadAt(there, 1000*4096); err != nil || string(there) != "written" {
		t.Errorf("the host's device has %q, %v", there, err)
	}
	c.must("mke2fs -q /dev/disk; mount -t ext4 /dev/disk /mnt; echo kept >/mnt/kept; umount /mnt")
	c.end()
	if info, err := os.Stat(file); err != nil || info.Size() != size {
		t.Errorf("the device's file: %v, %v", info, err)
	}
	wantCleanImage(t, data.Name())

	// By its rule it may only be read; its number in the guest is another.
	c = start(t, options{spec: []oci.SpecOpts{oci.WithDevices(data.Name(), "/dev/other", "r")}}, sleeper...)
	if got := c.must("head -c 1048576 /dev/other | grep -c kept"); got != "1" {
		t.Errorf("the next container finds %q", got)
	}
	c.mustFail("echo >/dev/other", "Operation not permitted")
	c.end()
}

// What is no block device of the host's is refused before a VM boots.
func TestBlockDevicesRefused(t *testing.T) {
	nothingLeft(t)
	gone := filepath.Join(t.TempDir(), "gone")
	if err := unix.Mknod(gone, unix.S_IFBLK|0o600, int(unix.Mkdev(8, 255))); err != nil {
		t.Fatal(err)
	}
	wantNoTask(t, "device "+gone+" cannot be opened: the host's block device 8:255", "--device", gone)
	empty, _ := loop.New(t, 0, false)
	wantNoTask(t, "device "+empty.Name()+": the host's block device ", "--device", empty.Name())
	there, _ := loop.New(t, 1<<20, false)
	wantNoTask(t, "device "+there.Name()+": a VM that has the host's network", "--device", there.Name(), "--net-host")
}
