package jail

import (
	"fmt"
	"os"
	"runtime"
	"unsafe"

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
	"open_tree", "move_mount", "fsopen", "fsconfig", "fsmount", "fspick", "mount_setattr",
	// Reading or steering other processes.
	"ptrace", "process_vm_readv", "process_vm_writev", "kcmp", "pidfd_getfd", "pidfd_open", "pidfd_send_signal",
	"process_madvise", "get_robust_list", "move_pages", "migrate_pages",
	// Parts of the kernel with a history.
	"bpf", "perf_event_open", "userfaultfd", "keyctl", "add_key", "request_key", "io_uring_setup", "io_uring_enter", "io_uring_register",
	"fanotify_init", "lookup_dcookie", "vmsplice",
	// The machine's administration.
	"kexec_load", "kexec_file_load", "init_module", "finit_module", "delete_module", "reboot", "swapon", "swapoff", "acct",
	"quotactl", "syslog", "sethostname", "setdomainname", "settimeofday", "clock_settime", "clock_adjtime", "adjtimex", "vhangup",
	// Files by handle reach every file of a file system.
	"open_by_handle_at", "name_to_handle_at",
	"personality",
}

// deniedX86 exist on one architecture only.
var deniedX86 = []string{"ioperm", "iopl", "modify_ldt", "uselib", "fork", "vfork"}

// policy is the filter: all is allowed that is not denied. With internet, sockets of
// IPv4 and IPv6 are not.
func policy(internet bool) seccomp.Policy {
	names := denied
	if runtime.GOARCH == "amd64" {
		names = append(names[:len(names):len(names)], deniedX86...)
	}
	only := func(name string, conditions ...seccomp.Condition) seccomp.NameWithConditions {
		return seccomp.NameWithConditions{Name: name, Conditions: conditions}
	}
	foreignSocket := []seccomp.Condition{{Argument: 0, Operation: seccomp.NotEqual, Value: unix.AF_UNIX}}
	if internet {
		foreignSocket = append(foreignSocket,
			seccomp.Condition{Argument: 0, Operation: seccomp.NotEqual, Value: unix.AF_INET},
			seccomp.Condition{Argument: 0, Operation: seccomp.NotEqual, Value: unix.AF_INET6})
	}
	return seccomp.Policy{
		DefaultAction: seccomp.ActionAllow,
		Syscalls: []seccomp.SyscallGroup{
			{
				Action: seccomp.ActionErrno | seccomp.Action(unix.EPERM),
				Names:  names,
				NamesWithCondtions: []seccomp.NameWithConditions{
					// Threads are made, processes are not.
					only("clone", seccomp.Condition{Argument: 0, Operation: seccomp.BitsNotSet, Value: unix.CLONE_THREAD}),
					// Sockets are those to the shim.
					only("socket", foreignSocket...),
					// Typing into a terminal that is shared with others.
					only("ioctl", seccomp.Condition{Argument: 1, Operation: seccomp.Equal, Value: unix.TIOCSTI}),
				},
			},
			// Its flags are in memory, where a filter cannot look. The C library
			// takes clone instead when the kernel has no clone3.
			{Action: seccomp.ActionErrno | seccomp.Action(unix.ENOSYS), Names: []string{"clone3"}},
		},
	}
}

// installFilter puts the filter on every thread of this process, and with it
// no_new_privs, without which the kernel takes no filter.
func installFilter(p seccomp.Policy) error {
	instructions, err := p.Assemble()
	if err != nil {
		return fmt.Errorf("assembling the system call filter: %w", err)
	}
	raw, err := bpf.Assemble(append(foreign(), instructions...))
	if err != nil {
		return fmt.Errorf("assembling the system call filter: %w", err)
	}
	program := unix.SockFprog{Len: uint16(len(raw)), Filter: (*unix.SockFilter)(unsafe.Pointer(&raw[0]))}
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl(PR_SET_NO_NEW_PRIVS)", err)
	}
	thread, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, unix.SECCOMP_FILTER_FLAG_TSYNC, uintptr(unsafe.Pointer(&program)))
	runtime.KeepAlive(raw)
	if errno != 0 {
		return os.NewSyscallError("seccomp", errno)
	}
	if thread != 0 {
		return fmt.Errorf("thread %d could not be given the system call filter", thread)
	}
	return nil
}

// foreign ends the process at a system call of another architecture: the same
// processor also takes those of 32 bits, whose numbers mean other calls.
func foreign() []bpf.Instruction {
	const offsetArch = 4 // of struct seccomp_data (seccomp(2))
	return []bpf.Instruction{
		bpf.LoadAbsolute{Off: offsetArch, Size: 4},
		bpf.JumpIf{Cond: bpf.JumpEqual, Val: nativeArch, SkipTrue: 1},
		bpf.RetConstant{Val: uint32(seccomp.ActionKillProcess)},
	}
}
