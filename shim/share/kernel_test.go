package share

import (
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
)

// kernelTree is a directory with data and with file systems of the kernel below it: on a
// directory, on one another, on a file, and with data below one.
func kernelTree(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	for _, name := range []string{"proc", "data", "twice", "sys"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "net"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, m := range []struct {
		source, target, kind string
		flags                uintptr
	}{
		{"proc", "proc", "proc", 0},
		{"tmpfs", "data", "tmpfs", 0},
		{"devpts", "twice", "devpts", 0},
		{"devpts", "twice", "devpts", 0},
		{"sysfs", "sys", "sysfs", 0},
		{"tmpfs", "sys/fs", "tmpfs", 0},
		{"/proc/self/ns/net", "net", "", unix.MS_BIND},
	} {
		target := filepath.Join(dir, m.target)
		if err := unix.Mount(m.source, target, m.kind, m.flags, ""); err != nil {
			t.Fatalf("%s on %s: %v", m.source, m.target, err)
		}
		t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
	}
	if err := os.WriteFile(filepath.Join(dir, "data/file"), []byte("data"), 0o600); err != nil {
		t.Fatal(err)
	}
	return dir
}

// File systems of the host's kernel below a directory are left out and named; data is
// shared. With proc(5) there, who owns the VMM would have the roots of the host's
// processes.
func TestDM12KernelFileSystems(t *testing.T) {
	dir := kernelTree(t)
	all := []string{"net", "proc", "sys", "twice"}
	trees := trees(t)
	for name, share := range map[string]Share{
		"a directory": add(t, trees, dir, Attributes{Recursive: true}),
		"slave":       add(t, trees, dir, Attributes{Recursive: true, Slave: true}),
		"read-only":   add(t, trees, dir, Attributes{Recursive: true, ReadOnly: true, RecursiveReadOnly: true}),
		"a root file system": func() Share {
			share, err := trees.AddRootfs([]mount.Mount{{Type: "bind", Source: dir, Options: []string{"rbind"}}})
			if err != nil {
				t.Fatal(err)
			}
			return share
		}(),
	} {
		if !slices.Equal(share.Withheld, all) {
			t.Errorf("%s: withheld are %q, want %q", name, share.Withheld, all)
		}
		for _, tree := range []string{trees.Pool(), trees.pool()} {
			wantFile(t, filepath.Join(tree, share.Tag, "data/file"), "data")
			for _, path := range []string{"proc/self/root/etc", "proc/1", "sys/kernel", "sys/fs/cgroup", "twice/ptmx"} {
				if _, err := os.Stat(filepath.Join(tree, share.Tag, path)); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("%s: %s is there: %v", name, path, err)
				}
			}
			var stat unix.Statfs_t
			if err := unix.Statfs(filepath.Join(tree, share.Tag, "net"), &stat); err != nil || stat.Type == unix.NSFS_MAGIC {
				t.Errorf("%s: a namespace is there, %v", name, err)
			}
		}
	}
	if left, err := os.ReadDir(trees.scratch()); len(left) != 0 || err != nil {
		t.Errorf("left: %v, %v", left, err)
	}
	// The host's are still there.
	if _, err := os.Stat(filepath.Join(dir, "proc/self/status")); err != nil {
		t.Error(err)
	}
	flat := add(t, trees, dir, Attributes{})
	if len(flat.Withheld) != 0 {
		t.Errorf("without those below: %q", flat.Withheld)
	}
}

// By another name than its own a file system of the kernel is refused.
func TestDM12KernelSource(t *testing.T) {
	dir := kernelTree(t)
	link := filepath.Join(t.TempDir(), "link")
	if err := os.Symlink("/proc", link); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{link, link + "/version", filepath.Join(dir, "proc"), filepath.Join(dir, "sys/kernel"), filepath.Join(dir, "net"), filepath.Join(dir, "twice")} {
		source, err := OpenSource(mountns.Namespace{}, path)
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "source "+path+" is on ") {
			t.Errorf("%s: %v", path, err)
		}
		if source != nil {
			source.Close()
		}
	}
	_, err := trees(t).AddRootfs([]mount.Mount{{Type: "proc", Source: "proc"}})
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "root file system is on proc") {
		t.Errorf("a root file system: %v", err)
	}
}

// Nobody on the host follows a link in a share.
func TestLinksAreNotFollowed(t *testing.T) {
	trees := trees(t)
	dir := t.TempDir()
	if err := errors.Join(os.Symlink("/etc/passwd", filepath.Join(dir, "link")), os.Symlink("/", filepath.Join(dir, "root"))); err != nil {
		t.Fatal(err)
	}
	for _, attributes := range []Attributes{{}, {Recursive: true}, {Recursive: true, Slave: true}} {
		share := add(t, trees, dir, attributes)
		for _, path := range []string{"link", "root/etc/passwd"} {
			if _, err := os.ReadFile(filepath.Join(trees.Pool(), share.Tag, path)); !errors.Is(err, unix.ELOOP) {
				t.Errorf("%+v: reading %s: %v", attributes, path, err)
			}
		}
		if target, err := os.Readlink(filepath.Join(trees.Pool(), share.Tag, "link")); target != "/etc/passwd" {
			t.Errorf("the link is %q, %v", target, err)
		}
	}
}
