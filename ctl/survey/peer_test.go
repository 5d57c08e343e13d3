package survey

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/rawcall"
	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
)

// Who is not root is not taken for containerd.
func TestPeerOf(t *testing.T) {
	const user = 65534
	for name, id := range map[string]int{"root": 0, "user": user} {
		path := filepath.Join(t.TempDir(), name)
		fd := -1
		err := thread.Run(func() (err error) {
			fd, err = unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				return err
			}
			if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
				return err
			}
			// The kernel notes the user of the thread that begins to listen.
			if err := rawcall.SetThreadUser(uint32(id)); err != nil {
				return err
			}
			return unix.Listen(fd, 1)
		})
		defer unix.Close(fd)
		if err != nil {
			t.Fatal(err)
		}
		pid, err := PeerOf(t.Context(), path)
		if id == 0 && (err != nil || pid != unix.Getpid()) {
			t.Errorf("root's: %d, %v", pid, err)
		}
		if id != 0 && (err == nil || !strings.Contains(err.Error(), "of user 65534 listens on "+path)) {
			t.Errorf("a user's: %d, %v", pid, err)
		}
	}
}

// A file in the place of containerd's state directory is not taken for a host without containers.
func TestStateIsFile(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := (Host{State: path, Proc: "/proc"}).Find(t.Context()); err == nil || !strings.Contains(err.Error(), path+" is no directory") {
		t.Error(err)
	}
}
