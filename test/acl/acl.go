// Package acl writes access control lists as setfacl does and reads them as the kernel
// has them, in the short form of acl(5), on the host and in containers.
package acl

import (
	"fmt"
	"strconv"
	"strings"

	"github.com/msb-runtime/containerd-shim-msb/shim/shield/acl"
)

// Names of the attributes in which the kernel has them (xattr(7)).
const (
	Access  = acl.Attribute
	Default = "system.posix_acl_default"
)

// noID is that of an entry about the owner, the group, the mask or others.
const noID = 1<<32 - 1

// words are the tags by the word before the first colon: of the owner, the group and others
// if no id follows.
var words = map[string]struct{ own, named acl.Tag }{"u": {acl.Owner, acl.User}, "g": {acl.OwnerGroup, acl.Group}, "m": {acl.Mask, 0}, "o": {acl.Other, 0}}

const rights = "rwx"

// Encode makes the kernel's form of a list such as "u::rw-,u:1002:rw-,g::---,m::rw-,o::---".
// Its entries have to be in this order.
func Encode(text string) ([]byte, error) {
	var list acl.List
	for _, text := range strings.Split(text, ",") {
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
		list = append(list, acl.Entry{Tag: tag, Permissions: bits, ID: uint32(id)})
	}
	return list.Value(), nil
}

// Decode is the reverse.
func Decode(value []byte) (string, error) {
	list, err := acl.Parse(value)
	if err != nil {
		return "", fmt.Errorf("%x is not an access control list: %w", value, err)
	}
	var texts []string
	for _, entry := range list {
		texts = append(texts, decode(entry))
	}
	return strings.Join(texts, ","), nil
}

func decode(entry acl.Entry) string {
	name := fmt.Sprintf("?%d", entry.Tag)
	for word, tags := range words {
		switch entry.Tag {
		case tags.own:
			name = word + ":"
		case tags.named:
			name = fmt.Sprintf("%s:%d", word, entry.ID)
		}
	}
	text := []byte("---")
	for i := range rights {
		if entry.Permissions>>(len(rights)-1-i)&1 == 1 {
			text[i] = rights[i]
		}
	}
	return fmt.Sprintf("%s:%s", name, text)
}
