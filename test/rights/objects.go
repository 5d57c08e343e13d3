package rights

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/shield/acl"
)

// defaultList is the attribute with the list that a directory gives to what is made in it.
const defaultList = "system.posix_acl_default"

// A kind is what a file or directory has: mode, owners and access control lists.
type kind struct {
	name          string
	mode          uint32
	uid, gid      uint32
	list, inherit acl.List
}

// list is an access control list of the owner's, the group's and the others' digits, with the
// mask and the entries of named ones.
func list(digits string, mask uint16, entries ...acl.Entry) acl.List {
	digit := func(i int) uint16 { return uint16(digits[i] - '0') }
	l := acl.List{{Tag: acl.Owner, Permissions: digit(0), ID: undefined}}
	for _, e := range entries {
		if e.Tag == acl.User {
			l = append(l, e)
		}
	}
	l = append(l, acl.Entry{Tag: acl.OwnerGroup, Permissions: digit(1), ID: undefined})
	for _, e := range entries {
		if e.Tag == acl.Group {
			l = append(l, e)
		}
	}
	return append(l, acl.Entry{Tag: acl.Mask, Permissions: mask, ID: undefined}, acl.Entry{Tag: acl.Other, Permissions: digit(2), ID: undefined})
}

// modeOf is the mode of a file with the list: the mask is the group's (acl(5)).
func modeOf(list acl.List) (mode uint32) {
	for _, e := range list {
		switch e.Tag {
		case acl.Owner:
			mode |= uint32(e.Permissions) << 6
		case acl.Mask:
			mode |= uint32(e.Permissions) << 3
		case acl.Other:
			mode |= uint32(e.Permissions)
		}
	}
	return mode
}

func user(id uint32, permissions uint16) acl.Entry {
	return acl.Entry{Tag: acl.User, Permissions: permissions, ID: id}
}

func ofGroup(permissions uint16) acl.Entry {
	return acl.Entry{Tag: acl.Group, Permissions: permissions, ID: namedGroup}
}

// crowd are so many named users, of whom the last is the one that processes are.
func crowd(users int) (entries []acl.Entry) {
	for i := range users - 1 {
		entries = append(entries, user(uint32(10000+i), 4))
	}
	return append([]acl.Entry{user(named, 6)}, entries...)
}

var files = []kind{
	{name: "640", mode: 0o640},
	{name: "604", mode: 0o604},
	{name: "060", mode: 0o060},
	{name: "006", mode: 0o006},
	{name: "600", mode: 0o600},
	{name: "000", mode: 0o000},
	{name: "666", mode: 0o666},
	{name: "755", mode: 0o755},
	{name: "710", mode: 0o710},
	{name: "4755", mode: 0o4755},
	{name: "2755", mode: 0o2755},
	{name: "6770", mode: 0o6770},
	{name: "2660", mode: 0o2660},
	{name: "root's 600", mode: 0o600, uid: root, gid: root},
	{name: "root's 660", mode: 0o660, uid: root, gid: group},
	{name: "foreign 644", mode: 0o644, uid: foreign, gid: foreign},
	{name: "list with a user", list: list("600", 6, user(named, 6))},
	{name: "list with a group", list: list("600", 6, ofGroup(6))},
	{name: "list with a mask", list: list("770", 4, user(named, 7))},
	{name: "list that refuses", list: list("644", 4, user(named, 0), ofGroup(0))},
	{name: "list of 500", list: list("640", 6, crowd(496)...)},
}

var directories = []kind{
	{name: "755", mode: 0o755},
	{name: "775", mode: 0o775},
	{name: "2775", mode: 0o2775},
	{name: "777", mode: 0o777},
	{name: "1777", mode: 0o1777},
	{name: "1770", mode: 0o1770},
	{name: "700", mode: 0o700},
	{name: "2755", mode: 0o2755},
	{name: "555", mode: 0o555},
	{name: "733", mode: 0o733},
	{name: "744", mode: 0o744},
	{name: "root's 755", mode: 0o755, uid: root, gid: root},
	{name: "root's 2775", mode: 0o2775, uid: root, gid: group},
	{name: "root's 1777", mode: 0o1777, uid: root, gid: root},
	{name: "list with a user", list: list("750", 7, user(named, 7))},
	{name: "list with a group", list: list("700", 7, ofGroup(7))},
	{name: "list with a mask", list: list("770", 5, user(named, 7))},
	{name: "list that refuses", list: list("777", 7, user(named, 0), ofGroup(5))},
	{name: "default list", mode: 0o777, inherit: list("750", 7, user(named, 7))},
	{name: "default list, set-group", mode: 0o2777, inherit: list("640", 6, ofGroup(6))},
}

func init() {
	for _, kinds := range [][]kind{files, directories} {
		for i := range kinds {
			k := &kinds[i]
			if !strings.HasPrefix(k.name, "root's") && !strings.HasPrefix(k.name, "foreign") {
				k.uid, k.gid = owner, group
			}
			if k.list != nil {
				k.mode = modeOf(k.list)
			}
		}
	}
}

