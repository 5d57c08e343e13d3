package config

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
)

// What cannot be read is told at once, waits for nobody, and is not passed over; the rest is read.
func TestUnreadable(t *testing.T) {
	for name, c := range map[string]struct {
		make func(dir string) error // beside config.toml, which is right
		want string                 // after the directory
	}{
		"a loop":      {func(dir string) error { return os.Symlink("10.toml", dir+"/config.d/10.toml") }, "/config.d/10.toml: it cannot be read: too many levels of symbolic links"},
		"a lost link": {func(dir string) error { return os.Symlink("/no/file", dir+"/config.d/10.toml") }, "/config.d/10.toml: it cannot be read: no such file or directory"},
		"a directory": {func(dir string) error { return os.Mkdir(dir+"/config.d/10.toml", 0o700) }, "/config.d/10.toml: it cannot be read: it is no regular file"},
		"a FIFO":      {func(dir string) error { return unix.Mkfifo(dir+"/config.d/10.toml", 0o600) }, "/config.d/10.toml: it cannot be read: it is no regular file"},
		"no end":      {func(dir string) error { return os.Symlink("/dev/zero", dir+"/config.d/10.toml") }, "/config.d/10.toml: it cannot be read: it is no regular file"},
		"no directory": {func(dir string) error {
			return replace(dir+"/config.d", func(p string) error { return os.WriteFile(p, nil, 0o600) })
		}, "/config.d: it cannot be read: not a directory"},
		"a loop of it": {func(dir string) error {
			return replace(dir+"/config.d", func(p string) error { return os.Symlink("config.d", p) })
		}, "/config.d: it cannot be read: too many levels of symbolic links"},
		"a lost one": {func(dir string) error {
			return replace(dir+"/config.d", func(p string) error { return os.Symlink("/no/dir", p) })
		}, "/config.d: it cannot be read: no such file or directory"},
		"no file at all": {func(dir string) error { return os.Remove(dir + "/config.toml") }, "/config.toml: it cannot be read: no such file or directory"},
		"a FIFO for it": {func(dir string) error {
			return replace(dir+"/config.toml", func(p string) error { return unix.Mkfifo(p, 0o600) })
		}, "/config.toml: it cannot be read: it is no regular file"},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.Mkdir(dir+"/config.d", 0o700); err != nil {
				t.Fatal(err)
			}
			path := filepath.Join(dir, "config.toml")
			if err := errors.Join(os.WriteFile(path, []byte("[vm]\ncpus = 2"), 0o600), c.make(dir)); err != nil {
				t.Fatal(err)
			}
			_, err := Layers(path)
			if want := dir + c.want; err == nil || err.Error() != want {
				t.Errorf("%v, want %s", err, want)
			}
			options, err := typeurl.MarshalAny(&runtimeoptions.Options{ConfigPath: path})
			if err != nil {
				t.Fatal(err)
			}
			if _, err := Load(options); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.want) {
				t.Errorf("a container: %v", err)
			}
		})
	}
	// Two of them, and what can be read.
	dir := t.TempDir()
	path := filepath.Join(dir, "config.toml")
	err := errors.Join(os.WriteFile(path, []byte("x = 1"), 0o600), os.Mkdir(dir+"/config.d", 0o700), os.Symlink("1.toml", dir+"/config.d/1.toml"),
		os.Mkdir(dir+"/config.d/2.toml", 0o700), os.WriteFile(dir+"/config.d/3.toml", []byte("y = 1"), 0o600))
	if err != nil {
		t.Fatal(err)
	}
	layers, err := Layers(path)
	if wrong := Unreadable(nil); !errors.As(err, &wrong) || len(wrong) != 2 || len(layers) != 2 || len(Check(layers)) != 2 {
		t.Errorf("%v, %d layers, %v", err, len(layers), Check(layers))
	}
}

func replace(path string, by func(string) error) error { return errors.Join(os.Remove(path), by(path)) }

// A path that is no absolute one has lines, too; and an editor of Windows may have written the file.
func TestRelative(t *testing.T) {
	dir := t.TempDir()
	t.Chdir(dir)
	if err := os.WriteFile("c.toml", []byte("\ufeff\r\nx = 1"), 0o600); err != nil {
		t.Fatal(err)
	}
	layers, err := Layers("c.toml")
	if err != nil {
		t.Fatal(err)
	}
	if got := told(Check(layers)); len(got) != 1 || got[0] != dir+"/c.toml:2: unknown setting x" {
		t.Errorf("%q", got)
	}
}

// A size without a unit is one of bytes, and less than any guest needs.
func TestLeastMemory(t *testing.T) {
	if leastMemory != spec.Overhead {
		t.Errorf("%s is not spec's %d", leastMemory, spec.Overhead)
	}
	got := told(Check([]Layer{{"/c", []byte("[vm]\nmemory = '512'")}}))
	if want := "/c:2: vm.memory is 512B, which is less than the 128MiB that a guest needs"; len(got) != 1 || got[0] != want {
		t.Errorf("%q, want %s", got, want)
	}
}
