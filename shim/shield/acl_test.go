package shield

import (
	"errors"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/shield/acl"
)

// named is a list with two named users in it.
func named(mask, group uint16) acl.List {
	return acl.List{
		{Tag: acl.Owner, Permissions: 6, ID: none},
		{Tag: acl.User, Permissions: 6, ID: 1004},
		{Tag: acl.User, Permissions: 4, ID: 1005},
		{Tag: acl.OwnerGroup, Permissions: group, ID: none},
		{Tag: acl.Mask, Permissions: mask, ID: none},
		{Tag: acl.Other, Permissions: 0, ID: none},
	}
}

const none = 1<<32 - 1

func setList(path string, list acl.List) error {
	return unix.Setxattr(path, acl.Attribute, list.Value(), 0)
}

// rights are the mode and the list of a file.
func rights(t *testing.T, path string) (mode uint32, list acl.List) {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		t.Fatal(err)
	}
	value := make([]byte, acl.MaxSize)
	n, err := unix.Getxattr(path, acl.Attribute, value)
	if err == nil {
		list, err = acl.Parse(value[:n])
	}
	if err != nil && !errors.Is(err, unix.ENODATA) {
		t.Fatal(err)
	}
	return stat.Mode & permissions, list
}

// VM-03: an access control list is metadata as the mode is. Whatever is done to the file
// ends as on the host's own file system, and does not reach the host's inode.
func TestListIsKept(t *testing.T) {
	s := start(t)
	chmod := func(mode uint32) func(string) error {
		return func(path string) error { return unix.Chmod(path, mode) }
	}
	set := func(list acl.List) func(string) error {
		return func(path string) error { return setList(path, list) }
	}
	remove := func(path string) error { return unix.Removexattr(path, acl.Attribute) }
	clear := func(path string) error { return unix.Setxattr(path, acl.Attribute, []byte{2, 0, 0, 0}, 0) }
	if err := setList(t.TempDir(), named(6, 0)); err != nil {
		t.Skipf("the file system of temporary files has no lists: %v", err)
	}
	for name, steps := range map[string][]func(string) error{
		"nothing":               {},
		"chmod":                 {chmod(0o751)},
		"chmod of a set-id bit": {chmod(0o2771), chmod(0o640)},
		"a list":                {set(named(4, 6))},
		"a list, chmod":         {set(named(7, 6)), chmod(0o604)},
		"removed":               {remove},
		"removed twice":         {remove, remove},
		"no entries":            {clear},
		"chmod, removed":        {chmod(0o660), remove},
		"removed, a list":       {remove, set(named(6, 4))},
		"a minimal list": {set(acl.List{
			{Tag: acl.Owner, Permissions: 7, ID: none}, {Tag: acl.OwnerGroup, Permissions: 1, ID: none}, {Tag: acl.Other, Permissions: 4, ID: none},
		})},
		"an invalid list": {set(acl.List{{Tag: acl.Owner, Permissions: 7, ID: none}})},
		"another version": {func(path string) error { return unix.Setxattr(path, acl.Attribute, []byte{1, 0, 0, 0}, 0) }},
		"chown":           {func(path string) error { return unix.Chown(path, 7, 8) }},
		"chmod, chown":    {chmod(0o6771), func(path string) error { return unix.Chown(path, 7, 8) }},
		"created twice": {func(path string) error {
			return unix.Setxattr(path, acl.Attribute, named(1, 1).Value(), unix.XATTR_CREATE)
		}},
		"replaced": {remove, func(path string) error {
			return unix.Setxattr(path, acl.Attribute, named(1, 1).Value(), unix.XATTR_REPLACE)
		}},
	} {
		t.Run(name, func(t *testing.T) {
			f := add(t, s, strings.ReplaceAll(name, " ", "-"), false)
			own := t.TempDir() + "/own" // what a file system of the host makes of it
			if err := os.WriteFile(own, nil, 0o640); err != nil {
				t.Fatal(err)
			}
			if err := errors.Join(setList(own, named(6, 0)), setList(f.host, named(6, 0))); err != nil {
				t.Fatal(err)
			}
			for i, step := range steps {
				want, got := step(own), step(f.path)
				if !errors.Is(got, want) {
					t.Errorf("step %d: %v on the host's file system, %v in the guest", i, want, got)
				}
				wantMode, wantList := rights(t, own)
				if mode, list := rights(t, f.path); mode != wantMode || !slices.Equal(list, wantList) {
					t.Errorf("step %d: mode %o and %v, want %o and %v", i, mode, list, wantMode, wantList)
				}
				if listed := hasList(t, f.path); listed != (wantList != nil) {
					t.Errorf("step %d: it is listed: %v", i, listed)
				}
			}
			if mode, list := rights(t, f.host); mode != 0o660 || !slices.Equal(list, named(6, 0)) {
				t.Errorf("the host's inode has mode %o and %v", mode, list)
			}
		})
	}
}

func hasList(t *testing.T, path string) bool {
	t.Helper()
	names := make([]byte, 1000)
	n, err := unix.Listxattr(path, names)
	if err != nil {
		t.Fatal(err)
	}
	return strings.Contains(string(names[:n]), acl.Attribute+"\x00")
}

// A list of the host's that comes later holds, until the guest has set mode or list.
func TestListOfTheHost(t *testing.T) {
	f := add(t, start(t), "a", false)
	if err := setList(f.host, named(6, 0)); err != nil {
		t.Skipf("the file system of temporary files has no lists: %v", err)
	}
	if mode, list := rights(t, f.path); mode != 0o660 || !slices.Equal(list, named(6, 0)) {
		t.Errorf("mode %o and %v", mode, list)
	}
	if err := errors.Join(os.Chmod(f.path, 0o600), setList(f.host, named(7, 7))); err != nil {
		t.Fatal(err)
	}
	if mode, list := rights(t, f.path); mode != 0o600 || !slices.Equal(list, named(0, 0)) {
		t.Errorf("after chmod in the guest, mode %o and %v", mode, list)
	}
}

// What a guest keeps as lists is bounded with its other attributes.
func TestListsAreBounded(t *testing.T) {
	f := add(t, start(t), "a", false)
	list := named(6, 0)
	for id := range uint32(490) {
		list = slices.Insert(list, 1, acl.Entry{Tag: acl.User, Permissions: 4, ID: id})
	}
	if err := setList(f.path, list); err != nil {
		t.Fatalf("%d entries: %v", len(list), err)
	}
	if _, got := rights(t, f.path); !slices.Equal(got, list) {
		t.Errorf("%d of %d entries", len(got), len(list))
	}
	var err error
	for i := 0; err == nil && i < 100; i++ {
		err = unix.Setxattr(f.path, "user."+strings.Repeat("x", i+1), make([]byte, 4<<10), 0)
	}
	if !errors.Is(err, unix.ENOSPC) {
		t.Fatalf("filling: %v", err)
	}
	if err := setList(f.path, slices.Insert(list, 1, list[1:10]...)); err != nil {
		t.Errorf("a list that still has room: %v", err)
	}
	if err := setList(f.path, slices.Concat(list[:1], slices.Repeat(list[1:2], 8000), list[2:])); !errors.Is(err, unix.ENOSPC) && !errors.Is(err, unix.E2BIG) {
		t.Errorf("a list that has none: %v", err)
	}
}
