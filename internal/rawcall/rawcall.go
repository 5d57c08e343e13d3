// Package rawcall has the system calls that golang.org/x/sys/unix has no function for. They are
// made here and nowhere else, which a linter sees to ("make lint"). As there, errors are bare errno.
//
// A call that a signal can interrupt before it has done anything is made again: Go's runtime sends
// its threads signals of its own (SIGURG), whenever it likes. Each function says which it is.
package rawcall

import (
	"encoding/binary"
	"errors"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Retry makes a call until no signal interrupts it (EINTR, signal(7)).
func Retry[T any](call func() (T, error)) (T, error) {
	for {
		result, err := call()
		if !errors.Is(err, unix.EINTR) {
			return result, err
		}
	}
}

// Again makes a call that answers nothing else, until no signal interrupts it.
func Again(call func() error) error {
	_, err := Retry(func() (struct{}, error) { return struct{}{}, call() })
	return err
}

// Ioctl is ioctl(2) of a request that reads or writes what argument points to, and answers nothing
// else. It is made again after EINTR: only for requests that can be.
func Ioctl(fd int, request uint, argument unsafe.Pointer) error {
	return Again(func() error {
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(fd), uintptr(request), uintptr(argument))
		return failure(errno)
	})
}

// AddEntropy adds random bytes to what the kernel makes its random numbers of, and has it believe that
// all of them are unknown to others (random(4), RNDADDENTROPY). The kernel believes it only when it
// has taken all of the bytes, so the call can be made again.
func AddEntropy(random int, seed []byte) error {
	// struct rand_pool_info: entropy in bits, bytes that follow, these.
	info := binary.NativeEndian.AppendUint32(nil, uint32(8*len(seed)))
	info = append(binary.NativeEndian.AppendUint32(info, uint32(len(seed))), seed...)
	return Ioctl(random, unix.RNDADDENTROPY, unsafe.Pointer(&info[0]))
}

// OpenPeer opens the other side of a terminal by its master, without a path (ioctl_tty(2),
// TIOCGPTPEER). The flags are those of open(2). A call that is interrupted has opened nothing, and is
// made again.
func OpenPeer(master, flags int) (int, error) {
	return Retry(func() (int, error) {
		peer, _, errno := unix.Syscall(unix.SYS_IOCTL, uintptr(master), unix.TIOCGPTPEER, uintptr(flags))
		return int(peer), failure(errno)
	})
}

// PeerGroups are the supplementary groups of who is at the other end of a Unix socket, as the kernel
// noted them when it was connected (getsockopt(2), SO_PEERGROUPS in net/core/sock.c). ERANGE says that
// there are more than most. The kernel copies them without waiting, so no signal interrupts it.
func PeerGroups(socket, most int) ([]uint32, error) {
	groups := make([]uint32, most)
	size := uint32(binary.Size(groups))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, uintptr(socket), unix.SOL_SOCKET, unix.SO_PEERGROUPS,
		uintptr(unsafe.Pointer(unsafe.SliceData(groups))), uintptr(unsafe.Pointer(&size)), 0)
	if errno != 0 {
		return nil, errno
	}
	return groups[:int(size)/binary.Size(uint32(0))], nil
}

// FilterAllThreads puts a filter of system calls on every thread of this process (seccomp(2),
// SECCOMP_SET_MODE_FILTER with SECCOMP_FILTER_FLAG_TSYNC); PR_SET_SECCOMP of prctl(2) puts it on one. A
// thread that has another filter is returned, and then none is put on any. It is not made again: seccomp
// waits for nothing but what kills the process, and a second filter would stay for good.
func FilterAllThreads(program []unix.SockFilter) (thread int, err error) {
	p := unix.SockFprog{Len: uint16(len(program)), Filter: unsafe.SliceData(program)}
	other, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&p)))
	if errno != 0 {
		return 0, errno
	}
	return int(other), nil
}

// FilterThread puts a filter of system calls on this thread, and so on all that it starts, also if they
// execute another program. Without no_new_privs that takes CAP_SYS_ADMIN. It is not made again, as
// FilterAllThreads.
func FilterThread(program []unix.SockFilter) error {
	p := unix.SockFprog{Len: uint16(len(program)), Filter: unsafe.SliceData(program)}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&p)))
	return failure(errno)
}

// failure is the error of a call. Bare, an errno of 0 would be one.
func failure(errno unix.Errno) error {
	if errno != 0 {
		return errno
	}
	return nil
}
