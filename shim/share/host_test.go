package share

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
)

// hostWith is a mount namespace that has a tmpfs on dir, with these files, which the
// test's own namespace has not: as containerd's has what was mounted since the shim
// started, where the host's root is not shared.
func hostWith(t *testing.T, dir string, files map[string]string) mountns.Namespace {
	t.Helper()
	var file *os.File
	err := mountns.Namespace{}.Copy(func() (err error) {
		if err := unix.Mount("tmpfs", dir, "tmpfs", 0, ""); err != nil {
			return err
		}
		for name, content := range files {
			path := filepath.Join(dir, name)
			if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), os.WriteFile(path, []byte(content), 0o600)); err != nil {
				return err
			}
		}
		file, err = os.Open("/proc/thread-self/ns/mnt")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return mountns.Of(file)
}

// treesOf are trees whose sources are another namespace's.
func treesOf(t *testing.T, host mountns.Namespace, shield Shield) *Trees {
	t.Helper()
	trees := trees(t)
	trees.host, trees.shield = host, shield
	return trees
}

func wantFile(t *testing.T, path, want string) {
	t.Helper()
	if got, err := os.ReadFile(path); string(got) != want || err != nil {
		t.Errorf("%s has %q, %v; want %q", path, got, err, want)
	}
}

// What containerd sees is shared, and not what has its path in the shim's namespace:
// directories, files, what is mounted below, and the directories of an overlay.
func TestHostsMounts(t *testing.T) {
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, "below"), []byte("below"), 0o600); err != nil {
		t.Fatal(err)
	}
	host := hostWith(t, dir, map[string]string{"below": "mounted", "dir/file": "x", "lower/file": "lower", "upper/other": "upper", "work/x": ""})
	trees := treesOf(t, host, nil)
	share := func(path string, attributes Attributes) Share {
		source, err := OpenSource(host, path)
		if err != nil {
			t.Fatal(err)
		}
		defer source.Close()
		share, err := trees.Add(source, attributes)
		if err != nil {
			t.Fatal(err)
		}
		return share
	}
	file := share(filepath.Join(dir, "below"), Attributes{})
	wantFile(t, filepath.Join(trees.Files(), file.Tag, "below"), "mounted")
	first, again := share(filepath.Join(dir, "dir"), Attributes{Recursive: true}), share(filepath.Join(dir, "dir"), Attributes{Recursive: true})
	wantFile(t, filepath.Join(trees.Pool(), first.Tag, "file"), "x")
	if first.Tag != again.Tag {
		t.Error("one directory has two shares")
	}
	around := share(filepath.Dir(dir), Attributes{Recursive: true})
	wantFile(t, filepath.Join(trees.Pool(), around.Tag, filepath.Base(dir), "dir/file"), "x")

	root, err := trees.AddRootfs([]mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{
		"lowerdir=" + dir + "/lower", "upperdir=" + dir + "/upper", "workdir=" + dir + "/work",
	}}})
	if err != nil {
		t.Fatal(err)
	}
	wantFile(t, filepath.Join(trees.Pool(), root.Tag, "file"), "lower")
	if err := os.WriteFile(filepath.Join(trees.Pool(), root.Tag, "other"), []byte("written"), 0o600); err != nil {
		t.Error(err)
	}
	if err := host.Do(func() error { wantFile(t, filepath.Join(dir, "upper/other"), "written"); return nil }); err != nil {
		t.Error(err)
	}
}

// A file that is followed is followed where containerd sees it.
func TestHostsFileFollowed(t *testing.T) {
	dir := t.TempDir()
	host := hostWith(t, dir, map[string]string{"file": "mounted"})
	shield := &shieldOf{serves: file(t, "")}
	trees := treesOf(t, host, shield)
	source, err := OpenSource(host, filepath.Join(dir, "file"))
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	if _, err := trees.Add(source, Attributes{Shield: true, Follow: true, IDMap: shifted}); err != nil {
		t.Error(err)
	}
	if shield.owner != [2]uint32{100000, 200000} {
		t.Errorf("the shield's file is %v's", shield.owner)
	}
}

