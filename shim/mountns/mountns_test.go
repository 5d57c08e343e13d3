package mountns

import (
	"errors"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"golang.org/x/sys/unix"
)

// other is a namespace with a tmpfs on dir that has a file; the test's has not.
func other(t *testing.T, dir string) Namespace {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test mounts: run it as root")
	}
	var file *os.File
	err := Namespace{}.Copy(func() (err error) {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, "file"), nil, 0o600); err != nil {
			return err
		}
		file, err = os.Open("/proc/thread-self/ns/mnt")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return Of(file)
}

// Many at a time are each in the namespace, and nobody else is.
func TestDo(t *testing.T) {
	dir := t.TempDir()
	n := other(t, dir)
	failure := errors.New("failure")
	var all, inside sync.WaitGroup
	const many = 20
	inside.Add(many)
	for range many {
		all.Go(func() {
			err := n.Do(func() error {
				inside.Done()
				inside.Wait() // for the others
				_, err := os.Stat(filepath.Join(dir, "file"))
				return errors.Join(err, failure)
			})
			if !errors.Is(err, failure) || errors.Is(err, os.ErrNotExist) {
				t.Errorf("Do = %v", err)
			}
		})
	}
	all.Wait()
	if len(n.idle) != 1 {
		t.Errorf("%d threads are kept", len(n.idle))
	}
	first := <-n.idle
	n.idle <- first
	if file, err := n.OpenFile(filepath.Join(dir, "file"), os.O_RDONLY, 0); err != nil {
		t.Error(err)
	} else {
		file.Close()
	}
	if again := <-n.idle; again != first {
		t.Error("the thread that was kept is not used again")
	}
	if _, err := os.Stat(filepath.Join(dir, "file")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("in the test's own namespace: %v", err)
	}
	if err := (Namespace{}).Do(func() error { return failure }); !errors.Is(err, failure) {
		t.Errorf("in the caller's: %v", err)
	}
}

// What is mounted in a copy is nowhere else.
func TestCopy(t *testing.T) {
	dir := t.TempDir()
	n := other(t, dir)
	err := n.Copy(func() error {
		if _, err := os.Stat(filepath.Join(dir, "file")); err != nil {
			return err
		}
		return unix.Mount("tmpfs", dir, "tmpfs", 0, "")
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Do(func() error { _, err := os.Stat(filepath.Join(dir, "file")); return err }); err != nil {
		t.Error(err)
	}
}

// A file that is no namespace is an error, and not the caller's namespace.
func TestNoNamespace(t *testing.T) {
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	run := func() error { t.Error("it runs"); return nil }
	if err := Of(file).Do(run); !errors.Is(err, unix.EINVAL) {
		t.Errorf("Do = %v", err)
	}
	if err := Of(file).Copy(run); !errors.Is(err, unix.EINVAL) {
		t.Errorf("Copy = %v", err)
	}
}
