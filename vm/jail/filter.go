package jail

import (
	"fmt"
	"runtime"
	"slices"
	"sync"

	"github.com/elastic/go-seccomp-bpf"
	"golang.org/x/net/bpf"
	"golang.org/x/sys/unix"
)

// denied are the system calls that a VMM has no use for and that an intruder
// would have: each answers EPERM.
var denied = []string{
	// Starting programs.
	"execve", "execveat",
	// Changing what is mounted, or which namespaces the process is in.
	"mount", "umount2", "pivot_root", "chroot", "unshare", "setns",
	"open_tree", "open_tree_attr", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr",
	// Reading what is mounted on the host.
	"statmount", "listmount",
	// Reading or steering other processes.
	"ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd", "pidfd_open", "pidfd_send_signal",
	"process_madvise", "get_robust_list", "move_pages", "migrate_pages",
	// Parts of the kernel with a history.
	"bpf", "perf_event_open", "userfaultfd", "keyctl", "add_key", "request_key", "io_uring_setup", "io_uring_enter", "io_uring_register",
	"fanotify_init", "lookup_dcookie", "vmsplice",
	// The machine's administration.
	"kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "reboot", "swapon", "swapoff", "acct",
	"quotactl", "quotactl_fd", "syslog", "sethostname", "setdomainname", "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "vhangup",
	// Files by handle reach every file of a file system.
	"open_by_handle_at", "name_to_handle_at",
	"personality",
}

// deniedX86 exist on one architecture only.
var deniedX86 = []string{"ioperm", "iopl", "modify_ldt", "uselib", "fork", "vfork"}

// metadata are the system calls by which a process that has nothing but descriptors of
// files could still change more of them than their content: root owns many files of the
// host, and an owner needs no capability.
var metadata = []string{
	"fchmod", "fchmodat", "fchmodat2", "fchown", "fchownat", "utimensat",
	"setxattr", "lsetxattr", "fsetxattr", "setxattrat", "removexattr", "lremovexattr", "fremovexattr", "removexattrat",
	"linkat", "symlinkat", "unlinkat", "renameat", "renameat2", "mkdirat", "mknodat",
}

// metadataX86 exist on one architecture only.
var metadataX86 = []string{
	"chmod", "chown", "lchown", "utime", "utimes", "futimesat",
	"link", "symlink", "unlink", "rename", "mkdir", "rmdir", "mknod", "creat",
}

// Requests of ioctl(2) by which a FUSE server gives the kernel a file to read and write
// by itself, and takes it back (fuse.h).
const (
	fuseBackingOpen  = 0x4010e501
	fuseBackingClose = 0x4004e502
)

// poison is the first of the pieces of advice of madvise(2) that need CAP_SYS_ADMIN:
// they take pages of the host's memory out of use.
const poison = 100

// namespaceFlags are those of clone(2), which makes a thread in another namespace as
// well as a process.
const namespaceFlags = unix.CLONE_NEWNS | unix.CLONE_NEWCGROUP | unix.CLONE_NEWUTS | unix.CLONE_NEWIPC |
	unix.CLONE_NEWUSER | unix.CLONE_NEWPID | unix.CLONE_NEWNET

// kind tells the filters apart.
type kind int

const (
	ordinary kind = iota
	internet      // sockets of IPv4 and IPv6 are allowed
	dataOnly      // for a server of the content of files
)

func only(name string, conditions ...seccomp.Condition) seccomp.NameWithConditions {
	return seccomp.NameWithConditions{Name: name, Conditions: conditions}
}

// policy is the filter: all is allowed that is not denied.
func policy(k kind) seccomp.Policy {
	return seccomp.Policy{
		DefaultAction: seccomp.ActionAllow,
		Syscalls: []seccomp.SyscallGroup{
			{
				Action:             seccomp.ActionErrno | seccomp.Action(unix.EPERM),
				Names:              names(k),
				NamesWithCondtions: conditions(k),
			},
			// Its flags are in memory, where a filter cannot look. The C library
			// takes clone instead when the kernel has no clone3.
			{Action: seccomp.ActionErrno | seccomp.Action(unix.ENOSYS), Names: []string{"clone3"}},
		},
	}
}

// names are the system calls that are denied whatever their arguments.
func names(k kind) []string {
	all := slices.Clone(denied)
	if k == dataOnly {
		all = append(all, metadata...)
	}
	if runtime.GOARCH != "amd64" {
		return all
	}
	if k == dataOnly {
		all = append(all, metadataX86...)
	}
	return append(all, deniedX86...)
}

