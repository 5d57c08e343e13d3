package network

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
)

// A path of a network namespace is one of containerd's mount namespace, where CNI has mounted
// it.
func TestNamespaceOfAnotherMountNamespace(t *testing.T) {
	made, err := newNamespace()
	if err != nil {
		t.Fatal(err)
	}
	defer made.Close()
	path := filepath.Join(t.TempDir(), "cni")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	var mounts *os.File
	err = thread.Run(func() (err error) {
		err = errors.Join(unix.Unshare(unix.CLONE_FS|unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""))
		if err != nil {
			return err
		}
		if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", made.Fd()), path, "", unix.MS_BIND, ""); err != nil {
			return err
		}
		mounts, err = os.Open("/proc/thread-self/ns/mnt")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	defer mounts.Close()
	opened, err := openNamespace(mountns.Of(mounts), path)
	if err != nil {
		t.Fatal(err)
	}
	defer opened.Close()
	want, wantErr := made.Stat()
	if got, err := opened.Stat(); errors.Join(err, wantErr) != nil || !os.SameFile(got, want) {
		t.Errorf("another namespace was opened: %v, %v", err, wantErr)
	}
}
