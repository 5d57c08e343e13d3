package shield

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/loop"
)

// addFixed adds a file that keeps its size, and tells where it is on the host and in the shield.
func addFixed(t *testing.T, s *Shield, content []byte) (host, path string) {
	t.Helper()
	host = filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(host, content, 0o600); err != nil {
		t.Fatal(err)
	}
	entry, err := s.AddFixed("image", open(t, host, unix.O_PATH))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { entry.Close() })
	return host, fmt.Sprintf("/proc/self/fd/%d", entry.Fd())
}

// A file that keeps its size takes what fits and not a byte more, whatever way there is to
// make a file grow or shrink; its data is the host's, its mode is not.
func TestFixed(t *testing.T) {
	const size = 8 << 10
	s := start(t)
	host, path := addFixed(t, s, make([]byte, size))
	file := open(t, path, os.O_RDWR)
	defer file.Close()

	if n, err := file.WriteAt([]byte("written"), size-7); n != 7 || err != nil {
		t.Errorf("writing up to the end: %d, %v", n, err)
	}
	if n, err := unix.Pwrite(int(file.Fd()), make([]byte, 4096), size-100); n != 100 || err != nil {
		t.Errorf("writing over the end: %d, %v", n, err)
	}
	fd := int(file.Fd())
	for name, attempt := range map[string]func() error{
		"write at the end":      func() error { _, err := unix.Pwrite(fd, []byte("x"), size); return err },
		"write beyond":          func() error { _, err := unix.Pwrite(fd, []byte("x"), 1<<40); return err },
		"truncate, opened":      func() error { return unix.Ftruncate(fd, size+1) },
		"truncate to less":      func() error { return unix.Ftruncate(fd, 1) },
		"truncate by name":      func() error { return unix.Truncate(path, 1<<30) },
		"open to truncate":      func() error { return openAndClose(path, unix.O_WRONLY|unix.O_TRUNC) },
		"open to append":        func() error { return openAndClose(path, unix.O_WRONLY|unix.O_APPEND) },
		"allocate":              func() error { return unix.Fallocate(fd, 0, size, 4096) },
		"allocate over the end": func() error { return unix.Fallocate(fd, 0, 4096, size) },
		"allocate unseen":       func() error { return unix.Fallocate(fd, unix.FALLOC_FL_KEEP_SIZE, size, 1<<30) },
		"insert":                func() error { return unix.Fallocate(fd, unix.FALLOC_FL_INSERT_RANGE, 0, 4096) },
		"collapse":              func() error { return unix.Fallocate(fd, unix.FALLOC_FL_COLLAPSE_RANGE, 0, 4096) },
		"copy behind the end":   func() error { return copyRange(fd, size) },
	} {
		if err := attempt(); err == nil {
			t.Errorf("%s: no error", name)
		}
		var stat unix.Stat_t
		if err := unix.Stat(host, &stat); err != nil || stat.Size != size || stat.Blocks > size/512 {
			t.Fatalf("%s: the host's file has %d bytes in %d blocks, %v", name, stat.Size, stat.Blocks, err)
		}
	}

	if err := errors.Join(unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096), file.Sync(), file.Chmod(0o777)); err != nil {
		t.Error(err)
	}
	info, err := os.Stat(host)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("the host's file is %v, %v", info, err)
	}
	content, err := os.ReadFile(host)
	if want := append(make([]byte, size-100), make([]byte, 100)...); err != nil || !bytes.Equal(content, want) {
		t.Errorf("the host's file has other content, %v", err)
	}
}

// A block device is a file of its size, whose bytes are the device's.
func TestFixedDevice(t *testing.T) {
	const size = 1 << 20
	device, backing := loop.New(t, size, false)
	s := start(t)
	entry, err := s.AddFixed("device", open(t, device.Name(), unix.O_PATH))
	if err != nil {
		t.Fatal(err)
	}
	defer entry.Close()
	path := fmt.Sprintf("/proc/self/fd/%d", entry.Fd())
	info, err := os.Stat(path)
	if err != nil || !info.Mode().IsRegular() || info.Size() != size {
		t.Fatalf("%v, %v", info, err)
	}
	file := open(t, path, os.O_RDWR)
	defer file.Close()
	if n, err := file.WriteAt([]byte("written"), size-7); n != 7 || err != nil {
		t.Errorf("writing up to the end: %d, %v", n, err)
	}
	if _, err := file.WriteAt([]byte("x"), size); !errors.Is(err, unix.ENOSPC) {
		t.Errorf("writing beyond: %v", err)
	}
	if err := errors.Join(file.Chmod(0o640), unix.Fallocate(int(file.Fd()), unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4096), file.Sync()); err != nil {
		t.Error(err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode() != 0o640 || info.Size() != size {
		t.Errorf("after chmod: %v, %v", info, err)
	}
	content, err := os.ReadFile(backing)
	if err != nil || string(content[size-7:]) != "written" {
		t.Errorf("the device has %q, %v", content[size-7:], err)
	}
	if err := s.Remove("device"); err != nil {
		t.Fatal(err)
	}
	if _, err := file.ReadAt(make([]byte, 4), 0); err == nil {
		t.Error("it can be read after it was taken away")
	}
}

// An image that is taken away is out of reach of who still has it open, and held by nothing:
// its next user has it alone.
func TestFixedRevoked(t *testing.T) {
	s := start(t)
	host, path := addFixed(t, s, []byte("content"))
	file := open(t, path, os.O_RDWR)
	if _, err := file.WriteAt([]byte("C"), 0); err != nil {
		t.Fatal(err)
	}
	if err := s.Remove("image"); err != nil {
		t.Fatal(err)
	}
	links, err := filepath.Glob(fmt.Sprintf("/proc/%d/fd/*", s.process.Pid()))
	if err != nil || len(links) == 0 {
		t.Fatal(links, err)
	}
	for _, link := range links {
		if to, _ := os.Readlink(link); to == host {
			t.Error("the process has the file open")
		}
	}
	fd := int(file.Fd())
	for name, attempt := range map[string]func() error{
		"write":    func() error { _, err := file.WriteAt([]byte("late"), 0); return err },
		"read":     func() error { _, err := file.ReadAt(make([]byte, 4), 0); return err },
		"sync":     file.Sync,
		"allocate": func() error { return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 4) },
		"open":     func() error { return openAndClose(path, unix.O_RDWR) },
	} {
		if err := attempt(); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if got, err := os.ReadFile(host); string(got) != "Content" {
		t.Errorf("the host has %q, %v", got, err)
	}
}

func openAndClose(path string, flags int) error {
	file, err := os.OpenFile(path, flags, 0)
	if err != nil {
		return err
	}
	return file.Close()
}

func copyRange(fd int, to int64) error {
	from := int64(0)
	_, err := unix.CopyFileRange(fd, &from, fd, &to, 4096, 0)
	return err
}
