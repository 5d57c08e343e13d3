package kit

import (
	"errors"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"testing"
	"testing/fstest"
	"time"

	"golang.org/x/sys/unix"
)

func kitOf(shim string) fstest.MapFS {
	return fstest.MapFS{
		"bin/containerd-shim-msb-v2": {Data: []byte(shim), Mode: 0o755},
		"lib/msb/vmlinux":            {Data: []byte("kernel"), Mode: 0o600},
		"config.toml":                {Data: []byte("driver = 'auto'"), Mode: 0o644},
	}
}

func newStore(t *testing.T) Store {
	return Store{Dir: filepath.Join(t.TempDir(), "opt", "msb"), Proc: "/proc"}
}

func put(t *testing.T, s Store, source fs.FS) string {
	t.Helper()
	version, err := s.Put(source)
	if err != nil {
		t.Fatal(err)
	}
	return version
}

func versionsOf(t *testing.T, s Store) (names []string) {
	t.Helper()
	entries, err := os.ReadDir(s.versions())
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	return names
}

func TestPut(t *testing.T) {
	s := newStore(t)
	first := put(t, s, kitOf("1"))
	file := filepath.Join(s.versions(), first, "lib", "msb", "vmlinux")
	before, err := os.Stat(file)
	if err != nil || before.Mode() != 0o644 {
		t.Fatalf("vmlinux: %v, %v", before, err)
	}
	if shim, err := os.Stat(filepath.Join(s.versions(), first, "bin", "containerd-shim-msb-v2")); err != nil || shim.Mode() != 0o755 {
		t.Errorf("the shim: %v, %v", shim, err)
	}
	if again := put(t, s, kitOf("1")); again != first {
		t.Errorf("the same kit is version %s and %s", first, again)
	}
	if after, err := os.Stat(file); err != nil || !os.SameFile(before, after) {
		t.Errorf("the same kit was written again (%v)", err)
	}
	if second := put(t, s, kitOf("2")); second == first {
		t.Errorf("another kit is version %s too", second)
	}
	if err := os.WriteFile(file, []byte("half"), 0o644); err != nil {
		t.Fatal(err)
	}
	put(t, s, kitOf("1"))
	if content, err := os.ReadFile(file); err != nil || string(content) != "kernel" {
		t.Errorf("a damaged kit was left so: %q, %v", content, err)
	}
	if _, err := s.Put(fstest.MapFS{"link": {Data: []byte("/etc/shadow"), Mode: fs.ModeSymlink}}); err == nil {
		t.Error("a kit with a link was taken")
	}
}

func TestUse(t *testing.T) {
	s := newStore(t)
	first, second := put(t, s, kitOf("1")), put(t, s, kitOf("2"))
	for _, version := range []string{first, second, second, ""} {
		if err := s.Use(version); err != nil {
			t.Fatal(err)
		}
		current, err := s.Current()
		if err != nil || current != version {
			t.Errorf("the version in use is %q, %v, want %q", current, err, version)
		}
		content, err := os.ReadFile(filepath.Join(s.Dir, "current", "bin", "containerd-shim-msb-v2"))
		if (version != "") != (err == nil) || version == second && string(content) != "2" {
			t.Errorf("the shim of %q is %q, %v", version, content, err)
		}
	}
}

// A version stays while a process runs from it.
func TestPrune(t *testing.T) {
	s := newStore(t)
	sleep, err := os.ReadFile("/bin/sleep")
	if err != nil {
		t.Fatal(err)
	}
	first, second := put(t, s, kitOf(string(sleep))), put(t, s, kitOf("2"))
	if err := s.Use(first); err != nil {
		t.Fatal(err)
	}
	shim := exec.Command(filepath.Join(s.Dir, "current", "bin", "containerd-shim-msb-v2"), "600")
	if err := shim.Start(); err != nil {
		t.Fatal(err)
	}
	end := func() { _, _ = shim.Process.Kill(), shim.Wait() }
	defer end()
	if err := s.Use(second); err != nil {
		t.Fatal(err)
	}
	expect := func(pids []int, names ...string) {
		t.Helper()
		inUse, err := s.Prune()
		if err != nil || !slices.Equal(inUse, pids) {
			t.Errorf("Prune = %v, %v, want %v", inUse, err, pids)
		}
		if slices.Sort(names); !slices.Equal(versionsOf(t, s), names) {
			t.Errorf("left is %v, want %v", versionsOf(t, s), names)
		}
	}
	waitFor(t, func() bool { inUse, err := s.Prune(); return err == nil && len(inUse) == 1 })
	expect([]int{shim.Process.Pid}, first, second)
	if err := os.Mkdir(filepath.Join(s.versions(), ".new-x"), 0o700); err != nil {
		t.Fatal(err)
	}
	expect([]int{shim.Process.Pid}, first, second)
	end()
	expect(nil, second)
	if err := s.Use(""); err != nil {
		t.Fatal(err)
	}
	expect(nil)
	if err := s.Remove(); err != nil {
		t.Error(err)
	}
}

func waitFor(t *testing.T, done func() bool) {
	t.Helper()
	for range 100 {
		if done() {
			return
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("waited for nothing")
}

func TestLock(t *testing.T) {
	s := newStore(t)
	unlock, err := s.Lock()
	if err != nil {
		t.Fatal(err)
	}
	type result struct {
		unlock func()
		err    error
	}
	second := make(chan result)
	go func() {
		unlock, err := s.Lock()
		second <- result{unlock, err}
	}()
	select {
	case r := <-second:
		t.Fatalf("two hold the lock (%v)", r.err)
	case <-time.After(50 * time.Millisecond):
	}
	// A lock on a directory that is gone keeps nobody out of the new one.
	if err := errors.Join(os.Remove(s.Dir), os.Mkdir(s.Dir, 0o755)); err != nil {
		t.Fatal(err)
	}
	unlock()
	r := <-second
	if r.err != nil {
		t.Fatal(r.err)
	}
	defer r.unlock()
	dir, err := os.Open(s.Dir)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX|unix.LOCK_NB); !errors.Is(err, unix.EWOULDBLOCK) {
		t.Errorf("the directory that is there is not locked (%v)", err)
	}
}

func TestHolder(t *testing.T) {
	s := newStore(t)
	put(t, s, kitOf("1"))
	for _, who := range []string{"a", "b", ""} {
		if err := s.Hold(who); err != nil {
			t.Fatal(err)
		}
		if now, err := s.Holder(); err != nil || now != who {
			t.Errorf("the holder is %q, %v, want %q", now, err, who)
		}
	}
}
