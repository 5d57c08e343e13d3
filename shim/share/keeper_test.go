package share

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
)

// patience is how long a test waits for what should come.
const patience = 2 * time.Minute

// hostFiles has a host with files in a mount namespace of its own: what covers them is not
// there, as with the real one.
type hostFiles struct {
	t      *testing.T
	dir    string
	host   mountns.Namespace
	served string
	trees  *Trees
	share  Share
}

// hideOnHost shares a directory of a host.
func hideOnHost(t *testing.T, attributes Attributes, files ...string) hostFiles {
	t.Helper()
	h := newHost(t, files...)
	h.hide(attributes)
	return h
}

func newHost(t *testing.T, files ...string) hostFiles {
	t.Helper()
	contents := make(map[string]string)
	for _, name := range files {
		contents[name] = "secret"
	}
	h := hostFiles{t: t, dir: t.TempDir()}
	h.host = hostWith(t, h.dir, contents)
	h.do(func() error { return unix.Mount("", h.dir, "", unix.MS_SHARED, "") })
	h.trees = treesOf(t, h.host, nil)
	return h
}

func (h *hostFiles) hide(attributes Attributes) {
	h.t.Helper()
	var err error
	if h.share, err = h.add(attributes); err != nil {
		h.t.Fatal(err)
	}
	h.served = filepath.Join(h.trees.Pool(), h.share.Tag)
}

func (h hostFiles) add(attributes Attributes) (Share, error) {
	h.t.Helper()
	source, err := OpenSource(h.host, h.dir)
	if err != nil {
		h.t.Fatal(err)
	}
	defer source.Close()
	return h.trees.Add(source, attributes)
}

// do does something on the host.
func (h hostFiles) do(f func() error) {
	h.t.Helper()
	if err := h.host.Do(f); err != nil {
		h.t.Fatal(err)
	}
}

func (h hostFiles) path(name string) string { return filepath.Join(h.dir, name) }

// replace saves a file as editors do.
func (h hostFiles) replace(name string) {
	h.t.Helper()
	h.do(func() error {
		return errors.Join(os.WriteFile(h.path(name+".new"), []byte("secret, too"), 0o600), os.Rename(h.path(name+".new"), h.path(name)))
	})
}

// wantCovered waits for a name to be covered, and looks at it once more then.
func (h hostFiles) wantCovered(name string) {
	h.t.Helper()
	path := filepath.Join(h.served, name)
	for deadline := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		var stat unix.Stat_t
		if err := unix.Stat(path, &stat); err == nil && stat.Dev == h.trees.covers.device {
			return
		}
		if time.Now().After(deadline) {
			content, err := os.ReadFile(path)
			h.t.Fatalf("%s is not covered: %q, %v", name, content, err)
		}
	}
}

// What the host does to a hidden thing takes its cover away or along; what has the name then
// is covered soon.
func TestVM31VM33ChangedOnHost(t *testing.T) {
	for name, change := range map[string]struct {
		hidden Hidden
		do     func(h hostFiles)
		look   string
	}{
		"a file is saved by renaming": {Hide([]string{".env"}, nil), func(h hostFiles) { h.replace(".env") }, ".env"},
		"and again": {Hide([]string{".env"}, nil), func(h hostFiles) {
			h.replace(".env")
			h.wantCovered(".env")
			h.replace(".env")
		}, ".env"},
		"removed and made anew": {Hide([]string{".env"}, nil), func(h hostFiles) {
			h.do(func() error { return os.Remove(h.path(".env")) })
			h.do(func() error { return os.WriteFile(h.path(".env"), []byte("new"), 0o600) })
		}, ".env"},
		"moved away and made anew": {Hide([]string{".env"}, nil), func(h hostFiles) {
			h.do(func() error {
				return errors.Join(os.Rename(h.path(".env"), h.path(".env~")), os.WriteFile(h.path(".env"), []byte("new"), 0o600))
			})
			h.wantCovered(".env~")
		}, ".env"},
		"a directory above it": {Hide([]string{"a/b/key"}, nil), func(h hostFiles) {
			h.do(func() error {
				return errors.Join(os.Rename(h.path("a"), h.path("moved")), os.MkdirAll(h.path("a/b"), 0o755), os.WriteFile(h.path("a/b/key"), []byte("new"), 0o600))
			})
			h.wantCovered("moved/b/key")
		}, "a/b/key"},
		"not there at first": {Hide(nil, []string{"later"}), func(h hostFiles) {
			h.do(func() error { return os.WriteFile(h.path("later"), []byte("new"), 0o600) })
		}, "later"},
		"a directory instead": {Hide([]string{".env"}, nil), func(h hostFiles) {
			h.do(func() error {
				return errors.Join(os.Remove(h.path(".env")), os.Mkdir(h.path(".env"), 0o755), os.WriteFile(h.path(".env/key"), nil, 0o600))
			})
		}, ".env"},
	} {
		t.Run(name, func(t *testing.T) {
			h := hideOnHost(t, Attributes{Hidden: change.hidden}, ".env", "a/b/key")
			change.do(h)
			h.wantCovered(change.look)
			wantHidden(t, h.served, change.look)
			select {
			case err := <-h.trees.Broken():
				t.Error(err)
			default:
			}
		})
	}
}

