package bundle

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/containerd/errdefs"
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

// The files are where crun takes them from, the tree is out of sight, and all of
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

// shares makes a container's bundle and shares in a pool, each a mount as the
// kernel makes one on its first use.
func shares(t *testing.T, container string, tags ...string) {
	t.Helper()
	err := errors.Join(
		os.MkdirAll(api.PoolPath(), 0o700),
		unix.Mount("tmpfs", api.PoolPath(), "tmpfs", 0, ""))
	for _, tag := range tags {
		err = errors.Join(err,
			os.Mkdir(api.SharePath(tag), 0o700),
			unix.Mount("tmpfs", api.SharePath(tag), "tmpfs", 0, ""))
	}
	_, createErr := Create(&api.CreateBundleRequest{Container: container, Spec: []byte("{}")})
	if err := errors.Join(err, createErr); err != nil {
		t.Error(err)
	}
}

// allGone checks that nothing of a container is left but the pool.
func allGone(t *testing.T, container string) {
	t.Helper()
	if got := mounts(t); len(got) != 1 || got[0] != api.PoolPath() {
		t.Errorf("mounted: %v", got)
	}
	if _, err := os.Lstat(api.BundlePath(container)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the bundle is left: %v", err)
	}
}

func TestRemoveShares(t *testing.T) {
	inGuest(t, func(string) {
		shares(t, "c", "rf_1", "dm_2")
		busy, err := os.Create(filepath.Join(api.SharePath("dm_2"), "busy"))
		if err != nil {
			t.Error(err)
			return
		}
		defer busy.Close()
		for range 2 {
			if err := Remove("c", []string{"rf_1", "dm_2", "dm_unused"}); err != nil {
				t.Error(err)
			}
			allGone(t, "c")
		}
	})
}

// A volume that is full: every share is unmounted all the same, and a sentence for
// each that is concerned says that data is lost.
func TestRemoveWritebackFails(t *testing.T) {
	inGuest(t, func(string) {
		defer func(before func(*os.File) error) { syncfs = before }(syncfs)
		syncfs = func(dir *os.File) error {
			if dir.Name() == api.SharePath("rf_1") {
				return nil
			}
			return unix.ENOSPC
		}
		shares(t, "c", "dm_0", "rf_1", "dm_2")
		err := Remove("c", []string{"dm_0", "rf_1", "dm_2"})
		const want = "writing data back to share dm_0 failed: no space left on device: some of what the container wrote is lost\n" +
			"writing data back to share dm_2 failed: no space left on device: some of what the container wrote is lost"
		if !errors.Is(err, unix.ENOSPC) || err.Error() != want {
			t.Errorf("Remove = %v", err)
		}
		allGone(t, "c")
	})
}

// One thing that cannot be removed does not keep the others.
func TestRemoveGoesOn(t *testing.T) {
	inGuest(t, func(string) {
		shares(t, "c", "rf_1")
		if err := os.MkdirAll(filepath.Join(api.FilePath("c", "fm_1"), "in the way"), 0o700); err != nil {
			t.Error(err)
		}
		err := Remove("c", []string{"../rf_1", "rf_1"})
		if !errors.Is(err, unix.ENOTEMPTY) || !errdefs.IsInvalidArgument(err) {
			t.Errorf("Remove = %v", err)
		}
		allGone(t, "c")
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

// The task service may have crun write its log into a bundle that goes.
func TestRemoveWhileWritten(t *testing.T) {
	inGuest(t, func(string) {
		// The writer's thread has not this one's mounts.
		log := fmt.Sprintf("/proc/self/task/%d/root%s", unix.Gettid(), filepath.Join(api.BundlePath("c"), "log.json"))
		var written atomic.Int64
		stop, stopped := make(chan struct{}), make(chan struct{})
		go func() {
			defer close(stopped)
			for {
				select {
				case <-stop:
					return
				default:
				}
				if os.WriteFile(log, nil, 0o600) == nil {
					written.Add(1)
				}
			}
		}()
		for round := 0; round < 500 || written.Load() == 0; round++ {
			if _, err := Create(&api.CreateBundleRequest{Container: "c", Spec: []byte("{}")}); err != nil {
				t.Error(err)
				break
			}
			if err := Remove("c", nil); err != nil {
				t.Error(err)
				break
			}
		}
		close(stop)
		<-stopped
		for _, dir := range []string{filepath.Dir(api.BundlePath("c")), api.RemovedPath()} {
			if entries, _ := os.ReadDir(dir); len(entries) > 0 {
				t.Errorf("%s has %v", dir, entries)
			}
		}
	})
}
