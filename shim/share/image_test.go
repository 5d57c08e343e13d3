package share

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/image"
	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
)

func addImage(trees *Trees, path, kind string, readOnly bool) (Share, error) {
	source, err := OpenImage(mountns.Namespace{}, path)
	if err != nil {
		return Share{}, err
	}
	defer source.Close()
	return trees.AddImage(source, Image{Type: kind, ReadOnly: readOnly, Alone: !readOnly})
}

// A layer is staged once for all that have it, and read-only. What is written to has one user
// on the whole host, until that user has let go of it.
func TestAddImage(t *testing.T) {
	one, other := trees(t), trees(t)
	one.shield, other.shield = &shieldOf{serves: file(t, "")}, &shieldOf{serves: file(t, "")}
	layer, writable := file(t, "layer"), file(t, "writable")

	first, err := addImage(one, layer, image.EROFS, true)
	if err != nil {
		t.Fatal(err)
	}
	again, err := addImage(one, layer, image.EROFS, true)
	if err != nil || again.Tag != first.Tag {
		t.Errorf("%+v, %v; the first is %s", again, err, first.Tag)
	}
	source, err := OpenImage(mountns.Namespace{}, layer)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	checked, err := one.AddImage(source, Image{Type: image.EROFS, ReadOnly: true, Mounted: "checked"})
	if err != nil || checked.Tag == first.Tag {
		t.Errorf("what is to be checked is what is not: %+v, %v", checked, err)
	}
	elsewhere, err := addImage(other, layer, image.EROFS, true)
	if err != nil || elsewhere.Tag == first.Tag {
		t.Errorf("%+v, %v", elsewhere, err)
	}
	if err := os.WriteFile(filepath.Join(one.Files(), first.Tag, first.Name), nil, 0); err == nil {
		t.Error("a layer can be written")
	}
	if one.Release(again) || !one.Release(first) {
		t.Error("the last user is another")
	}

	used, err := addImage(one, writable, image.Ext4, false)
	if err != nil {
		t.Fatal(err)
	}
	for name, trees := range map[string]*Trees{"the same VM": one, "another VM": other} {
		for _, readOnly := range []bool{false, true} {
			_, err := addImage(trees, writable, image.Ext4, readOnly)
			if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), writable+" is in use by another container") {
				t.Errorf("%s, read-only %v: %v", name, readOnly, err)
			}
		}
	}
	if err := one.Remove(used); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if _, err := addImage(other, writable, image.Ext4, true); err != nil {
			t.Errorf("a second reader: %v", err)
		}
	}
	if _, err := addImage(one, writable, image.Ext4, false); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("a writer beside readers: %v", err)
	}
}

// What containers of a VM write to together is staged once, and locked until the last of them has
// let go of it.
func TestAddImageShared(t *testing.T) {
	one, other := trees(t), trees(t)
	one.shield, other.shield = &shieldOf{serves: file(t, "")}, &shieldOf{serves: file(t, "")}
	volume := file(t, "volume")
	add := func(trees *Trees) (Share, error) {
		source, err := OpenImage(mountns.Namespace{}, volume)
		if err != nil {
			t.Fatal(err)
		}
		defer source.Close()
		return trees.AddImage(source, Image{Type: image.Ext4})
	}
	first, err := add(one)
	if err != nil {
		t.Fatal(err)
	}
	second, err := add(one)
	if err != nil || second.Tag != first.Tag {
		t.Fatalf("%+v, %v; the first is %s", second, err, first.Tag)
	}
	if one.Release(first) {
		t.Error("the first to go was the last user")
	}
	if _, err := add(other); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("another VM: %v", err)
	}
	if !one.Release(second) {
		t.Error("the last to go was not the last user")
	}
	if err := one.Remove(second); err != nil {
		t.Fatal(err)
	}
	if _, err := add(other); err != nil {
		t.Errorf("another VM, after the first: %v", err)
	}
}

// With its VM a lock goes, even if nobody has let go of the image.
func TestImageLockEnds(t *testing.T) {
	writable := file(t, "writable")
	func() {
		trees, err := Open(t.TempDir(), mountns.Namespace{}, &shieldOf{serves: file(t, "")})
		if err != nil {
			t.Fatal(err)
		}
		defer trees.Close()
		if _, err := addImage(trees, writable, image.Ext4, false); err != nil {
			t.Fatal(err)
		}
	}()
	next := trees(t)
	next.shield = &shieldOf{serves: file(t, "")}
	if _, err := addImage(next, writable, image.Ext4, false); err != nil {
		t.Error(err)
	}
}

