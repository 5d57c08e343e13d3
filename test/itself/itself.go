// Package itself is what tests ask of their own process: what it has in use, what it has left, and a
// connection with both ends in it.
package itself

import (
	"net"
	"os"
	"runtime"
	"testing"
	"time"

	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// patience bounds the wait for what must come; nothing has ever come near it. This package's test changes
// it.
var patience = 2 * time.Minute

// Eventually looks again and again whether a condition holds, and tells whether it did in the end.
func Eventually(holds func() bool) bool {
	for deadline := time.Now().Add(patience); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			return false
		}
	}
	return true
}

// Await is Eventually for what is named, without which the test does not go on.
func Await(t testing.TB, what string, holds func() bool) {
	t.Helper()
	if !Eventually(holds) {
		t.Fatalf("waited in vain for %s\n%s", what, stacks())
	}
}

// NothingLeft fails the test if there are more goroutines after it than there are now. A bubble of
// testing/synctest sees to that itself.
func NothingLeft(t testing.TB) {
	t.Helper()
	before := runtime.NumGoroutine()
	t.Cleanup(func() {
		if !Eventually(func() bool { return runtime.NumGoroutine() <= before }) {
			t.Errorf("%d goroutines before, and %d after:\n%s", before, runtime.NumGoroutine(), stacks())
		}
	})
}

// stacks are those of all goroutines.
func stacks() []byte {
	text := make([]byte, 1<<20)
	return text[:runtime.Stack(text, true)]
}

// Memory is what the process has in use, in bytes.
func Memory() int64 {
	runtime.GC()
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return int64(stats.HeapInuse + stats.StackInuse)
}

// Connection is both ends of one, which the caller closes.
func Connection(t testing.TB) (one, other net.Conn) {
	t.Helper()
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	var ends [2]net.Conn
	for i, fd := range fds {
		file := os.NewFile(uintptr(fd), "connection")
		if ends[i], err = net.FileConn(file); err != nil {
			t.Fatal(err)
		}
		file.Close()
	}
	return ends[0], ends[1]
}

// MountsBelow are the mount points at a directory and below it.
func MountsBelow(t testing.TB, dir string) (points []string) {
	t.Helper()
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(dir))
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range mounts {
		points = append(points, m.Mountpoint)
	}
	return points
}
