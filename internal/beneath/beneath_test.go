package beneath

import (
	"errors"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

func TestOpen(t *testing.T) {
	root := t.TempDir()
	outside := t.TempDir()
	for _, err := range []error{
		os.MkdirAll(filepath.Join(root, "a/b"), 0o755),
		os.Symlink(outside, filepath.Join(root, "out")),
		os.Symlink("a", filepath.Join(root, "in")),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for name, want := range map[string]error{"": nil, "a/b": nil, "out": unix.ELOOP, "in/b": unix.ELOOP, "../x": unix.EXDEV, "none": unix.ENOENT} {
		dir, err := Open(root, name)
		if !errors.Is(err, want) || (err == nil) != (want == nil) {
			t.Errorf("%q: %v, want %v", name, err, want)
		}
		if err != nil {
			continue
		}
		if got, _ := filepath.EvalSymlinks(Path(dir)); got != filepath.Join(root, name) {
			t.Errorf("%q leads to %s", name, got)
		}
		dir.Close()
	}
}

func TestMake(t *testing.T) {
	root, outside := t.TempDir(), t.TempDir()
	if err := os.Symlink(outside, filepath.Join(root, "out")); err != nil {
		t.Fatal(err)
	}
	old := unix.Umask(0o077)
	defer unix.Umask(old)
	for range 2 {
		if err := Make(root, "a/upper", 0o755, os.Getuid(), os.Getgid()); err != nil {
			t.Fatal(err)
		}
	}
	if info, err := os.Stat(filepath.Join(root, "a/upper")); err != nil || info.Mode().Perm() != 0o755 {
		t.Errorf("%v, %v", info, err)
	}
	if err := Make(root, "out/upper", 0o755, os.Getuid(), os.Getgid()); err == nil {
		t.Error("a link out of the root was followed")
	}
	if entries, err := os.ReadDir(outside); len(entries) > 0 || err != nil {
		t.Errorf("outside has %v, %v", entries, err)
	}
}
