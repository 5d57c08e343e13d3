package transfer

import (
	"errors"
	"os"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
)

// namespaceOf is the mount namespace of this thread.
func namespaceOf(t *testing.T) string {
	t.Helper()
	name, err := os.Readlink("/proc/thread-self/ns/mnt")
	if err != nil {
		t.Error(err)
	}
	return name
}

// A function runs in the container's mount namespace, on a thread that stays: the kernel
// would kill what was started from one that ends.
func TestEnter(t *testing.T) {
	roots := New()
	var want string
	err := thread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return err
		}
		want = namespaceOf(t)
		return roots.Keep("c", uint32(unix.Gettid()))
	})
	if err != nil {
		t.Fatal(err)
	}
	in, done, err := roots.Enter("c")
	if err != nil {
		t.Fatal(err)
	}
	failed := errors.New("failed")
	threads := make(map[int]bool)
	for range 10 {
		err := in(func() error {
			threads[unix.Gettid()] = true
			if got := namespaceOf(t); got != want {
				t.Errorf("in %s, want %s", got, want)
			}
			return failed
		})
		if !errors.Is(err, failed) {
			t.Errorf("the function's error is %v", err)
		}
		if got := namespaceOf(t); got == want {
			t.Error("another thread is in the container's mount namespace")
		}
	}
	if len(threads) != 1 {
		t.Errorf("on %d threads", len(threads))
	}
	back := make(chan string)
	roots.guide.jobs <- func() { back <- namespaceOf(t) }
	if got := <-back; got == want {
		t.Error("the thread has stayed in the container's mount namespace")
	}
	done()
	roots.Drop("c")
	if _, _, err := roots.Enter("c"); !errdefs.IsNotFound(err) {
		t.Errorf("Enter of a container that has gone: %v", err)
	}
}
