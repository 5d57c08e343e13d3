package spare

import (
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
)

// addDead adds one that was killed to a pool.
func addDead(t *testing.T, pool Pool, name string) {
	t.Helper()
	w := listen(t, pool, name)
	w.listener.SetUnlinkOnClose(false)
	w.listener.Close()
	if _, err := os.Lstat(w.socket()); err != nil {
		t.Fatal(err)
	}
}

// A start finds no spare where there is none that lives, waits, and has the size.
func TestTakeNone(t *testing.T) {
	pool := poolAt(t.TempDir())
	none := func(what string) {
		t.Helper()
		if pool.Take(small, newStart(t, what)) {
			t.Errorf("%s: it is taken", what)
		}
	}
	none("no directory")
	if err := os.MkdirAll(pool.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	none("none")
	addDead(t, pool, prefix(small)+"1")
	none("a dead one")
	booting, err := newPlace(filepath.Join(pool.dir, prefix(small)+"2"))
	if err != nil {
		t.Fatal(err)
	}
	defer booting.lock.Close()
	none("one that boots")
	other := listen(t, pool, prefix(large)+"3")
	go other.accept(make(chan *Start, 1))
	none("another size")
	used := listen(t, pool, prefix(small)+"4")
	go used.accept(make(chan *Start, 1))
	if err := os.Remove(filepath.Join(used.place.dir, waitingFile)); err != nil {
		t.Fatal(err)
	}
	none("one that is used")
	if err := os.WriteFile(pool.root+"/file", nil, 0o600); err != nil {
		t.Fatal(err)
	}
	pool.dir = pool.root + "/file"
	none("a pool that cannot be read")
}

// Dead ones do not keep a start from the one that lives.
func TestTake(t *testing.T) {
	for range 8 { // the order is drawn
		pool := poolAt(t.TempDir())
		for _, name := range []string{"1", "2", "3"} {
			addDead(t, pool, prefix(small)+name)
		}
		w, starts := listen(t, pool, prefix(small)+"4"), make(chan *Start, 1)
		go w.accept(starts)
		if !pool.Take(small, newStart(t, "a")) {
			t.Fatal("the living one is not found")
		}
		(<-starts).close()
	}
}

// Only a spare that says so has taken a start.
func TestHandOver(t *testing.T) {
	pool := poolAt(t.TempDir())
	silent := listen(t, pool, "silent") // the kernel connects, and nobody answers
	for what, deadline := range map[string]time.Time{
		"one that hangs": time.Now().Add(10 * time.Millisecond), "no time left": time.Now().Add(-time.Second),
	} {
		if handOver(silent.socket(), newStart(t, what), deadline) {
			t.Errorf("%s has taken it", what)
		}
	}
	later := time.Now().Add(time.Hour)
	for _, says := range []string{"no", "", accepted + "!", "accepte"} {
		w := listen(t, pool, "says "+says)
		go func() {
			conn, err := w.listener.AcceptUnix()
			if err != nil {
				return
			}
			defer conn.Close()
			start, err := receive(conn)
			if err != nil {
				t.Error(err)
			}
			start.close()
			if says != "" {
				if _, err := conn.Write([]byte(says)); err != nil {
					t.Error(err)
				}
			}
		}()
		if handOver(w.socket(), newStart(t, says), later) {
			t.Errorf("one that says %q has taken it", says)
		}
	}
	if handOver(notRoots(t), newStart(t, "another"), later) {
		t.Error("one that is not root's has taken it")
	}
}

// notRoots is the socket of somebody who is not root, and accepts everything.
func notRoots(t *testing.T) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "socket")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), path)
	defer file.Close()
	if err := unix.Bind(fd, &unix.SockaddrUnix{Name: path}); err != nil {
		t.Fatal(err)
	}
	err = thread.Run(func() error {
		// This thread's only: it ends with the function.
		if _, _, number := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 65534, ^uintptr(0)); number != 0 {
			return number
		}
		return unix.Listen(fd, 1) // whose credentials the other end sees (unix(7))
	})
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.FileListener(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		_, _ = conn.Write([]byte(accepted))
		_, _ = conn.Read(make([]byte, maxStart))
	}()
	return path
}

// Of two starts at once one gets the spare, and knows it.
func TestTakeAtOnce(t *testing.T) {
	for range 50 {
		pool := poolAt(t.TempDir())
		w, starts := listen(t, pool, prefix(small)+"1"), make(chan *Start, 2)
		names := []string{"a", "b"}
		taken := make([]bool, len(names))
		var takers sync.WaitGroup
		for i, name := range names {
			start := newStart(t, name)
			takers.Go(func() { taken[i] = pool.Take(small, start) })
		}
		go w.accept(starts)
		takers.Wait()
		start := <-starts
		if start == nil || taken[0] == taken[1] {
			t.Fatalf("taken: %t, arrived: %+v", taken, start)
		}
		start.close()
		if arrived := start.Args[0]; taken[0] != (arrived == "a") {
			t.Errorf("taken: %t, and %s arrives", taken, arrived)
		}
		if _, more := <-starts; more {
			t.Error("a second start arrives")
		}
	}
}
