package rawcall

import (
	"unsafe"

	"golang.org/x/sys/unix"
)

// To the kernel each thread has ids of its own; that a process has one user is the work of C's and
// Go's libraries (credentials(7)). Setresuid and Setresgid of golang.org/x/sys/unix change every thread,
// and its Setgroups one, which it does not promise. These change the calling thread, which is for code
// on one that ends with it (internal/thread). Nothing of it waits, so no signal interrupts it, and the
// scheduler need not know.

// same stands for no change in setresuid(2).
const same = ^uintptr(0)

// SetThreadUser sets this thread's effective user, and leaves its real and its saved one (setresuid(2)).
func SetThreadUser(uid uint32) error {
	_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, same, uintptr(uid), same)
	return failure(errno)
}

// SetThreadGroup sets this thread's effective group, and leaves its real and its saved one (setresgid(2)).
func SetThreadGroup(gid uint32) error {
	_, _, errno := unix.RawSyscall(unix.SYS_SETRESGID, same, uintptr(gid), same)
	return failure(errno)
}

// SetThreadGroups sets this thread's supplementary groups (setgroups(2)).
func SetThreadGroups(groups []uint32) error {
	_, _, errno := unix.RawSyscall(unix.SYS_SETGROUPS, uintptr(len(groups)), uintptr(unsafe.Pointer(unsafe.SliceData(groups))), 0)
	return failure(errno)
}
