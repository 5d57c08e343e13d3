package jail

import (
	"fmt"
	"sync"

	"github.com/elastic/go-seccomp-bpf"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/rawcall"
)

// The processes of a VM are root's to the host's kernel, though they have few capabilities or none. Of
// some things it lets each user have only so many, and gives root no more: 128 instances of inotify and
// groups of fanotify, some bytes of keys and of message queues. An intruder who takes all of them takes
// them from the host's daemons and from other VMs. And what an owner may do, root may with most files of
// the host that are mounted, also read-only: hold up for 45 seconds whoever opens one (fcntl(2),
// "Leases"), and say whose quota a file counts for (FS_IOC_FSSETXATTR).
//
// None of a VM's programs does that. So it is denied by a filter that is on them before they start, and
// not by one that they put on themselves: QEMU and virtiofsd have filters of their own, which allow it.

// counted are the system calls that make what the kernel counts for each user, or for all.
var counted = append([]uint32{
	unix.SYS_FANOTIFY_INIT, unix.SYS_ADD_KEY, unix.SYS_REQUEST_KEY, unix.SYS_KEYCTL, unix.SYS_MQ_OPEN, unix.SYS_IO_SETUP,
}, inotify...)

// Of the second argument of a system call the kernel looks at the low half here.
const setProject = 0x401c5820 // FS_IOC_FSSETXATTR of linux/fs.h

// firstX32 begins the numbers of x32; no other architecture has as many.
const firstX32 = 1 << 30

// sharedPolicy is the filter.
func sharedPolicy() []bpf.Instruction {
	const (
		offsetNumber = 0 // of struct seccomp_data (seccomp(2))
		offsetArch   = 4
		offsetSecond = 24 // low half of the second argument, on a little-endian processor
	)
	number := bpf.LoadAbsolute{Off: offsetNumber, Size: 4}
	denies := bpf.RetConstant{Val: uint32(seccomp.ActionErrno) | uint32(unix.EPERM)}
	all := []bpf.Instruction{
		bpf.LoadAbsolute{Off: offsetArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: nativeArch, SkipTrue: 1},
		bpf.RetConstant{Val: uint32(seccomp.ActionKillProcess)},
		number,
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: firstX32, SkipTrue: 1},
		bpf.RetConstant{Val: uint32(seccomp.ActionErrno) | uint32(unix.ENOSYS)},
	}
	for _, call := range counted {
		all = append(all, bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: call, SkipTrue: 1}, denies)
	}
	for _, request := range []struct{ call, second uint32 }{{unix.SYS_FCNTL, unix.F_SETLEASE}, {unix.SYS_IOCTL, setProject}} {
		all = append(all,
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: request.call, SkipTrue: 3},
			bpf.LoadAbsolute{Off: offsetSecond, Size: 4},
			bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: request.second, SkipTrue: 1},
			denies, number)
	}
	return append(all, bpf.RetConstant{Val: uint32(seccomp.ActionAllow)})
}

// sharedFilter is the filter as the kernel takes it, made once: every process of every VM has the same.
var sharedFilter = sync.OnceValues(func() ([]unix.SockFilter, error) {
	raw, err := bpf.Assemble(sharedPolicy())
	if err != nil {
		return nil, fmt.Errorf("assembling the filter of what root's processes share: %w", err)
	}
	return program(raw), nil
})

// spareTheShared puts the filter on this thread, from which its children have it.
func spareTheShared() error {
	filter, err := sharedFilter()
	if err != nil {
		return err
	}
	if err := rawcall.FilterThread(filter); err != nil {
		return fmt.Errorf("putting on the filter of what root's processes share: %w", err)
	}
	return nil
}