// Nothing is mounted in containerd's namespace, also when it shares its mounts. The
// namespace is a copy of the machine's: what others have mounted there goes from it when
// they remove its place, so that mounts of before may be missing, but for the test's own.
func TestHostIsLeftAlone(t *testing.T) {
	dir := t.TempDir()
	host := hostWith(t, dir, map[string]string{"lower/file": "x"})
	mounts := func() map[int]string {
		points := make(map[int]string)
		err := host.Do(func() error {
			data, err := os.ReadFile("/proc/thread-self/mountinfo")
			if err != nil {
				return err
			}
			infos, err := mountinfo.GetMountsFromReader(bytes.NewReader(data), nil)
			for _, info := range infos {
				points[info.ID] = info.Mountpoint
			}
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return points
	}
	if err := host.Do(func() error { return unix.Mount("", "/", "", unix.MS_REC|unix.MS_SHARED, "") }); err != nil {
		t.Fatal(err)
	}
	before := mounts()
	trees := treesOf(t, host, nil)
	if _, err := trees.AddRootfs([]mount.Mount{{Type: "bind", Source: dir + "/lower", Options: []string{"rbind"}}}); err != nil {
		t.Fatal(err)
	}
	after := mounts()
	for id, point := range after {
		if _, was := before[id]; !was {
			t.Errorf("%s was mounted", point)
		}
	}
	for id, point := range before {
		if _, is := after[id]; !is && point == dir {
			t.Errorf("%s is not mounted any more", point)
		}
	}
}

// The directories of an overlay of many layers are found, although their names do not fit
// into the page that the kernel takes.
func TestManyLayers(t *testing.T) {
	const layers = 120
	base := strings.Repeat("long-", 8)
	dir := t.TempDir()
	files := make(map[string]string)
	var lower []string
	for i := range layers {
		name := fmt.Sprintf("%s/%d/fs", base, i)
		files[name+fmt.Sprintf("/file-%d", i)] = "x"
		lower = append(lower, filepath.Join(dir, name))
	}
	host := hostWith(t, dir, files)
	trees := treesOf(t, host, nil)
	root, err := trees.AddRootfs([]mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{"lowerdir=" + strings.Join(lower, ":")}}})
	if err != nil {
		t.Fatal(err)
	}
	entries, err := os.ReadDir(filepath.Join(trees.Pool(), root.Tag))
	if err != nil || len(entries) != layers {
		t.Errorf("%d of %d layers, %v", len(entries), layers, err)
	}
}

func TestShorten(t *testing.T) {
	many := func(format string) (dirs []string) {
		for i := range 200 {
			dirs = append(dirs, fmt.Sprintf(format, i))
		}
		return dirs
	}
	for name, c := range map[string]struct {
		dirs []string
		want string // the first
		fail bool
	}{
		"few are left alone":    {dirs: []string{"/a/1", "/a/2"}, want: "/a/1"},
		"many of one directory": {dirs: many("/proc/self/../../a-long-name-for-a-layer/%d/fs"), fail: true},
		"nothing in common":     {dirs: many("/%d/a-long-name-of-a-directory"), fail: true},
		"not absolute":          {dirs: many("%d/a-long-name-of-a-directory"), fail: true},
		"an escaped colon":      {dirs: many(`/a-long-name-of-a-directory/%d\`), fail: true},
		"too many":              {dirs: slices.Concat(many("/proc/a-long-name-%d"), many("/proc/a-long-name-%d")), fail: true},
	} {
		options := []string{"index=off", "lowerdir=" + strings.Join(c.dirs, ":")}
		before := slices.Clone(options)
		var got mount.Mount
		err := thread.Run(func() (err error) {
			if err := unix.Unshare(unix.CLONE_FS); err != nil {
				return err
			}
			got, err = shorten(mount.Mount{Type: "overlay", Options: options})
			return err
		})
		if c.fail != (err != nil) {
			t.Errorf("%s: %v", name, err)
		}
		if !slices.Equal(options, before) {
			t.Errorf("%s: the caller's options were changed", name)
		}
		if err == nil && !strings.HasPrefix(got.Options[1], "lowerdir="+c.want+":") {
			t.Errorf("%s: %s", name, got.Options[1])
		}
	}
}

// What only containerd's mount manager can mount is refused by name.
func TestMountManagersType(t *testing.T) {
	_, err := trees(t).AddRootfs([]mount.Mount{{Type: "format/mkdir/overlay", Source: "overlay"}})
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), `"format/mkdir/overlay" is for containerd's mount manager`) {
		t.Error(err)
	}
}