// An image that the shield cannot take away may still be written to, so it stays locked.
func TestImageLockStays(t *testing.T) {
	trees, writable := trees(t), file(t, "writable")
	trees.shield = &stuckShield{shieldOf{serves: file(t, "")}}
	used, err := addImage(trees, writable, image.Ext4, false)
	if err != nil {
		t.Fatal(err)
	}
	if err := trees.Remove(used); err == nil {
		t.Error("Remove: no error")
	}
	if _, err := addImage(trees, writable, image.Ext4, false); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("the next user: %v", err)
	}
}

type stuckShield struct{ shieldOf }

func (*stuckShield) Remove(string) error { return errors.New("stuck") }

func TestAddImageRefused(t *testing.T) {
	trees := trees(t)
	dir := t.TempDir()
	fifo, link, gone := filepath.Join(dir, "fifo"), filepath.Join(dir, "link"), filepath.Join(dir, "gone")
	if err := errors.Join(unix.Mkfifo(fifo, 0o600), os.Symlink(file(t, "layer"), link)); err != nil {
		t.Fatal(err)
	}
	for path, want := range map[string]string{dir: "is a directory", fifo: "is a FIFO", link: "is a symbolic link", gone: "does not exist"} {
		if _, err := addImage(trees, path, image.EROFS, true); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %v", path, err)
		}
	}
	wantEmpty(t, trees.Files())
}

func wantEmpty(t *testing.T, dir string) {
	t.Helper()
	if entries, err := os.ReadDir(dir); len(entries) > 0 || err != nil {
		t.Errorf("%s has %v, %v", dir, entries, err)
	}
}

// What the guest cannot make of images is made on the host: an overlay whose upper directory
// is there. No directory of an image that a guest has written leads out of it.
func TestAddAssembled(t *testing.T) {
	dir := t.TempDir()
	layers := make([]string, 2)
	for i := range layers {
		tree := filepath.Join(dir, fmt.Sprint("tree", i))
		if err := os.MkdirAll(tree, 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(tree, "file"), fmt.Appendf(nil, "layer %d", i), 0o644); err != nil {
			t.Fatal(err)
		}
		layers[i] = filepath.Join(dir, fmt.Sprintf("layer%d.erofs", i))
		if out, err := exec.Command("mkfs.erofs", "--quiet", layers[i], tree).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	for _, name := range []string{"upper", "work"} {
		if err := os.Mkdir(filepath.Join(dir, name), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	trees := trees(t)
	root := &image.Root{
		Images: []image.Image{{Source: layers[1], Type: image.EROFS, ReadOnly: true}, {Source: layers[0], Type: image.EROFS, ReadOnly: true}},
		Overlay: &image.Overlay{
			Lower: []image.Dir{{Image: 0}, {Image: 1}},
			Upper: &image.Dir{Image: image.OnHost, Path: filepath.Join(dir, "upper")},
			Work:  &image.Dir{Image: image.OnHost, Path: filepath.Join(dir, "work")},
		},
	}
	share, err := trees.AddAssembled(root)
	if err != nil {
		t.Fatal(err)
	}
	wantFile(t, filepath.Join(trees.Pool(), share.Tag, "file"), "layer 1")
	if err := os.WriteFile(filepath.Join(trees.Pool(), share.Tag, "new"), []byte("new"), 0o600); err != nil {
		t.Error(err)
	}
	wantFile(t, filepath.Join(dir, "upper/new"), "new")
	if err := trees.Remove(share); err != nil {
		t.Error(err)
	}

	writable := filepath.Join(dir, "rw.img")
	for _, args := range [][]string{{"truncate", "-s", "8M", writable}, {"mke2fs", "-q", "-t", "ext4", writable}, {"debugfs", "-w", "-R", "symlink upper " + dir, writable}} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %s", err, out)
		}
	}
	root.Images = append(root.Images, image.Image{Source: writable, Type: image.Ext4})
	root.Overlay.Upper, root.Overlay.Work = &image.Dir{Image: 2, Path: "upper"}, &image.Dir{Image: 2, Path: "work"}
	root.Make = []image.NewDir{{Dir: image.Dir{Image: 2, Path: "work"}, Mode: 0o755}}
	if _, err := trees.AddAssembled(root); err == nil || !strings.Contains(err.Error(), "a directory of image 2") {
		t.Errorf("a link was followed: %v", err)
	}
	wantEmpty(t, trees.Pool())
}
