// Package acl is POSIX access control lists (acl(5)) in the form of the extended
// attribute system.posix_acl_access (include/uapi/linux/posix_acl_xattr.h), and what is
// left of a mode where nobody applies them.
//
// The libraries that there are read and write lists of files by path. This is about the
// permissions in one, which they do not judge.
package acl

import (
	"encoding/binary"
	"errors"

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
	// ID is a user or a group, or 1<<32-1 where the tag has none or a mount maps it to none.
	ID uint32
}

// A List is the entries of a list; nil is none.
type List []Entry

const (
	version    = 2
	headerSize = 4
	entrySize  = 8
	maxSize    = 64 << 10 // in bytes, of any attribute (limits.h, XATTR_SIZE_MAX)
)

// small is enough for a list that names some sixty users and groups.
const small = 512

// Of reads the list of the object at a path; nil if it has none, or its file system has none.
func Of(path string) (List, error) {
	value := make([]byte, small)
	n, err := unix.Getxattr(path, Attribute, value)
	if errors.Is(err, unix.ERANGE) {
		value = make([]byte, maxSize)
		n, err = unix.Getxattr(path, Attribute, value)
	}
	switch {
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.EOPNOTSUPP):
		return nil, nil
	case err != nil:
		return nil, err
	}
	return Parse(value[:n])
}

// Parse reads the attribute's value as the kernel says it. The error is EINVAL for what is
// none.
func Parse(value []byte) (list List, err error) {
	if len(value) < headerSize || len(value) > maxSize || (len(value)-headerSize)%entrySize != 0 || binary.LittleEndian.Uint32(value) != version {
		return nil, unix.EINVAL
	}
	for at := headerSize; at < len(value); at += entrySize {
		list = append(list, Entry{
			Tag:         Tag(binary.LittleEndian.Uint16(value[at:])),
			Permissions: binary.LittleEndian.Uint16(value[at+2:]),
			ID:          binary.LittleEndian.Uint32(value[at+4:]),
		})
	}
	return list, nil
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

// Narrow is the most that a mode may give of a file with the list, where a kernel judges by the
// mode alone. Its bits of the group are the mask, which is more than the owning group has: they
// would let in whom the list refuses. So the group keeps what the list gives it and no named
// user lacks, and the others what nobody lacks who is named: a process of either may be
// one of them. Nobody gets more than the list gives, and some get less.
func (l List) Narrow(mode uint32) uint32 {
	group, other, mask := uint16(7), uint16(7), uint16(mode>>3&7)
	for _, entry := range l {
		switch entry.Tag {
		case User:
			group &= entry.Permissions
			other &= entry.Permissions & mask
		case OwnerGroup:
			group &= entry.Permissions
		case Group:
			other &= entry.Permissions & mask
		}
	}
	return mode &^ (uint32(^group&7)<<3 | uint32(^other&7))
}
