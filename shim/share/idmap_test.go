package share

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
	"github.com/msb-runtime/containerd-shim-msb/shim/shield/acl"
)

// shifted maps the first ids to those from 100000 on.
var shifted = IDMap{UIDs: "0:100000:1000", GIDs: "0:200000:1000"}

func owner(t *testing.T, path string) [2]uint32 {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Lstat(path, &stat); err != nil {
		t.Fatal(err)
	}
	return [2]uint32{stat.Uid, stat.Gid}
}

// The guest sees mapped owners, what it makes has the host's, and ids without a mapping
// are nobody's.
func TestIDMap(t *testing.T) {
	trees := trees(t)
	path := file(t, "content")
	dir := filepath.Dir(path)
	foreign := filepath.Join(dir, "foreign")
	if err := os.WriteFile(foreign, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chown(foreign, 5000, 5); err != nil {
		t.Fatal(err)
	}
	shared := add(t, trees, dir, Attributes{IDMap: shifted})
	served := filepath.Join(trees.Pool(), shared.Tag)
	if got := owner(t, filepath.Join(served, "app.conf")); got != [2]uint32{100000, 200000} {
		t.Errorf("root's file is %v's to the guest", got)
	}
	if got := owner(t, filepath.Join(served, "foreign")); got != [2]uint32{65534, 200005} {
		t.Errorf("a file of an id without a mapping is %v's", got)
	}
	if err := os.Chown(filepath.Join(served, "app.conf"), 100007, 200008); err != nil {
		t.Fatal(err)
	}
	if got := owner(t, path); got != [2]uint32{7, 8} {
		t.Errorf("given to user 7 and group 8, it is %v's on the host", got)
	}
	if err := os.Chown(filepath.Join(served, "app.conf"), 5, 5); err == nil {
		t.Error("it can be given to an id that nothing is mapped to")
	}
	// The file server is the host's root. It renames and links files; what it makes as itself
	// is nobody's.
	if err := errors.Join(
		os.Rename(filepath.Join(served, "app.conf"), filepath.Join(served, "moved")),
		os.Link(filepath.Join(served, "moved"), filepath.Join(served, "app.conf")),
		os.Remove(filepath.Join(served, "moved")),
		os.WriteFile(filepath.Join(served, "new"), nil, 0o600),
	); err != nil {
		t.Error(err)
	}
	if got := owner(t, filepath.Join(dir, "new")); got != [2]uint32{serverID, serverID} {
		t.Errorf("what the file server makes is %v's", got)
	}
	again := add(t, trees, dir, Attributes{IDMap: shifted})
	plain := add(t, trees, dir, Attributes{})
	if again.Tag != shared.Tag || plain.Tag == shared.Tag {
		t.Errorf("shared as %s, again as %s, without a mapping as %s", shared.Tag, again.Tag, plain.Tag)
	}

	staged := add(t, trees, path, Attributes{IDMap: shifted, ReadOnly: true})
	if got := owner(t, filepath.Join(trees.Files(), staged.Tag, staged.Name)); got != [2]uint32{100007, 200008} {
		t.Errorf("the staged file is %v's", got)
	}
}

// A file system that cannot map ids is named, and nothing is left.
func TestIDMapNotPossible(t *testing.T) {
	trees := trees(t)
	dir := t.TempDir()
	if err := unix.Mount("ramfs", dir, "ramfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(dir, unix.MNT_DETACH)
	source, err := OpenSource(mountns.Namespace{}, dir)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	_, err = trees.Add(source, Attributes{IDMap: shifted})
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "source "+dir+": its file system cannot map") {
		t.Errorf("on a ramfs: %v", err)
	}
	if left, _ := os.ReadDir(trees.pool()); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// shieldOf notes whose a file is that it is given, and whom its access control list names,
// and serves another.
type shieldOf struct {
	serves string
	owner  [2]uint32
	list   acl.List
}

func (s *shieldOf) Add(_ string, file, _ *os.File, _ string) (*os.File, error) {
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return nil, err
	}
	s.owner = [2]uint32{stat.Uid, stat.Gid}
	value := make([]byte, 64<<10)
	if n, err := unix.Getxattr(fmt.Sprintf("/proc/self/fd/%d", file.Fd()), acl.Attribute, value); err == nil {
		if s.list, err = acl.Parse(value[:n]); err != nil {
			return nil, err
		}
	}
	return os.OpenFile(s.serves, unix.O_PATH, 0)
}

func (s *shieldOf) AddFixed(name string, file *os.File) (*os.File, error) {
	return s.Add(name, file, nil, "")
}

func (*shieldOf) Remove(string) error { return nil }

// The shield gets a file with its mapped owner, whose list names mapped users. One that
// something is mounted on cannot be followed: in what the shield would be given, the file below has its name.
func TestIDMapShielded(t *testing.T) {
	trees, shield := trees(t), &shieldOf{serves: file(t, "")}
	trees.shield = shield
	path := file(t, "content")
	const none = 1<<32 - 1
	list := acl.List{
		{Tag: acl.Owner, Permissions: 6, ID: none},
		{Tag: acl.User, Permissions: 6, ID: 4},
		{Tag: acl.User, Permissions: 6, ID: 5000},
		{Tag: acl.OwnerGroup, ID: none},
		{Tag: acl.Group, Permissions: 6, ID: 5},
		{Tag: acl.Mask, Permissions: 6, ID: none},
		{Tag: acl.Other, ID: none},
	}
	if err := unix.Setxattr(path, acl.Attribute, list.Value(), 0); err != nil {
		t.Fatal(err)
	}
	add(t, trees, path, Attributes{IDMap: shifted, Shield: true, Follow: true})
	list[1].ID, list[2].ID, list[4].ID = 100004, none, 200005
	if !slices.Equal(shield.list, list) {
		t.Errorf("the shield's file has the list %v, want %v", shield.list, list)
	}
	if shield.owner != [2]uint32{100000, 200000} {
		t.Errorf("the shield's file is %v's", shield.owner)
	}
	if err := unix.Mount(filepath.Join(filepath.Dir(path), "sibling"), path, "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	defer unix.Unmount(path, unix.MNT_DETACH)
	add(t, trees, path, Attributes{IDMap: shifted, Shield: true})
	source, err := OpenSource(mountns.Namespace{}, path)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	if _, err = trees.Add(source, Attributes{IDMap: shifted, Shield: true, Follow: true}); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "is a mount of its own") {
		t.Errorf("following what is mounted on a file: %v", err)
	}
}

func TestWithServer(t *testing.T) {
	many := strings.TrimSuffix(strings.Repeat("1:1:1,", maxMappings), ",")
	for given, want := range map[string]string{
		"0:100000:65536":       "0:100000:65536,4294967294:0:1",
		"0:1000:1,1:100000:10": "0:1000:1,1:100000:10,4294967294:0:1",
		"0:0:10":               "0:0:10",
		"1:5:1,0:0:1":          "1:5:1,0:0:1",
		"4294967290:5:5":       "4294967290:5:5",
		many:                   many,
	} {
		if got := withServer(given); got != want {
			t.Errorf("%s: %s, want %s", given, got, want)
		}
	}
}