// What is made in a hidden directory on the host is never seen, at no moment.
func TestVM31InHiddenDirectory(t *testing.T) {
	h := hideOnHost(t, Attributes{Hidden: Hide([]string{"secrets"}, nil)}, "secrets/key")
	h.replace("secrets/key")
	h.do(func() error { return os.WriteFile(h.path("secrets/new"), []byte("secret"), 0o600) })
	if entries, err := os.ReadDir(filepath.Join(h.served, "secrets")); len(entries) != 0 || err != nil {
		t.Errorf("it has %v, %v", entries, err)
	}
}

// With rslave, what the host mounts on a hidden thing later is below its cover at once; what it
// mounts on a directory above brings another thing of the name, which is covered soon.
func TestVM33MountedOnHost(t *testing.T) {
	slave := Attributes{Slave: true, Recursive: true, Hidden: Hide([]string{".env", "a/secrets"}, nil)}
	h := hideOnHost(t, slave, ".env", "a/secrets/key", "b/secrets/key", "c")
	h.do(func() error { return unix.Mount(h.path("b/secrets"), h.path("a/secrets"), "", unix.MS_BIND, "") })
	h.do(func() error { return unix.Mount(h.path("c"), h.path(".env"), "", unix.MS_BIND, "") })
	wantHidden(t, h.served, ".env", "a/secrets/key")
	// That it did arrive is seen below the cover.
	if err := h.share.unhide(t, ".env"); err != nil {
		t.Fatal(err)
	}
	h.do(func() error { return unix.Mount(h.path("b"), h.path("a"), "", unix.MS_BIND, "") })
	h.wantCovered("a/secrets")
	h.wantCovered(".env")
	wantHidden(t, h.served, ".env", "a/secrets/key")
}

// A guest that has its own things covered again and again ends with its VM, and not with the
// host's mounts.
func TestVM33TooMany(t *testing.T) {
	h := newHost(t, "a/key")
	h.trees.covers.most = 3
	h.hide(Attributes{Hidden: Hide([]string{"a/key"}, nil)})
	for i := range 3 {
		// By the guest's way: the keys that were moved keep their covers.
		err := errors.Join(os.Rename(filepath.Join(h.served, "a"), filepath.Join(h.served, fmt.Sprint(i))),
			os.Mkdir(filepath.Join(h.served, "a"), 0o755), os.WriteFile(filepath.Join(h.served, "a/key"), nil, 0o600))
		if err != nil {
			t.Fatal(err)
		}
		if i < 2 {
			h.wantCovered("a/key")
		}
	}
	select {
	case err := <-h.trees.Broken():
		if !errdefs.IsResourceExhausted(err) || !strings.Contains(err.Error(), "cannot be any more") {
			t.Error(err)
		}
	case <-time.After(patience):
		t.Error("the VM goes on")
	}
	if live, err := h.trees.covers.live(); live != 3 || err != nil {
		t.Errorf("%d covers, %v", live, err)
	}
}

// Editors that save as often as they like use no covers up.
func TestVM33Saved(t *testing.T) {
	h := newHost(t, ".env")
	h.trees.covers.most = 3
	h.trees.keeper.interval = patience // so it must be told
	h.hide(Attributes{Hidden: Hide([]string{".env"}, nil)})
	start := time.Now()
	const saves = 50
	for range saves {
		h.replace(".env")
		h.wantCovered(".env")
	}
	t.Logf("covered again %v after the rename, on average", time.Since(start)/saves)
	select {
	case err := <-h.trees.Broken():
		t.Error(err)
	default:
	}
}

// A name that was there for one container, and is not for the next, is refused to that.
func TestVM34Gone(t *testing.T) {
	h := hideOnHost(t, Attributes{Hidden: Hide([]string{".env"}, nil)}, ".env", "other")
	h.do(func() error { return os.Remove(h.path(".env")) })
	if _, err := h.add(Attributes{Hidden: Hide([]string{".env"}, nil)}); !errdefs.IsNotFound(err) {
		t.Errorf("adding it again: %v", err)
	}
	if !h.trees.Release(h.share) {
		t.Error("who was refused uses the share")
	}
}

// A link that takes a hidden thing's place has no content, and is no reason to end the VM.
func TestVM33Link(t *testing.T) {
	h := hideOnHost(t, Attributes{Hidden: Hide([]string{".env"}, nil)}, ".env")
	h.do(func() error {
		return errors.Join(os.Rename(h.path(".env"), h.path("moved")), os.Symlink("moved", h.path(".env")))
	})
	if _, err := h.trees.covers.again(h.share.target, Hide([]string{".env"}, nil)); err != nil {
		t.Error(err)
	}
	wantHidden(t, h.served, "moved")
}

// What was removed is kept, as the guest may have it still; after Close nothing is.
func TestKeeperEnds(t *testing.T) {
	dir := source(t, ".env")
	trees := trees(t)
	share := add(t, trees, dir, Attributes{Hidden: Hide([]string{".env"}, nil)})
	if !trees.keeper.has(share.target) {
		t.Error("not kept")
	}
	if trees.Release(share); trees.Remove(share) != nil || !trees.keeper.has(share.target) {
		t.Error("not kept after Remove")
	}
	if _, err := trees.keeper.pass(); err != nil {
		t.Error(err)
	}
	trees.keeper.close()
	if err := trees.keeper.keep(share.target, Hidden{}); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "was stopped") {
		t.Errorf("after close: %v", err)
	}
}