// give gives a file or directory what its kind has. It can be given again.
func (k kind) give(path string) error {
	if err := errors.Join(unix.Chown(path, int(k.uid), int(k.gid)), setList(path, acl.Attribute, k.list), unix.Chmod(path, k.mode)); err != nil {
		return fmt.Errorf("making %s: %w", path, err)
	}
	if k.inherit == nil {
		return nil
	}
	return setList(path, defaultList, k.inherit)
}

// setList sets a list; nil removes it.
func setList(path, attribute string, list acl.List) error {
	if list != nil {
		return unix.Setxattr(path, attribute, list.Value(), 0)
	}
	err := unix.Removexattr(path, attribute)
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
		return nil
	}
	return err
}

// content is no program: whoever may execute the file gets ENOEXEC.
const content = "content\n"

// writeFile makes a file of a kind, or makes it again what it was.
func (k kind) writeFile(path string) error {
	if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
		return err
	}
	_ = unix.Removexattr(path, attribute)
	return k.give(path)
}

// entries are what each directory has for those who may change it.
var entries = []struct {
	name string
	kind kind
}{
	{"remove", kind{mode: 0o640, uid: owner, gid: group}},
	{"rename", kind{mode: 0o640, uid: owner, gid: group}},
	{"over", kind{mode: 0o640, uid: owner, gid: group}},
	{"link", kind{mode: 0o660, uid: owner, gid: group}},
	{"foreign-remove", kind{mode: 0o666, uid: foreign, gid: foreign}},
	{"foreign-rename", kind{mode: 0o666, uid: foreign, gid: foreign}},
}

func (k kind) makeDirectory(path string) error {
	if err := os.MkdirAll(filepath.Join(path, "empty"), 0o755); err != nil {
		return err
	}
	for _, e := range entries {
		if err := e.kind.writeFile(filepath.Join(path, e.name)); err != nil {
			return err
		}
	}
	if err := unix.Chown(filepath.Join(path, "empty"), owner, group); err != nil {
		return err
	}
	return k.give(path)
}

// Make makes all that is tried below a directory, for each identity its own. It goes on where
// something cannot be had, and tells all of it.
func Make(dir string, sample Sample) error {
	unix.Umask(0)
	var errs []error
	for number, i := range identities {
		for n, k := range directories {
			if sample.has(number, n, k.name) {
				errs = append(errs, k.makeDirectory(filepath.Join(dir, i.name, "dir "+k.name)))
			}
		}
		for n, k := range files {
			if !sample.has(number, n, k.name) {
				continue
			}
			for _, part := range parts {
				errs = append(errs, k.writeFile(filepath.Join(dir, i.name, "file "+k.name+", "+part.name)))
			}
		}
	}
	return errors.Join(errs...)
}

// MakeFiles makes one file of each kind in a directory, and returns their names.
func MakeFiles(dir string) (names []string, err error) {
	for _, k := range files {
		if err := k.writeFile(filepath.Join(dir, k.name)); err != nil {
			return nil, err
		}
		names = append(names, k.name)
	}
	return names, nil
}

// Look tells of everything below a directory what it is: owner, group, mode and lists.
func Look(dir string) (map[string]string, error) {
	seen := make(map[string]string)
	err := filepath.WalkDir(dir, func(path string, _ os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		name, err := filepath.Rel(dir, path)
		seen[name] = state(path)
		return err
	})
	return seen, err
}

// state is owner, group, mode and lists of a file, or why they are not told.
func state(path string) string {
	var stat unix.Stat_t
	if err := unix.Lstat(path, &stat); err != nil {
		return text(err)
	}
	told := fmt.Sprintf("%d:%d:%o", stat.Uid, stat.Gid, stat.Mode)
	if stat.Mode&unix.S_IFMT == unix.S_IFLNK {
		return told
	}
	return told + listOf(path, acl.Attribute) + listOf(path, defaultList)
}

// listOf is a list in short, nothing if there is none.
func listOf(path, attribute string) string {
	// What is asked for is made, zeroed and copied by the guest's kernel, by the file server and by the
	// host's: as much as the longest list here, and not the 64 KiB that one may have.
	var value [8 << 10]byte
	n, err := unix.Lgetxattr(path, attribute, value[:])
	if errors.Is(err, unix.ENODATA) || errors.Is(err, unix.EOPNOTSUPP) {
		return ""
	}
	if err != nil {
		return " " + text(err)
	}
	list, err := acl.Parse(value[:n])
	if err != nil || len(list) > 20 {
		return fmt.Sprintf(" %d entries %v", len(list), err)
	}
	var told strings.Builder
	for _, e := range list {
		fmt.Fprintf(&told, " %x:%d:%d", e.Tag, int32(e.ID), e.Permissions)
	}
	return told.String()
}

// text is an errno's name, or the error.
func text(err error) string {
	var errno unix.Errno
	if errors.As(err, &errno) {
		return unix.ErrnoName(errno)
	}
	if err == nil {
		return "ok"
	}
	return err.Error()
}
