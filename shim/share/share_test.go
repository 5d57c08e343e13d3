package share

import (
	"bytes"
	"errors"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
)

// trees opens trees in a directory of the test and checks at its end that no
// mount is left.
func trees(t *testing.T) *Trees {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test mounts: run it as root")
	}
	dir := t.TempDir()
	trees, err := Open(dir, mountns.Namespace{}, nil)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := trees.Close(); err != nil {
			t.Error(err)
		}
		mounts, _ := os.ReadFile("/proc/self/mountinfo")
		if strings.Contains(string(mounts), dir) {
			t.Error("mounts are left")
		}
	})
	return trees
}

func file(t *testing.T, content string) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "app.conf")
	if err := os.WriteFile(path, []byte(content), 0o640); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(filepath.Dir(path), "sibling"), []byte("secret"), 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func add(t *testing.T, trees *Trees, path string, attributes Attributes) Share {
	t.Helper()
	source, err := OpenSource(mountns.Namespace{}, path)
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

// What the VMM serves has the file, the same inode, alone.
func TestFileIsStagedAlone(t *testing.T) {
	trees := trees(t)
	path := file(t, "content")
	share := add(t, trees, path, Attributes{})
	served := filepath.Join(trees.Files(), share.Tag)
	entries, err := os.ReadDir(served)
	if err != nil || len(entries) != 1 || entries[0].Name() != "app.conf" || share.Name != "app.conf" || !share.IsFile {
		t.Fatalf("%v, %v, %+v", entries, err, share)
	}
	inside, outside := stat(t, filepath.Join(served, "app.conf")), stat(t, path)
	if inside.Ino != outside.Ino || inside.Dev != outside.Dev || outside.Nlink != 1 {
		t.Errorf("staged inode %d, the host's %d with %d links", inside.Ino, outside.Ino, outside.Nlink)
	}
	if err := os.WriteFile(filepath.Join(served, "app.conf"), []byte("written"), 0); err != nil {
		t.Error(err)
	}
	if got, _ := os.ReadFile(path); string(got) != "written" {
		t.Errorf("the host has %q", got)
	}
	for name, attack := range map[string]error{
		"create":   os.WriteFile(filepath.Join(served, "beside"), nil, 0o600),
		"mkdir":    os.Mkdir(filepath.Join(served, "beside"), 0o700),
		"mknod":    unix.Mknod(filepath.Join(served, "beside"), unix.S_IFIFO|0o600, 0),
		"symlink":  os.Symlink("/etc/passwd", filepath.Join(served, "beside")),
		"in tree":  os.Mkdir(filepath.Join(trees.Files(), "beside"), 0o700),
		"in pool":  os.Mkdir(filepath.Join(trees.Pool(), "beside"), 0o700),
		"unlink":   os.Remove(filepath.Join(served, "app.conf")),
		"chmod of": os.Chmod(served, 0o777),
	} {
		if !errors.Is(attack, unix.EROFS) && !errors.Is(attack, unix.EBUSY) {
			t.Errorf("%s: %v", name, attack)
		}
	}
}

func stat(t *testing.T, path string) (stat unix.Stat_t) {
	t.Helper()
	if err := unix.Stat(path, &stat); err != nil {
		t.Fatal(err)
	}
	return stat
}

// Read-only holds where the VMM looks, not only where it was set.
func TestReadOnlyIsServedReadOnly(t *testing.T) {
	trees := trees(t)
	path := file(t, "content")
	readOnly, writable := add(t, trees, path, Attributes{ReadOnly: true}), add(t, trees, path, Attributes{})
	inDir := add(t, trees, filepath.Dir(path), Attributes{ReadOnly: true, Recursive: true})
	for name, target := range map[string]string{
		"file":      filepath.Join(trees.Files(), readOnly.Tag, "app.conf"),
		"directory": filepath.Join(trees.Pool(), inDir.Tag, "app.conf"),
	} {
		if err := os.WriteFile(target, []byte("x"), 0); !errors.Is(err, unix.EROFS) {
			t.Errorf("writing a read-only %s: %v", name, err)
		}
		if err := os.Chmod(target, 0o777); !errors.Is(err, unix.EROFS) {
			t.Errorf("chmod of a read-only %s: %v", name, err)
		}
	}
	if err := os.WriteFile(filepath.Join(trees.Files(), writable.Tag, "app.conf"), []byte("x"), 0); err != nil {
		t.Errorf("the same source read-write: %v", err)
	}
}

// As with runc, "ro" is of the mount itself and "rro" of those below it too.
func TestReadOnlyRecursion(t *testing.T) {
	trees := trees(t)
	dir := t.TempDir()
	below := filepath.Join(dir, "below")
	if err := errors.Join(os.Mkdir(below, 0o755), unix.Mount("tmpfs", below, "tmpfs", 0, "")); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(below, unix.MNT_DETACH)
	for name, c := range map[string]struct {
		attributes Attributes
		want       error
	}{
		"ro":  {Attributes{Recursive: true, ReadOnly: true}, nil},
		"rro": {Attributes{Recursive: true, ReadOnly: true, RecursiveReadOnly: true}, unix.EROFS},
	} {
		share := add(t, trees, dir, c.attributes)
		if err := os.WriteFile(filepath.Join(trees.Pool(), share.Tag, "below", name), nil, 0o600); !errors.Is(err, c.want) {
			t.Errorf("%s: writing below: %v, want %v", name, err, c.want)
		}
	}
}

// A device node that a guest makes leads to no device of the host.
func TestDevicesAreNotOpened(t *testing.T) {
	trees := trees(t)
	share := add(t, trees, t.TempDir(), Attributes{Recursive: true})
	node := filepath.Join(trees.Pool(), share.Tag, "null")
	if err := unix.Mknod(node, unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Open(node); !errors.Is(err, unix.EACCES) {
		t.Errorf("opening it: %v", err)
	}
}

func TestRootfs(t *testing.T) {
	trees := trees(t)
	dir := t.TempDir()
	for _, name := range []string{"lower", "upper", "work"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(filepath.Join(dir, "lower/file"), []byte("lower"), 0o600); err != nil {
		t.Fatal(err)
	}
	share, err := trees.AddRootfs([]mount.Mount{{Type: "overlay", Source: "overlay", Options: []string{
		"lowerdir=" + dir + "/lower", "upperdir=" + dir + "/upper", "workdir=" + dir + "/work",
	}}})
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(trees.Pool(), share.Tag, "file"), []byte("upper"), 0o600); err != nil {
		t.Fatal(err)
	}
	if got, _ := os.ReadFile(filepath.Join(dir, "upper/file")); string(got) != "upper" {
		t.Errorf("the upper directory has %q", got)
	}
	if err := trees.Remove(share); err != nil {
		t.Error(err)
	}
	if entries, _ := os.ReadDir(trees.scratch()); len(entries) != 0 {
		t.Errorf("scratch has %v", entries)
	}
	if _, err := trees.AddRootfs([]mount.Mount{{Type: "nosuchfs", Source: "x"}}); err == nil {
		t.Error("a file system that is not there was mounted")
	}
}

// Removing takes the share away and nothing of the source.
func TestRemove(t *testing.T) {
	trees := trees(t)
	path := file(t, "content")
	for _, share := range []Share{add(t, trees, path, Attributes{}), add(t, trees, filepath.Dir(path), Attributes{Recursive: true})} {
		if err := trees.Remove(share); err != nil {
			t.Error(err)
		}
		if _, err := os.Lstat(share.dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s is left", share.dir)
		}
	}
	if got, err := os.ReadFile(path); string(got) != "content" || err != nil {
		t.Errorf("the source has %q, %v", got, err)
	}
}

// A tag that is taken is drawn again; with no other it is an error, not a reuse.
func TestFM58TagCollision(t *testing.T) {
	trees := trees(t)
	path := file(t, "content")
	same := bytes.Repeat([]byte{7}, tagBytes)
	trees.random = io.MultiReader(bytes.NewReader(same), bytes.NewReader(same), strings.NewReader(strings.Repeat("x", tagBytes)))
	first, second := add(t, trees, path, Attributes{}), add(t, trees, path, Attributes{})
	if first.Tag == second.Tag {
		t.Error("a tag was used twice")
	}
	trees.random = bytes.NewReader(bytes.Repeat([]byte{7}, tagBytes*tagAttempts))
	source, err := OpenSource(mountns.Namespace{}, path)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	if _, err := trees.Add(source, Attributes{}); !errdefs.IsUnavailable(err) {
		t.Errorf("with every tag taken: %v", err)
	}
	if tagBytes*8 < 64 {
		t.Errorf("tags have only %d random bits", tagBytes*8)
	}
}

// What was opened and checked is what is shared, whatever the path leads to by
// then: somebody swaps it for a symbolic link to a secret all the time.
func TestFM49SourceSwapped(t *testing.T) {
	trees := trees(t)
	path := file(t, "content")
	dir := filepath.Dir(path)
	stop, swapped := make(chan struct{}), make(chan int)
	go func() {
		for i := 0; ; i++ {
			select {
			case <-stop:
				swapped <- i
				return
			default:
			}
			next := filepath.Join(dir, "next")
			if i%2 == 0 {
				_ = os.Symlink("sibling", next)
			} else {
				_ = os.WriteFile(next, []byte("content"), 0o600)
			}
			_ = os.Rename(next, path)
		}
	}()
	bound := 0
	for range 1000 {
		source, err := OpenSource(mountns.Namespace{}, path)
		if err != nil {
			t.Fatal(err)
		}
		var checked unix.Stat_t
		if err := unix.Fstat(int(source.File().Fd()), &checked); err != nil {
			t.Fatal(err)
		}
		time.Sleep(time.Millisecond) // for the other
		share, err := trees.Add(source, Attributes{ReadOnly: true})
		source.Close()
		if err != nil {
			continue // it has no name any more, and the kernel binds it no more
		}
		if got := stat(t, filepath.Join(trees.Files(), share.Tag, share.Name)); got.Ino != checked.Ino {
			t.Fatalf("inode %d was checked and %d is shared", checked.Ino, got.Ino)
		}
		if err := trees.Remove(share); err != nil {
			t.Fatal(err)
		}
		bound++
	}
	close(stop)
	if swaps := <-swapped; bound == 0 || swaps == 0 {
		t.Errorf("%d of 1000 were bound, while the source was swapped %d times", bound, swaps)
	}
}

// FM-45: neither space nor descriptors are left.
func TestFM45Exhausted(t *testing.T) {
	trees := trees(t)
	path := file(t, "content")
	if err := unix.Mount("", trees.files(), "", unix.MS_REMOUNT, "size=16m,nr_inodes=8"); err != nil {
		t.Fatal(err)
	}
	var err error
	for range 8 {
		var source *Source
		if source, err = OpenSource(mountns.Namespace{}, path); err != nil {
			t.Fatal(err)
		}
		if _, err = trees.Add(source, Attributes{}); err != nil {
			source.Close()
			break
		}
		source.Close()
	}
	if !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "no space left") {
		t.Errorf("with a full tree: %v", err)
	}
	entries, err := os.ReadDir(trees.files())
	if err != nil {
		t.Fatal(err)
	}
	for _, entry := range entries {
		if _, err := os.Stat(filepath.Join(trees.files(), entry.Name(), "app.conf")); err != nil {
			t.Errorf("half a share is left: %v", err)
		}
	}
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	few := limit
	few.Cur = 3
	if err := unix.Setrlimit(unix.RLIMIT_NOFILE, &few); err != nil {
		t.Fatal(err)
	}
	_, err = OpenSource(mountns.Namespace{}, path)
	if restore := unix.Setrlimit(unix.RLIMIT_NOFILE, &limit); restore != nil {
		t.Fatal(restore)
	}
	if !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), path) {
		t.Errorf("without descriptors: %v", err)
	}
}

