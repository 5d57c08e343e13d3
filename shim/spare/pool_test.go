package spare

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
	"github.com/msb-runtime/containerd-shim-msb/shim/config"
	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
)

// There are as many of a size, and of all, as the limits say. What dead ones have left is
// taken away, and makes room; living ones stay, whether they wait or are a daemon by now.
func TestReserve(t *testing.T) {
	root := t.TempDir()
	pool := poolAt(root)
	reserve := func(size spec.Size) (*process, string) {
		t.Helper()
		p := newProcess(t, root)
		p.begin(size)
		return p, p.said()
	}
	granted := func(size spec.Size) (*process, string) {
		t.Helper()
		p, said := reserve(size)
		if !strings.HasPrefix(said, filepath.Join(pool.dir, prefix(size))) {
			t.Fatalf("a place is refused: %s", said)
		}
		return p, said
	}
	refused := func(what string, size spec.Size) {
		t.Helper()
		if _, said := reserve(size); said != errEnough.Error() {
			t.Errorf("%s: %s", what, said)
		}
		if needed, err := pool.needs(size); needed || err != nil {
			t.Errorf("%s: another is needed: %t, %v", what, needed, err)
		}
	}
	first, dead := granted(small)
	_, daemon := granted(small)
	refused("a third of a size", small)
	granted(large)
	refused("a fourth of all", large)

	first.end()
	if needed, err := pool.needs(small); !needed || err != nil {
		t.Errorf("one has died, and another is needed: %t, %v", needed, err)
	}
	if _, err := os.Stat(dead); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a dead one is left: %v", err)
	}
	granted(small)
	refused("a fourth of all", small)

	if err := os.Remove(filepath.Join(daemon, waitingFile)); err != nil {
		t.Fatal(err)
	}
	granted(large)
	if names, err := os.ReadDir(daemon); err != nil || len(names) != 1 || names[0].Name() != lockFile {
		t.Errorf("a daemon's directory has %v, %v", names, err)
	}
}

