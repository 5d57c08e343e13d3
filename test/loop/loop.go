// Package loop makes block devices of the host for tests.
package loop

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"golang.org/x/sys/unix"
)

// New is a loop device of a new file of a size in bytes. Both go with the test.
func New(t testing.TB, size int64, readOnly bool) (device *os.File, file string) {
	t.Helper()
	file = filepath.Join(t.TempDir(), "disk.img")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Truncate(file, size); err != nil {
		t.Fatal(err)
	}
	device, err := mount.SetupLoop(file, mount.LoopParams{Readonly: readOnly})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.IoctlSetInt(int(device.Fd()), unix.LOOP_CLR_FD, 0); err != nil {
			t.Errorf("taking %s away: %v", device.Name(), err)
		}
		device.Close()
	})
	return device, file
}