// FM-42: what the shim may not open is named.
func TestFM42Unprivileged(t *testing.T) {
	path := file(t, "content")
	if err := os.Chmod(filepath.Dir(path), 0o700); err != nil {
		t.Fatal(err)
	}
	result := make(chan error)
	go func() {
		runtime.LockOSThread() // for good: the thread ends with its rights
		if err := unix.Setfsuid(65534); err != nil {
			result <- err
			return
		}
		_, err := OpenSource(mountns.Namespace{}, path)
		result <- err
	}()
	if err := <-result; !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), path) {
		t.Errorf("opening it: %v", err)
	}
}

func TestSourceKinds(t *testing.T) {
	dir := t.TempDir()
	if err := unix.Mkfifo(filepath.Join(dir, "fifo"), 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Symlink("loop", filepath.Join(dir, "loop")); err != nil {
		t.Fatal(err)
	}
	for name, c := range map[string]struct {
		path string
		is   func(error) bool
	}{
		"missing":   {filepath.Join(dir, "missing"), errdefs.IsNotFound},
		"fifo":      {filepath.Join(dir, "fifo"), errdefs.IsInvalidArgument},
		"device":    {"/dev/null", errdefs.IsInvalidArgument},
		"loop":      {filepath.Join(dir, "loop"), errdefs.IsInvalidArgument},
		"too long":  {"/" + strings.Repeat("x/", 4096), errdefs.IsInvalidArgument},
		"a file/..": {filepath.Join("/proc/version", "x"), errdefs.IsInvalidArgument},
	} {
		if _, err := OpenSource(mountns.Namespace{}, c.path); !c.is(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
