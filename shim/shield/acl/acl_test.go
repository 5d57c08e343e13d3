package acl

import (
	"errors"
	"slices"
	"testing"

	"golang.org/x/sys/unix"
)

const noID = 1<<32 - 1

// list is one with the entries of a file of mode 0600, a user and a mask.
var list = List{{Owner, 6, noID}, {User, 6, 1004}, {OwnerGroup, 0, noID}, {Mask, 6, noID}, {Other, 0, noID}}

func TestParse(t *testing.T) {
	many := slices.Concat(list[:1], slices.Repeat(list[1:2], 496), list[2:])
	for name, want := range map[string]List{"a list": list, "500 entries": many} {
		if got, err := Parse(want.Value()); err != nil || !slices.Equal(got, want) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
	for name, value := range map[string][]byte{
		"nothing":         nil,
		"half an entry":   list.Value()[:headerSize+entrySize+3],
		"another version": append([]byte{1, 0, 0, 0}, list.Value()[headerSize:]...),
		"too long":        slices.Concat(list.Value()[:headerSize], make([]byte, maxSize)),
	} {
		if _, err := Parse(value); !errors.Is(err, unix.EINVAL) {
			t.Errorf("%s: %v", name, err)
		}
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
		mode := uint32(digit(3)<<3 | digit(4)) // the mask is the group's (acl(5))
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

// Nothing that is read does harm, and nothing makes a mode give more.
func FuzzParse(f *testing.F) {
	f.Add(list.Value(), uint32(0o660))
	f.Add(slices.Repeat(list, 100).Value(), uint32(0o7777))
	f.Fuzz(func(t *testing.T, value []byte, mode uint32) {
		l, err := Parse(value)
		if err == nil && (!slices.Equal(l.Value(), value) || l.Narrow(mode)&^mode != 0 || mode&^l.Narrow(mode)&^0o077 != 0) {
			t.Errorf("%v is %v, and %o narrowed %o", value, l, mode, l.Narrow(mode))
		}
	})
}
