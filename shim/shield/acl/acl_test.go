package acl

import (
	"bytes"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

// list is one with the entries of a file of mode 0640, a user and a mask.
var list = List{{Owner, 6, noID}, {User, 6, 1004}, {OwnerGroup, 0, noID}, {Mask, 6, noID}, {Other, 0, noID}}

// many is a list with so many named users.
func many(users int) List {
	l := List{{Owner, 6, noID}}
	for i := range users {
		l = append(l, Entry{User, 4, uint32(i)})
	}
	return append(l, Entry{OwnerGroup, 4, noID}, Entry{Mask, 4, noID}, Entry{Other, 0, noID})
}

var invalid = map[string]List{
	"no owner":              {{OwnerGroup, 0, noID}, {Other, 0, noID}},
	"no group":              {{Owner, 0, noID}, {Other, 0, noID}},
	"no other":              {{Owner, 0, noID}, {OwnerGroup, 0, noID}},
	"a user without a mask": {{Owner, 0, noID}, {User, 0, 1}, {OwnerGroup, 0, noID}, {Other, 0, noID}},
	"a user after the group": {
		{Owner, 0, noID}, {OwnerGroup, 0, noID}, {User, 0, 1}, {Mask, 0, noID}, {Other, 0, noID},
	},
	"two owners":        {{Owner, 0, noID}, {Owner, 0, noID}, {OwnerGroup, 0, noID}, {Other, 0, noID}},
	"two masks":         {{Owner, 0, noID}, {OwnerGroup, 0, noID}, {Mask, 0, noID}, {Mask, 0, noID}, {Other, 0, noID}},
	"more after others": {{Owner, 0, noID}, {OwnerGroup, 0, noID}, {Other, 0, noID}, {Other, 0, noID}},
	"an unknown tag":    {{Owner, 0, noID}, {OwnerGroup, 0, noID}, {0x18, 0, noID}, {Mask, 0, noID}, {Other, 0, noID}},
	"no tag":            {{0, 0, noID}, {Owner, 0, noID}, {OwnerGroup, 0, noID}, {Other, 0, noID}},
	"a bit too many":    {{Owner, 8, noID}, {OwnerGroup, 0, noID}, {Other, 0, noID}},
	"nobody":            {{Owner, 0, noID}, {User, 0, noID}, {OwnerGroup, 0, noID}, {Mask, 0, noID}, {Other, 0, noID}},
}

func TestParse(t *testing.T) {
	for name, want := range map[string]List{"a list": list, "a minimal one": {{Owner, 7, noID}, {OwnerGroup, 5, noID}, {Other, 4, noID}}, "500 entries": many(496)} {
		if got, err := Parse(want.Value()); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	if got, err := Parse([]byte{2, 0, 0, 0}); got != nil || err != nil {
		t.Errorf("no entries: %v, %v", got, err)
	}
	for name, l := range invalid {
		if _, err := Parse(l.Value()); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for name, test := range map[string]struct {
		value []byte
		want  error
	}{
		"nothing":         {nil, unix.EINVAL},
		"half an entry":   {list.Value()[:headerSize+entrySize+3], unix.EINVAL},
		"another version": {append([]byte{1, 0, 0, 0}, list.Value()[headerSize:]...), unix.EOPNOTSUPP},
		"too long":        {make([]byte, MaxSize+4), unix.E2BIG},
	} {
		if _, err := Parse(test.value); !errors.Is(err, test.want) {
			t.Errorf("%s: %v, want %v", name, err, test.want)
		}
	}
}

// Whom a mount does not map is nobody who sees it.
func TestParseMapped(t *testing.T) {
	l := List{{Owner, 6, noID}, {User, 6, noID}, {User, 4, 7}, {OwnerGroup, 0, noID}, {Group, 6, noID}, {Mask, 6, noID}, {Other, 0, noID}}
	want := List{{Owner, 6, noID}, {User, 4, 7}, {OwnerGroup, 0, noID}, {Mask, 6, noID}, {Other, 0, noID}}
	if got, err := ParseMapped(l.Value()); err != nil || !slices.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
	if _, err := ParseMapped(invalid["no group"].Value()); !errors.Is(err, unix.EINVAL) {
		t.Errorf("an invalid one: %v", err)
	}
}

func TestMode(t *testing.T) {
	for name, test := range map[string]struct {
		list    List
		bits    uint32
		minimal bool
	}{
		"the mask is the group's": {list, 0o660, false},
		"minimal":                 {List{{Owner, 7, noID}, {OwnerGroup, 5, noID}, {Other, 4, noID}}, 0o754, true},
		"a mask alone":            {List{{Owner, 7, noID}, {OwnerGroup, 7, noID}, {Mask, 1, noID}, {Other, 0, noID}}, 0o710, false},
		"none":                    {nil, 0, true},
	} {
		if bits, minimal := test.list.Mode(); bits != test.bits || minimal != test.minimal {
			t.Errorf("%s: %o, %v", name, bits, minimal)
		}
	}
}

func TestChmod(t *testing.T) {
	want := List{{Owner, 7, noID}, {User, 6, 1004}, {OwnerGroup, 0, noID}, {Mask, 5, noID}, {Other, 1, noID}}
	if got := list.Chmod(0o100751); !slices.Equal(got, want) {
		t.Errorf("%v", got)
	}
	if list[0].Permissions != 6 {
		t.Error("the list itself has changed")
	}
	minimal := List{{Owner, 7, noID}, {OwnerGroup, 5, noID}, {Other, 4, noID}}
	if bits, _ := minimal.Chmod(0o421).Mode(); bits != 0o421 {
		t.Errorf("%o", bits)
	}
}

// permits is what the kernel lets a process do (posix_acl_permission), who is not the owner:
// a user, and whether it is in the owning group and in the named one.
func (l List) permits(user uint32, owners, group bool, want uint16) bool {
	mask, found := uint16(7), false
	for _, entry := range l {
		if entry.Tag == Mask {
			mask = entry.Permissions
		}
	}
	for _, entry := range l {
		switch {
		case entry.Tag == User && entry.ID == user:
			return entry.Permissions&mask&want == want
		case entry.Tag == OwnerGroup && owners, entry.Tag == Group && group:
			found = true
			if entry.Permissions&mask&want == want {
				return true
			}
		case entry.Tag == Other:
			return !found && entry.Permissions&want == want
		}
	}
	return false
}

// Whom the list refuses, the narrowed mode refuses, whoever asks for whatever of whichever
// list with two named ones. It gives what there is to give: the group what a list without
// named ones gives it.
func TestNarrow(t *testing.T) {
	for bits := range uint16(1 << 15) {
		digit := func(i int) uint16 { return bits >> (3 * i) & 7 }
		l := List{{Owner, 0, noID}, {User, digit(0), 1}, {OwnerGroup, digit(1), noID}, {Group, digit(2), 2}, {Mask, digit(3), noID}, {Other, digit(4), noID}}
		mode, _ := l.Mode()
		narrow := l.Narrow(mode)
		for user := range uint32(2) {
			for _, owners := range []bool{false, true} {
				for _, group := range []bool{false, true} {
					class := uint16(narrow & 7)
					if owners {
						class = uint16(narrow >> 3 & 7)
					}
					for want := uint16(1); want < 8; want <<= 1 {
						if class&want != 0 && !l.permits(user, owners, group, want) {
							t.Fatalf("%v narrows %o to %o, and user %d, in the owning group %v, in the other %v, gets %o", l, mode, narrow, user, owners, group, want)
						}
					}
				}
			}
		}
	}
	for name, test := range map[string]struct {
		list       List
		mode, want uint32
	}{
		"none":                    {nil, 0o6754, 0o6754},
		"a user":                  {list, 0o660, 0o600},
		"the group as the mask":   {List{{Owner, 7, noID}, {OwnerGroup, 7, noID}, {Mask, 1, noID}, {Other, 4, noID}}, 0o714, 0o714},
		"all have what all have":  {List{{Owner, 7, noID}, {User, 5, 1}, {OwnerGroup, 7, noID}, {Group, 7, 2}, {Mask, 7, noID}, {Other, 5, noID}}, 0o2775, 0o2755},
		"a user who has less":     {List{{Owner, 7, noID}, {User, 0, 1}, {OwnerGroup, 7, noID}, {Mask, 7, noID}, {Other, 5, noID}}, 0o775, 0o700},
		"a group that has less":   {List{{Owner, 7, noID}, {OwnerGroup, 7, noID}, {Group, 1, 2}, {Mask, 7, noID}, {Other, 5, noID}}, 0o775, 0o771},
		"a mask that takes away":  {List{{Owner, 7, noID}, {User, 7, 1}, {OwnerGroup, 7, noID}, {Mask, 4, noID}, {Other, 7, noID}}, 0o747, 0o744},
		"the owner's are its own": {list, 0o060, 0},
	} {
		if got := test.list.Narrow(test.mode); got != test.want {
			t.Errorf("%s: %o, want %o", name, got, test.want)
		}
	}
}

// The host's own kernel says the same of each list: whether it is one, what mode it
// makes, and what chmod makes of it.
func TestAsTheKernel(t *testing.T) {
	path := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(path, Attribute, list.Value(), 0); err != nil {
		t.Skipf("the file system of %s has no lists: %v", path, err)
	}
	for name, l := range invalid {
		if err := unix.Setxattr(path, Attribute, l.Value(), 0); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%s: the kernel says %v", name, err)
		}
	}
	for _, l := range []List{list, many(490), {{Owner, 7, noID}, {OwnerGroup, 7, noID}, {Mask, 1, noID}, {Other, 0, noID}}} {
		if err := unix.Setxattr(path, Attribute, l.Value(), 0); err != nil {
			t.Fatal(err)
		}
		wantInode(t, path, l)
		if err := unix.Chmod(path, 0o421); err != nil {
			t.Fatal(err)
		}
		wantInode(t, path, l.Chmod(0o421))
	}
}

func wantInode(t *testing.T, path string, want List) {
	t.Helper()
	var stat unix.Stat_t
	value := make([]byte, MaxSize)
	n, err := unix.Getxattr(path, Attribute, value)
	if err := errors.Join(err, unix.Stat(path, &stat)); err != nil {
		t.Fatal(err)
	}
	if bits, _ := want.Mode(); !bytes.Equal(value[:n], want.Value()) || stat.Mode&0o777 != bits {
		t.Errorf("the kernel has %v and mode %o; want %v and %o", value[:n], stat.Mode, want, bits)
	}
}

// Nothing that a guest sends does harm: what is taken is valid, and stays the same
// when it is written and read again.
func FuzzParse(f *testing.F) {
	f.Add(list.Value())
	f.Add(many(500).Value())
	for _, l := range invalid {
		f.Add(l.Value())
	}
	f.Fuzz(func(t *testing.T, value []byte) {
		for _, parse := range []func([]byte) (List, error){Parse, ParseMapped} {
			l, err := parse(value)
			if err != nil || l == nil {
				continue
			}
			again, err := Parse(l.Value())
			if err != nil || !slices.Equal(again, l) || len(l) > MaxSize/entrySize {
				t.Errorf("%v is %v, and again %v, %v", value, l, again, err)
			}
			if bits, _ := l.Chmod(0o751).Mode(); bits != 0o751 {
				t.Errorf("%v: chmod 751 makes %o", l, bits)
			}
		}
	})
}
