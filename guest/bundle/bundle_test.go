package bundle

import (
	"errors"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
)

// inGuest runs f where /run is empty and the files tree is a directory, on a
// thread with a mount namespace of its own.
func inGuest(t *testing.T, f func(tree string)) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test mounts: run it as root")
	}
	tree := t.TempDir()
	mountTree = func(_, target string) error { return unix.Mount(tree, target, "", unix.MS_BIND, "") }
	done := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with its namespace
		err := errors.Join(
			unix.Unshare(unix.CLONE_NEWNS),
			unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("tmpfs", "/run", "tmpfs", 0, ""))
		if err == nil {
			f(tree)
		}
		done <- err
	}()
	if err := <-done; err != nil {
		t.Fatal(err)
	}
}

// stage makes a staged file in the tree.
func stage(t *testing.T, tree, tag, name string) *api.FileMount {
	t.Helper()
	if err := errors.Join(os.Mkdir(filepath.Join(tree, tag), 0o755), os.WriteFile(filepath.Join(tree, tag, name), []byte(tag), 0o644)); err != nil {
		t.Error(err)
	}
	return &api.FileMount{Tag: tag, Name: []byte(name), Destination: "/etc/" + name}
}

// mounts are the mount points below /run/msb in this thread's namespace.
func mounts(t *testing.T) (points []string) {
	t.Helper()
	data, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(string(data)) {
		if point := strings.Fields(line)[4]; strings.HasPrefix(point, "/run/msb") {
			points = append(points, point)
		}
	}
	return points
}

// The files are where runc takes them from, the tree is out of sight, and all of
// it goes again.
func TestCreate(t *testing.T) {
	inGuest(t, func(tree string) {
		files := []*api.FileMount{stage(t, tree, "fm_1", "a"), stage(t, tree, "fm_2", "b")}
		files[1].ReadOnly = true
		path, err := Create(&api.CreateBundleRequest{Container: "c", Spec: []byte("{}"), Files: files})
		if err != nil || path != api.BundlePath("c") {
			t.Errorf("Create = %s, %v", path, err)
			return
		}
		if got := mounts(t); len(got) != 2 {
			t.Errorf("mounted: %v", got)
		}
		for _, file := range files {
			if got, err := os.ReadFile(api.FilePath("c", file.Tag)); string(got) != file.Tag {
				t.Errorf("%s has %q, %v", file.Tag, got, err)
			}
		}
		if err := os.WriteFile(api.FilePath("c", "fm_2"), nil, 0); !errors.Is(err, unix.EROFS) {
			t.Errorf("writing the read-only one: %v", err)
		}
		if err := Remove("c", nil); err != nil {
			t.Error(err)
		}
		if err := Remove("c", nil); err != nil {
			t.Errorf("the second time: %v", err)
		}
		if got := mounts(t); len(got) != 0 {
			t.Errorf("still mounted: %v", got)
		}
	})
}

// FM-48: the bind fails; the staging point is unmounted, what was bound before is
// undone, and the reason comes back.
func TestFM48BindFails(t *testing.T) {
	inGuest(t, func(tree string) {
		good := stage(t, tree, "fm_1", "a")
		for name, bad := range map[string]*api.FileMount{
			"missing":         {Tag: "fm_2", Name: []byte("b"), Destination: "/etc/b"},
			"twice":           good,
			"a path for name": {Tag: "fm_1", Name: []byte("../fm_1/a"), Destination: "/etc/b"},
			"a path for tag":  {Tag: "../../x", Name: []byte("b"), Destination: "/etc/b"},
		} {
			_, err := Create(&api.CreateBundleRequest{Container: "c", Spec: []byte("{}"), Files: []*api.FileMount{good, bad}})
			if err == nil || !strings.Contains(err.Error(), bad.Destination) {
				t.Errorf("%s: %v", name, err)
			}
			if got := mounts(t); len(got) != 0 {
				t.Errorf("%s: still mounted: %v", name, got)
			}
			for _, path := range []string{api.BundlePath("c"), api.FilesPath("c"), api.StagePath("c")} {
				if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("%s: %s is left: %v", name, path, err)
				}
			}
		}
	})
}

// FuzzFileMount: whatever a request names, nothing outside of the tree is bound.
func FuzzFileMount(f *testing.F) {
	for _, seed := range [][3]string{{"c", "fm_1", "a"}, {"..", "fm_1", "a"}, {"c", "../x", "a"}, {"c", "fm_1", "../../etc/passwd"}, {"", "", ""}, {"c", "a\x00", "/"}} {
		f.Add(seed[0], seed[1], seed[2])
	}
	f.Fuzz(func(t *testing.T, container, tag, name string) {
		valid := errors.Join(api.CheckName("container id", container), api.CheckName("tag", tag), api.CheckName("file", name)) == nil
		if !valid {
			return
		}
		for parent, path := range map[string]string{
			api.FilesPath(container):               api.FilePath(container, tag),
			filepath.Dir(api.FilesPath(container)): api.FilesPath(container),
			filepath.Dir(api.StagePath(container)): api.StagePath(container),
			api.StagePath(container) + "/" + tag:   filepath.Join(api.StagePath(container), tag, name),
		} {
			if filepath.Dir(path) != parent {
				t.Errorf("%q, %q, %q lead to %s", container, tag, name, path)
			}
		}
	})
}
