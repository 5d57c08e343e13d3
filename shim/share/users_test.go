package share

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"
)

// A directory is shared once as long as somebody uses it; what differs is another share.
func TestUsers(t *testing.T) {
	trees := trees(t)
	dir := t.TempDir()
	other := filepath.Join(dir, "other")
	if err := os.Mkdir(other, 0o755); err != nil {
		t.Fatal(err)
	}
	first, second := add(t, trees, dir, Attributes{}), add(t, trees, dir, Attributes{})
	if first.Tag != second.Tag {
		t.Error("one directory has two shares")
	}
	if add(t, trees, dir, Attributes{ReadOnly: true}).Tag == first.Tag || add(t, trees, other, Attributes{}).Tag == first.Tag {
		t.Error("what differs has one share")
	}
	if trees.Release(first) {
		t.Error("released with another user")
	}
	if !trees.Release(second) {
		t.Error("not released by the last user")
	}
	third := add(t, trees, dir, Attributes{})
	if third.Tag == first.Tag {
		t.Error("a share that was released is used again")
	}
	if err := trees.Remove(first); err != nil {
		t.Error(err)
	}
	if !trees.Release(third) {
		t.Error("the new share is not released by its last user")
	}
	// With something mounted below it, it may not be what it was.
	if err := unix.Mount("tmpfs", other, "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(other, unix.MNT_DETACH) })
	first, second = add(t, trees, dir, Attributes{Recursive: true}), add(t, trees, dir, Attributes{Recursive: true})
	if first.Tag == second.Tag {
		t.Error("a directory with mounts below it is shared once")
	}
}
