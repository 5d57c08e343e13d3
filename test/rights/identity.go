package rights

import (
	"fmt"
	"os"
	"os/exec"
	"slices"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"
)

// An identity is a process's users, groups and capabilities.
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

// command runs this program as somebody.
func (i identity) command(args ...string) *exec.Cmd {
	cmd := exec.Command("/proc/self/exe", append([]string{"rights", as, i.name}, args...)...)
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Credential:  &syscall.Credential{Uid: i.uid, Gid: i.gid, Groups: i.groups},
		AmbientCaps: i.has,
	}
	return cmd
}

// drop takes what the identity lacks from all threads of this process.
func (i identity) drop() error {
	if i.lacks == nil {
		return nil
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var data [capabilityWords]unix.CapUserData
	if err := unix.Capget(&header, &data[0]); err != nil {
		return os.NewSyscallError("capget", err)
	}
	for c := range uintptr(64) {
		if len(i.lacks) == 0 || slices.Contains(i.lacks, c) {
			data[c/32].Effective &^= 1 << (c % 32)
			data[c/32].Permitted &^= 1 << (c % 32)
		}
	}
	if _, _, errno := syscall.AllThreadsSyscall(unix.SYS_CAPSET, uintptr(unsafe.Pointer(&header)), uintptr(unsafe.Pointer(&data[0])), 0); errno != 0 {
		return os.NewSyscallError("capset", errno)
	}
	return nil
}

func find(name string) (identity, error) {
	for _, i := range identities {
		if i.name == name {
			return i, nil
		}
	}
	return identity{}, fmt.Errorf("no identity %q", name)
}
