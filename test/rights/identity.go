package rights

import (
	"fmt"
	"os"
	"slices"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
)

// An identity is a thread's users, groups and capabilities.
type identity struct {
	name     string
	uid, gid uint32
	groups   []uint32
	// has are the capabilities of one that is not root. lacks are those that root has not;
	// all of them if it is an empty list.
	has, lacks []uintptr
}

// Users and groups of what is tried. Files are owner's and group's.
const (
	owner, group    = 1000, 2000
	another         = 1002
	named           = 1004 // in access control lists
	namedGroup      = 2005 // also
	foreign         = 3000
	undefined       = 1<<32 - 1
	root            = 0
	capabilityWords = 2 // of capset(2)
)

var identities = []identity{
	{name: "owner", uid: owner, gid: owner},
	{name: "owner in the group", uid: owner, gid: owner, groups: []uint32{group}},
	{name: "group", uid: 1001, gid: group},
	{name: "supplementary group", uid: another, gid: another, groups: []uint32{group}},
	{name: "other", uid: 1003, gid: 1003},
	{name: "named user", uid: named, gid: named},
	{name: "named group", uid: 1005, gid: 1005, groups: []uint32{namedGroup}},
	{name: "both groups", uid: 1006, gid: group, groups: []uint32{namedGroup}},
	{name: "root", uid: root, gid: root},
	{name: "root without DAC_OVERRIDE", uid: root, gid: root, lacks: []uintptr{unix.CAP_DAC_OVERRIDE, unix.CAP_DAC_READ_SEARCH}},
	{name: "root without capabilities", uid: root, gid: root, lacks: []uintptr{}},
	{name: "DAC_OVERRIDE without root", uid: 1003, gid: 1003, has: []uintptr{unix.CAP_DAC_OVERRIDE}},
	{name: "FOWNER without root", uid: 1003, gid: 1003, has: []uintptr{unix.CAP_FOWNER}},
	{name: "CHOWN without root", uid: 1003, gid: 1003, has: []uintptr{unix.CAP_CHOWN}},
	{name: "FSETID without root", uid: owner, gid: owner, has: []uintptr{unix.CAP_FSETID}},
}

// as does something as the identity, on a thread that ends with it: these calls change the
// thread's users, groups and capabilities alone (credentials(7), nptl(7)).
func (i identity) as(do func() error) error {
	return thread.Run(func() error {
		if err := i.become(); err != nil {
			return fmt.Errorf("becoming %s: %w", i.name, err)
		}
		return do()
	})
}

// become makes the thread the identity's.
func (i identity) become() error {
	groups := append([]uint32{}, i.groups...)
	if err := raw("setgroups", unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(unsafe.SliceData(groups))), 0); err != nil {
		return err
	}
	if err := raw("setresgid", unix.SYS_SETRESGID, uintptr(i.gid), uintptr(i.gid), uintptr(i.gid)); err != nil {
		return err
	}
	// Who is root no more keeps what is permitted, for capset to choose from.
	if err := raw("prctl", unix.SYS_PRCTL, unix.PR_SET_KEEPCAPS, 1, 0); err != nil {
		return err
	}
	if err := raw("setresuid", unix.SYS_SETRESUID, uintptr(i.uid), uintptr(i.uid), uintptr(i.uid)); err != nil {
		return err
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [capabilityWords]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return os.NewSyscallError("capget", err)
	}
	for c := range uintptr(64) {
		if word, bit := &data[c/32], uint32(1)<<(c%32); i.may(c) {
			word.Effective |= bit & word.Permitted
		} else {
			word.Effective, word.Permitted = word.Effective&^bit, word.Permitted&^bit
		}
	}
	return os.NewSyscallError("capset", unix.Capset(&header, &data[0]))
}

// may tells whether the identity has a capability, if this program has it.
func (i identity) may(capability uintptr) bool {
	switch {
	case i.uid != root:
		return slices.Contains(i.has, capability)
	case i.lacks == nil:
		return true
	}
	return len(i.lacks) > 0 && !slices.Contains(i.lacks, capability)
}

// raw is a system call for this thread alone: those of package syscall are for all of them.
func raw(name string, number, a, b, c uintptr) error {
	if _, _, errno := unix.RawSyscall(number, a, b, c); errno != 0 {
		return os.NewSyscallError(name, errno)
	}
	return nil
}
