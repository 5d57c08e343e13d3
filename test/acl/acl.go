// Package acl writes access control lists as setfacl does and reads them as the kernel
// has them, in the short form of acl(5), on the host and in containers.
package acl

import (
	"encoding/binary"
	"fmt"
	"strconv"
	"strings"
)

// Names of the attributes in which the kernel has them (xattr(7)).
const (
	Access  = "system.posix_acl_access"
	Default = "system.posix_acl_default"
)

// The kernel's form (linux/posix_acl_xattr.h): a version, then entries of a tag, rights
// and an id.
const (
	version = 2
	noID    = 1<<32 - 1
	entry   = 8
)

// words are the tags' by the word before the first colon: of the owner, the group and
// others if no id follows.
var words = map[string]struct{ own, named uint16 }{"u": {0x01, 0x02}, "g": {0x04, 0x08}, "m": {0x10, 0}, "o": {0x20, 0}}

const rights = "rwx"

// Encode makes the kernel's form of a list such as "u::rw-,u:1002:rw-,g::---,m::rw-,o::---".
// Its entries have to be in this order.
func Encode(list string) ([]byte, error) {
	value := binary.LittleEndian.AppendUint32(nil, version)
	for _, text := range strings.Split(list, ",") {
		parts := strings.Split(text, ":")
		if len(parts) != 3 || words[parts[0]].own == 0 || len(parts[2]) != len(rights) {
			return nil, fmt.Errorf("%q is not an entry of an access control list", text)
		}
		tag, id := words[parts[0]].own, uint64(noID)
		if parts[1] != "" {
			tag = words[parts[0]].named
			var err error
			if id, err = strconv.ParseUint(parts[1], 10, 32); err != nil {
				return nil, err
			}
		}
		var bits uint16
		for i := range len(rights) {
			bits <<= 1
			if parts[2][i] == rights[i] {
				bits |= 1
			}
		}
		value = binary.LittleEndian.AppendUint16(value, tag)
		value = binary.LittleEndian.AppendUint16(value, bits)
		value = binary.LittleEndian.AppendUint32(value, uint32(id))
	}
	return value, nil
}

// Decode is the reverse.
func Decode(value []byte) (string, error) {
	if len(value) < 4 || (len(value)-4)%entry != 0 || binary.LittleEndian.Uint32(value) != version {
		return "", fmt.Errorf("%x is not an access control list", value)
	}
	var list []string
	for value = value[4:]; len(value) > 0; value = value[entry:] {
		list = append(list, decode(binary.LittleEndian.Uint16(value), binary.LittleEndian.Uint16(value[2:]), binary.LittleEndian.Uint32(value[4:])))
	}
	return strings.Join(list, ","), nil
}

func decode(tag, bits uint16, id uint32) string {
	name := fmt.Sprintf("?%d", tag)
	for word, tags := range words {
		switch tag {
		case tags.own:
			name = word + ":"
		case tags.named:
			name = fmt.Sprintf("%s:%d", word, id)
		}
	}
	text := []byte("---")
	for i := range rights {
		if bits>>(len(rights)-1-i)&1 == 1 {
			text[i] = rights[i]
		}
	}
	return fmt.Sprintf("%s:%s", name, text)
}
