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

// none is the id of an entry about no named user or group.
const none = 1<<32 - 1

// listed is a list that lets a named user read and write, and the owning group do what group says.
func listed(mask, group uint16) acl.List {
	return acl.List{
		{Tag: acl.Owner, Permissions: 6, ID: none},
		{Tag: acl.User, Permissions: 6, ID: 1004},
		{Tag: acl.OwnerGroup, Permissions: group, ID: none},
		{Tag: acl.Mask, Permissions: mask, ID: none},
		{Tag: acl.Other, Permissions: 0, ID: none},
	}
}

// VM-03: the mode that the guest sees gives nobody what the host's list refuses, whatever the
// guest does to it. No list reaches the guest, and none of the guest's the host.
func TestListsNarrowTheMode(t *testing.T) {
	f := add(t, start(t), "a", false)
	wantMode := func(when string, want uint32) {
		t.Helper()
		if guest, _ := f.stat(); guest.Mode&permissions != want {
			t.Errorf("%s: mode %o, want %o", when, guest.Mode&permissions, want)
		}
	}
	list := func(l acl.List) {
		t.Helper()
		if err := unix.Setxattr(f.host, acl.Attribute, l.Value(), 0); err != nil {
			t.Fatalf("set TMPDIR to a directory whose file system has access control lists, such as ext4, XFS, Btrfs or tmpfs: %v", err)
		}
	}
	chmod := func(mode uint32) {
		t.Helper()
		if err := unix.Chmod(f.path, mode); err != nil {
			t.Fatal(err)
		}
	}
	list(listed(6, 0))
	if _, host := f.stat(); host.Mode&permissions != 0o660 {
		t.Fatalf("the host's mode is %o, and shows no mask", host.Mode&permissions)
	}
	wantMode("the owning group has nothing", 0o600)
	list(listed(6, 4))
	wantMode("the host's list changes", 0o640)
	if err := unix.Removexattr(f.host, acl.Attribute); err != nil {
		t.Fatal(err)
	}
	wantMode("the list is removed, and leaves the mask", 0o660)
	list(listed(6, 4))
	chmod(0o660)
	wantMode("the guest sets the mask", 0o640)
	chmod(0o604)
	wantMode("the guest lets others in, of whom some are named", 0o600)
	chmod(0o2771)
	wantMode("set-group-ID", 0o2740)
	if err := unix.Removexattr(f.host, acl.Attribute); err != nil {
		t.Fatal(err)
	}
	wantMode("what the guest has set stays", 0o2740)
	list(listed(6, 0))
	names := make([]byte, 1000)
	n, err := unix.Listxattr(f.path, names)
	if err != nil || strings.Contains(string(names[:n]), "system.") {
		t.Errorf("the guest lists %q, %v", names[:max(n, 0)], err)
	}
	if _, err := unix.Getxattr(f.path, acl.Attribute, nil); !errors.Is(err, unix.ENODATA) {
		t.Errorf("get: %v", err)
	}
	for what, err := range map[string]error{
		"set":    unix.Setxattr(f.path, acl.Attribute, listed(7, 7).Value(), 0),
		"remove": unix.Removexattr(f.path, acl.Attribute),
	} {
		if !errors.Is(err, unix.EOPNOTSUPP) {
			t.Errorf("%s: %v", what, err)
		}
	}
	value := make([]byte, 1000)
	if n, err := unix.Getxattr(f.host, acl.Attribute, value); err != nil || !slices.Equal(value[:n], listed(6, 0).Value()) {
		t.Errorf("the host's list is %v, %v", value[:max(n, 0)], err)
	}
}

// One that is owned by another in the guest is judged in the same way.
func TestListsNarrowWhatIsGiven(t *testing.T) {
	f := add(t, start(t), "a", true)
	if err := errors.Join(os.Chmod(f.host, 0o640|os.ModeSetgid), unix.Setxattr(f.host, acl.Attribute, listed(7, 4).Value(), 0)); err != nil {
		t.Fatalf("set TMPDIR to a directory whose file system has access control lists, such as ext4, XFS, Btrfs or tmpfs: %v", err)
	}
	if err := os.Chown(f.path, 5, 6); err != nil {
		t.Fatal(err)
	}
	if guest, _ := f.stat(); guest.Mode&permissions != 0o640 || guest.Uid != 5 || guest.Gid != 6 {
		t.Errorf("%d:%d with mode %o", guest.Uid, guest.Gid, guest.Mode&permissions)
	}
}