// A pool that is empty again has no directory, and what cannot be read is no pool that is full.
func TestReserveAgain(t *testing.T) {
	root := t.TempDir()
	pool := poolAt(root)
	place, err := pool.reserve(small)
	if err != nil {
		t.Fatal(err)
	}
	// Another of the same name is refused, and takes nothing away.
	if _, err := pool.reserve(small); !errors.Is(err, fs.ErrExist) {
		t.Errorf("the same name once more: %v", err)
	}
	if names, err := pool.waiting(small); err != nil || len(names) != 1 {
		t.Errorf("%v wait, %v", names, err)
	}
	if err := place.remove(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(root); err != nil || len(left) != 1 || left[0].Name() != lockFile {
		t.Errorf("left: %v, %v", left, err)
	}
	if err := os.WriteFile(pool.dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := pool.reserve(small); err == nil || errors.Is(err, errEnough) {
		t.Errorf("a pool that is a file: %v", err)
	}
}

// Many who reserve at once get no more than there may be.
func TestReserveAtOnce(t *testing.T) {
	const many = 20
	root := t.TempDir()
	var processes []*process
	for range many {
		processes = append(processes, newProcess(t, root))
	}
	for _, p := range processes {
		p.begin(small)
	}
	granted := 0
	for _, p := range processes {
		switch said := p.said(); {
		case strings.HasPrefix(said, root):
			granted++
		case said != errEnough.Error():
			t.Error(said)
		}
	}
	if granted != limits.Count {
		t.Errorf("%d places are granted, want %d", granted, limits.Count)
	}
	if names, err := poolAt(root).waiting(small); err != nil || len(names) != limits.Count {
		t.Errorf("%v wait, %v", names, err)
	}
}

// Remove knows the names of what it takes away.
func TestRemove(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "key", "1x1-1")
	write := func(names ...string) {
		t.Helper()
		if err := os.MkdirAll(filepath.Join(dir, sandbox.TreesDir), 0o700); err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	write(lockFile, waitingFile, socketFile, "another")
	if err := Remove(dir); !errors.Is(err, unix.ENOTEMPTY) {
		t.Errorf("with a file of another: %v", err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 1 || left[0].Name() != "another" {
		t.Errorf("left: %v, %v", left, err)
	}
	if err := os.Remove(filepath.Join(dir, "another")); err != nil {
		t.Fatal(err)
	}

	// What is in a tree that is mounted here stays, and so do files in one that is not.
	kept := filepath.Join(dir, sandbox.TreesDir, "kept")
	write(lockFile, waitingFile)
	err := mountns.Namespace{}.Copy(func() error {
		if err := unix.Mount("msb-test", filepath.Dir(kept), "tmpfs", 0, ""); err != nil {
			return err
		}
		if err := os.WriteFile(kept, nil, 0o600); err != nil {
			return err
		}
		if err := Remove(dir); !errors.Is(err, unix.EBUSY) {
			t.Errorf("with a mounted tree: %v", err)
		}
		_, err := os.Stat(kept)
		return err
	})
	if err != nil {
		t.Error(err)
	}
	write(filepath.Join(sandbox.TreesDir, "kept"))
	if err := Remove(dir); !errors.Is(err, unix.ENOTEMPTY) {
		t.Errorf("with a tree that has files: %v", err)
	}
	if err := os.Remove(kept); err != nil {
		t.Error(err)
	}
	for range 2 { // it does not have to be there
		if err := Remove(dir); err != nil {
			t.Error(err)
		}
	}
	if _, err := os.Stat(filepath.Dir(dir)); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the pool's directory is left: %v", err)
	}
}

// Whatever a VM is made of is in the key.
func TestKey(t *testing.T) {
	const address = "/run/containerd/containerd.sock"
	kit := t.TempDir()
	kernel := filepath.Join(kit, "kernel")
	write := func(path, data string) {
		t.Helper()
		if err := os.WriteFile(path, []byte(data), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write(kernel, "kernel")
	configuration := config.Config{Driver: "qemu", Kit: kit, Spare: limits}
	seen := make(map[string]string)
	key := func(what string, configuration config.Config, address string, mounts mountns.Namespace) string {
		t.Helper()
		key, err := keyOf(configuration, address, mounts)
		if err != nil {
			t.Fatal(err)
		}
		if filepath.Base(key) != key || len(key) != 16 {
			t.Errorf("%s: the key %q", what, key)
		}
		return key
	}
	differs := func(what string, configuration config.Config, address string, mounts mountns.Namespace) {
		t.Helper()
		key := key(what, configuration, address, mounts)
		if other, ok := seen[key]; ok {
			t.Errorf("%s: the key is that of %s", what, other)
		}
		seen[key] = what
	}
	host := mountns.Namespace{}
	differs("the first", configuration, address, host)
	if again := key("again", configuration, address, host); seen[again] == "" {
		t.Error("the same has another key")
	}
	other := configuration
	other.Driver = "krun"
	differs("another driver", other, address, host)
	other = configuration
	other.VM.Memory = 1 << 30
	differs("another size by default", other, address, host)
	differs("another containerd", configuration, address+"2", host)
	differs("another mount namespace", configuration, address, otherMounts(t))
	write(kernel+".new", "kernel")
	differs("a file more", configuration, address, host)
	if err := os.Rename(kernel+".new", kernel); err != nil {
		t.Fatal(err)
	}
	differs("a file replaced by its like", configuration, address, host)
	if err := os.Symlink("nothing", filepath.Join(kit, "link")); err != nil {
		t.Fatal(err)
	}
	if _, err := keyOf(configuration, address, host); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("a link to nothing: %v", err)
	}
	configuration.Kit = filepath.Join(kit, "none")
	if _, err := keyOf(configuration, address, host); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no kit: %v", err)
	}
}

// otherMounts is a mount namespace that is not this process's.
func otherMounts(t *testing.T) mountns.Namespace {
	t.Helper()
	var file *os.File
	err := thread.Run(func() (err error) {
		if err := unix.Unshare(unix.CLONE_NEWNS); err != nil {
			return err
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
