// Package acl is POSIX access control lists in the form of the extended attribute
// system.posix_acl_access (include/uapi/linux/posix_acl_xattr.h, acl(5)), and what
// the kernel makes of them (fs/posix_acl.c): a file's mode and its list are two views
// of one thing.
//
// The libraries that there are read and write lists of files by path. Here the list
// comes from a guest and belongs to no inode, so it is checked as the kernel checks it.
package acl

import (
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Attribute is the name of the attribute that holds a list.
const Attribute = "system.posix_acl_access"

// A Tag says whom an entry is about.
type Tag uint16

// The tags, in the order in which a list has its entries.
const (
	Owner      Tag = 0x01
	User       Tag = 0x02 // ID is a user
	OwnerGroup Tag = 0x04
	Group      Tag = 0x08 // ID is a group
	Mask       Tag = 0x10 // the most that User, OwnerGroup and Group give
	Other      Tag = 0x20
)

// An Entry gives somebody permissions: bits as of one digit of a mode.
type Entry struct {
	Tag         Tag
	Permissions uint16
	// ID is a user or a group, or 1<<32-1 where the tag has none.
	ID uint32
}

// named tells that the entry is about the user or group of its ID.
func (e Entry) named() bool { return e.Tag == User || e.Tag == Group }

// A List is the entries of a valid list, at least three; nil is no list.
type List []Entry

const (
	version    = 2
	headerSize = 4
	entrySize  = 8
	// MaxSize bounds the value of a list, in bytes: that of any attribute
	// (limits.h, XATTR_SIZE_MAX).
	MaxSize = 64 << 10
	// noID is also what the kernel says for users and groups that a mount does not map.
	noID = 1<<32 - 1
)

// Parse reads a value. One without entries is no list, as with setxattr(2). It refuses
// what the kernel refuses: EOPNOTSUPP for another version, E2BIG and EINVAL.
func Parse(value []byte) (List, error) {
	list, err := decode(value)
	if err != nil || list == nil {
		return nil, err
	}
	if !list.valid() {
		return nil, unix.EINVAL
	}
	return list, nil
}

// ParseMapped reads what the kernel says of a file in a mount that maps owners. An
// entry about somebody whom the mount does not map is left out: nobody who sees the
// mount is meant, and a list that has it is refused by the next kernel as a whole.
func ParseMapped(value []byte) (List, error) {
	all, err := decode(value)
	if err != nil {
		return nil, err
	}
	var list List
	for _, entry := range all {
		if !entry.named() || entry.ID != noID {
			list = append(list, entry)
		}
	}
	if list != nil && !list.valid() {
		return nil, unix.EINVAL
	}
	return list, nil
}

func decode(value []byte) (List, error) {
	switch {
	case len(value) > MaxSize:
		return nil, unix.E2BIG
	case len(value) < headerSize || (len(value)-headerSize)%entrySize != 0:
		return nil, unix.EINVAL
	case binary.LittleEndian.Uint32(value) != version:
		return nil, unix.EOPNOTSUPP
	}
	var list List
	for at := headerSize; at < len(value); at += entrySize {
		entry := Entry{
			Tag:         Tag(binary.LittleEndian.Uint16(value[at:])),
			Permissions: binary.LittleEndian.Uint16(value[at+2:]),
			ID:          noID,
		}
		if entry.named() {
			entry.ID = binary.LittleEndian.Uint32(value[at+4:])
		}
		list = append(list, entry)
	}
	return list, nil
}

// valid is the kernel's posix_acl_valid: the tags are in their order, and a list that
// names somebody has a mask.
func (l List) valid() bool {
	var last Tag
	var named, masked bool
	for _, entry := range l {
		switch {
		case entry.Permissions > 7 || entry.Tag < last || entry.Tag == last && !entry.named():
			return false
		case entry.named() && entry.ID == noID:
			return false
		case last < Owner && entry.Tag != Owner, last < OwnerGroup && entry.Tag > OwnerGroup:
			return false
		}
		switch entry.Tag {
		case User, Group:
			named = true
		case Mask:
			masked = true
		case Owner, OwnerGroup, Other:
		default:
			return false
		}
		last = entry.Tag
	}
	return last == Other && (masked || !named)
}

// Value is the attribute's value.
func (l List) Value() []byte {
	value := binary.LittleEndian.AppendUint32(make([]byte, 0, headerSize+entrySize*len(l)), version)
	for _, entry := range l {
		value = binary.LittleEndian.AppendUint16(value, uint16(entry.Tag))
		value = binary.LittleEndian.AppendUint16(value, entry.Permissions)
		value = binary.LittleEndian.AppendUint32(value, entry.ID)
	}
	return value
}

// Mode is the permission bits of a file with the list, of which those of the group are the
// mask if there is one. A minimal list says no more than they do, and files do not keep
// it (posix_acl_equiv_mode).
func (l List) Mode() (bits uint32, minimal bool) {
	minimal = true
	for _, entry := range l {
		switch entry.Tag {
		case Owner:
			bits |= uint32(entry.Permissions) << 6
		case OwnerGroup:
			bits |= uint32(entry.Permissions) << 3
		case Mask:
			bits = bits&^0o070 | uint32(entry.Permissions)<<3
			minimal = false
		case Other:
			bits |= uint32(entry.Permissions)
		case User, Group:
			minimal = false
		}
	}
	return bits, minimal
}

// Chmod is the list after chmod(2): the bits of the group become the mask, if there is
// one (__posix_acl_chmod_masq).
func (l List) Chmod(mode uint32) List {
	changed := append(List(nil), l...)
	group := -1
	for i := range changed {
		switch entry := &changed[i]; entry.Tag {
		case Owner:
			entry.Permissions = uint16(mode >> 6 & 7)
		case OwnerGroup:
			if group < 0 {
				group = i
			}
		case Mask:
			group = i
		case Other:
			entry.Permissions = uint16(mode & 7)
		}
	}
	if group >= 0 {
		changed[group].Permissions = uint16(mode >> 3 & 7)
	}
	return changed
}

// Narrow is the most that a mode may give of a file with the list, where a kernel judges by the
// mode alone. Its bits of the group are the mask, which is more than the owning group has: it
// would let in whom the list refuses. So the group keeps what the list gives it and no named
// user lacks, and the others what nobody lacks who is named: a process of either may be
// one of them. Nobody gets more than the list gives, and some get less.
func (l List) Narrow(mode uint32) uint32 {
	group, other := uint16(7), uint16(7)
	var mask uint16
	var named bool
	for _, entry := range l {
		switch entry.Tag {
		case User:
			group &= entry.Permissions
			other &= entry.Permissions
		case OwnerGroup:
			group &= entry.Permissions
		case Group:
			other &= entry.Permissions
		case Mask:
			mask = entry.Permissions
		}
		named = named || entry.named()
	}
	if named {
		other &= mask
	}
	return mode &^ (uint32(^group&7)<<3 | uint32(^other&7))
}
