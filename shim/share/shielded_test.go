package share

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
)

// shieldRights notes whether the file that it is given can be written.
type shieldRights struct {
	serves   string
	readOnly bool
}

func (s *shieldRights) Add(_ string, file, _ *os.File, _ string) (*os.File, error) {
	var stat unix.Statfs_t
	if err := unix.Fstatfs(int(file.Fd()), &stat); err != nil {
		return nil, err
	}
	s.readOnly = stat.Flags&unix.ST_RDONLY != 0
	return os.OpenFile(s.serves, unix.O_PATH, 0)
}

func (s *shieldRights) AddFixed(name string, file *os.File) (*os.File, error) {
	return s.Add(name, file, nil, "")
}

func (*shieldRights) Remove(string) error { return nil }

// A read-only file is read-only for the shield, too: who owns that cannot write it. One
// that something is mounted on is followed as any other.
func TestShieldedReadOnly(t *testing.T) {
	trees, shield := trees(t), &shieldRights{serves: file(t, "")}
	trees.shield = shield
	path := file(t, "content")
	if err := unix.Mount(path, path, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(path, unix.MNT_DETACH)
	for _, readOnly := range []bool{true, false} {
		add(t, trees, path, Attributes{Shield: true, Follow: true, ReadOnly: readOnly})
		if shield.readOnly != readOnly {
			t.Errorf("asked read-only %v, the shield's file is read-only: %v", readOnly, shield.readOnly)
		}
	}
	add(t, trees, file(t, ""), Attributes{Shield: true, Follow: true, ReadOnly: true, IDMap: shifted})
	if !shield.readOnly {
		t.Error("with mapped owners the shield may write a read-only file")
	}
}

// A source is followed by its name only if that is its own: the kernel calls a file that was replaced
// "NAME (deleted)", which another may be called, too.
func TestFollowSwapped(t *testing.T) {
	path := file(t, "content")
	source, err := OpenSource(mountns.Namespace{}, path)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	dir, base, err := source.Directory()
	if err != nil || base != filepath.Base(path) {
		t.Fatalf("Directory = %q, %v", base, err)
	}
	dir.Close()
	if err := errors.Join(os.WriteFile(path+" (deleted)", []byte("another's"), 0o600), os.Remove(path)); err != nil {
		t.Fatal(err)
	}
	if _, base, err := source.Directory(); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "was replaced") {
		t.Errorf("Directory = %q, %v", base, err)
	}
}