// conditions are the system calls that are denied with some arguments.
func conditions(k kind) []seccomp.NameWithConditions {
	foreignSocket := []seccomp.Condition{{Argument: 0, Operation: seccomp.NotEqual, Value: unix.AF_UNIX}}
	if k == internet {
		foreignSocket = append(foreignSocket,
			seccomp.Condition{Argument: 0, Operation: seccomp.NotEqual, Value: unix.AF_INET},
			seccomp.Condition{Argument: 0, Operation: seccomp.NotEqual, Value: unix.AF_INET6})
	}
	all := []seccomp.NameWithConditions{
		// Threads are made, processes are not, nor are threads elsewhere.
		only("clone", seccomp.Condition{Argument: 0, Operation: seccomp.BitsNotSet, Value: unix.CLONE_THREAD}),
		only("clone", seccomp.Condition{Argument: 0, Operation: seccomp.BitsSet, Value: namespaceFlags}),
		// Sockets are those to the shim.
		only("socket", foreignSocket...),
	}
	if k != dataOnly {
		return all
	}
	return append(all,
		only("ioctl",
			seccomp.Condition{Argument: 1, Operation: seccomp.NotEqual, Value: fuseBackingOpen},
			seccomp.Condition{Argument: 1, Operation: seccomp.NotEqual, Value: fuseBackingClose}),
		only("madvise", seccomp.Condition{Argument: 2, Operation: seccomp.GreaterOrEqual, Value: poison}))
}

// filters are the filters as the kernel takes them, by their kind. None is made before a
// process needs it, and each is made once: every process of every VM of a shim has the same.
var filters = [...]func() ([]unix.SockFilter, error){
	ordinary: sync.OnceValues(func() ([]unix.SockFilter, error) { return assemble(ordinary) }),
	internet: sync.OnceValues(func() ([]unix.SockFilter, error) { return assemble(internet) }),
	dataOnly: sync.OnceValues(func() ([]unix.SockFilter, error) { return assemble(dataOnly) }),
}

func assemble(k kind) ([]unix.SockFilter, error) {
	p := policy(k)
	instructions, err := p.Assemble()
	if err != nil {
		return nil, fmt.Errorf("assembling the system call filter: %w", err)
	}
	raw, err := bpf.Assemble(append(prelude(), instructions...))
	if err != nil {
		return nil, fmt.Errorf("assembling the system call filter: %w", err)
	}
	return program(raw), nil
}

// program is a filter as the kernel takes it.
func program(raw []bpf.RawInstruction) []unix.SockFilter {
	program := make([]unix.SockFilter, len(raw))
	for n, i := range raw {
		program[n] = unix.SockFilter{Code: i.Op, Jt: i.Jt, Jf: i.Jf, K: i.K}
	}
	return program
}

// firstUnknown is the first system call that the library's table does not have: what it
// does cannot be known here, so there is none, as with an older kernel. Numbers have been
// the same on all architectures since 424. Those of x32 are above it.
const firstUnknown = unix.SYS_OPEN_TREE_ATTR + 1

// prelude is what the library cannot say. It ends the process at a system call of
// another architecture: the same processor also takes those of 32 bits, whose numbers mean
// other calls. And the kernel looks at the low half of an ioctl's request only, while the
// library compares all of it.
func prelude() []bpf.Instruction {
	const (
		offsetNumber  = 0 // of struct seccomp_data (seccomp(2))
		offsetArch    = 4
		offsetRequest = 24 // low half of the second argument, on a little-endian processor
		eperm         = uint32(seccomp.ActionErrno) | uint32(unix.EPERM)
		enosys        = uint32(seccomp.ActionErrno) | uint32(unix.ENOSYS)
	)
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: offsetArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: nativeArch, SkipTrue: 1},
		bpf.RetConstant{Val: uint32(seccomp.ActionKillProcess)},
		bpf.LoadAbsolute{Off: offsetNumber, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpLessThan, Val: firstUnknown, SkipTrue: 1},
		bpf.RetConstant{Val: enosys},
		// Typing into a terminal that is shared with others.
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.SYS_IOCTL, SkipTrue: 3},
		bpf.LoadAbsolute{Off: offsetRequest, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpNotEqual, Val: unix.TIOCSTI, SkipTrue: 1},
		bpf.RetConstant{Val: eperm},
	}
}
