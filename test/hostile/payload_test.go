package hostile

import (
	"cmp"
	"encoding/json"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/vm/jail/entry"
)

// Targets tell the payload what there is to attack. An intruder would have to
// guess; the payload knows.
type Targets struct {
	Place      string    // the place that was taken over
	Off        []measure // the measures that are switched off
	Secret     string    // a file of the host
	Other      string    // a file staged for another sandbox
	Writable   string    // in the jail: a directory share that the guest may write
	Node       string    // in the jail: a directory share for device nodes
	Staging    string    // in the jail: the directory of a staged file
	Root       string    // in the jail: proc's link to the root of a process of the host
	ReadOnly   string    // in the jail: a staged file that is read-only
	Mounted    string    // in the jail: a file that the guest may write, on a tmpfs
	Given      string    // in the jail: a file of root's
	Executable string    // in the jail: a program in a share
	Image      string    // in the jail: the guest's disk
	Library    string    // in the jail: what QEMU is installed with
	Init       int       // the host's first process whose root can be reached at all
	Victim     int       // a process of the host
	Memory     uint64    // an address of its memory
	Abstract   string    // an abstract socket of the host
	Socket     string    // a socket of the host in the file system
	Port       int       // a TCP port on the host's loopback interface
	User       int       // the user that the payload becomes before it attacks, or 0
	SharedKey  int       // a System V shared memory segment of the host
	Handle     []byte    // of a hidden file (name_to_handle_at(2))
	HandleType int32     // of that handle
}

// An Outcome is what became of an attempt: "" means that it succeeded.
type Outcome struct{ Attempt, Refused string }

// payload is what an intruder who has taken over a process would run.
func payload() error {
	var targets Targets
	if err := json.NewDecoder(os.Stdin).Decode(&targets); err != nil {
		return err
	}
	taken := places[slices.IndexFunc(places, func(p *place) bool { return p.name == targets.Place })]
	if taken.cooperates {
		if err := entry.Enter(); err != nil {
			return err
		}
	}
	if targets.User != 0 {
		if err := syscall.Setresuid(targets.User, targets.User, targets.User); err != nil {
			return err
		}
	}
	var outcomes []Outcome
	for _, attempt := range taken.attempts {
		if len(targets.Off) > 0 && !slices.Equal(attempt.measures, targets.Off) {
			continue
		}
		outcome := Outcome{Attempt: attempt.name}
		if err := attempt.do(targets); err != nil {
			outcome.Refused = err.Error()
		}
		outcomes = append(outcomes, outcome)
	}
	return json.NewEncoder(os.Stdout).Encode(outcomes)
}

// An attempt is an attack. It succeeds when no error comes back. The measures are
// those that stop it, each by itself: with all of them off it must succeed.
type attempt struct {
	name     string
	measures []measure
	do       func(Targets) error
}

// vmmAttempts are tried in the place of msb-krun.
var vmmAttempts = []attempt{
	{"open a host file by its path", []measure{ownRoot}, func(t Targets) error { return read(t.Secret) }},
	{"the same by .. out of a share", []measure{ownRoot}, func(t Targets) error {
		return read(t.Writable + "/../../../../../../../.." + t.Secret)
	}},
	{"the same by a process of the host, through proc in a share", []measure{noKernel}, func(t Targets) error { return read(t.Root + t.Secret) }},
	{"the same by a symlink made in a share", []measure{ownRoot}, func(t Targets) error {
		link := filepath.Join(t.Writable, "link")
		_ = os.Remove(link)
		if err := os.Symlink(t.Secret, link); err != nil {
			return err
		}
		return read(link)
	}},
	{"make a network interface", []measure{fewCapabilities}, func(Targets) error {
		fd, err := unix.Open("/dev/net/tun", unix.O_RDWR, 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		request, err := unix.NewIfreq("msbforeign")
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI)
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	}},
	{"the same by /proc/1/root", []measure{ownRoot, fewCapabilities}, func(t Targets) error {
		return read(fmt.Sprintf("/proc/%d/root%s", t.Init, t.Secret))
	}},
	{"the same by an inherited descriptor", []measure{noDescriptors}, func(t Targets) error {
		return inDescriptors(filepath.Base(t.Secret), unix.O_RDONLY)
	}},
	{"read another sandbox's staged file", []measure{ownRoot}, func(t Targets) error { return read(t.Other) }},
	{"read a process's memory through procfs", []measure{ownRoot}, func(Targets) error { return read("/proc/self/mem") }},
	{"walk from /proc/self/fd to the rest of procfs", []measure{ownRoot}, func(Targets) error { return read("/proc/self/fd/../environ") }},
	{"create an entry beside a staged file", []measure{readOnlyTree}, func(t Targets) error {
		return os.WriteFile(filepath.Join(t.Staging, "beside"), nil, 0o600)
	}},
	{"link to a staged file beside it", []measure{readOnlyTree}, func(t Targets) error {
		return os.Symlink("x", filepath.Join(t.Staging, "link"))
	}},
	{"write to a read-only file", []measure{readOnlyShare}, func(t Targets) error { return write(t.ReadOnly) }},
	{"change the mode of a read-only file", []measure{readOnlyShare}, func(t Targets) error { return os.Chmod(t.ReadOnly, 0o777) }},
	{"write to the guest's disk", []measure{readOnlyImage}, func(t Targets) error { return write(t.Image) }},
	{"open a device node made in a share", []measure{noDevices}, func(t Targets) error {
		node := filepath.Join(t.Node, "node")
		_ = os.Remove(node)
		if err := unix.Mknod(node, unix.S_IFCHR|0o600, int(unix.Mkdev(1, 5))); err != nil {
			return err
		}
		return write(node)
	}},
	{"mount", []measure{filter, fewCapabilities}, func(t Targets) error { return unix.Mount("x", t.Writable, "tmpfs", 0, "") }},
	{"remount a read-only share", []measure{filter, fewCapabilities}, func(t Targets) error {
		attr := unix.MountAttr{Attr_clr: unix.MOUNT_ATTR_RDONLY}
		return unix.MountSetattr(unix.AT_FDCWD, t.ReadOnly, 0, &attr)
	}},
	{"clone a mount", []measure{filter, fewCapabilities}, func(t Targets) error {
		fd, err := unix.OpenTree(unix.AT_FDCWD, t.Writable, unix.OPEN_TREE_CLONE)
		return closed(fd, err)
	}},
	{"unmount", []measure{filter, fewCapabilities}, func(t Targets) error { return unix.Unmount(t.Image, unix.MNT_DETACH) }},
	{"chroot", []measure{filter, fewCapabilities}, func(Targets) error { return unix.Chroot("/") }},
	{"join a namespace", []measure{filter, fewCapabilities}, func(Targets) error {
		fd, err := unix.PidfdOpen(os.Getpid(), 0)
		if err != nil {
			return err
		}
		defer unix.Close(fd)
		return unix.Setns(fd, unix.CLONE_NEWUTS)
	}},
	{"make a namespace", []measure{filter, fewCapabilities}, func(Targets) error { return unix.Unshare(unix.CLONE_NEWIPC) }},
	{"open a file by its handle", []measure{filter, fewCapabilities}, func(t Targets) error {
		handle, _, err := unix.NameToHandleAt(unix.AT_FDCWD, t.Writable, 0)
		if err != nil {
			return err
		}
		dir, err := unix.Open(t.Writable, unix.O_RDONLY|unix.O_DIRECTORY, 0)
		if err != nil {
			return err
		}
		defer unix.Close(dir)
		fd, err := unix.OpenByHandleAt(dir, handle, unix.O_RDONLY)
		return closed(fd, err)
	}},
	{"trace a process of the host", []measure{filter, ownNamespaces, fewCapabilities}, func(t Targets) error {
		_, _, errno := unix.Syscall6(unix.SYS_PTRACE, unix.PTRACE_SEIZE, uintptr(t.Victim), 0, 0, 0, 0)
		return failure(errno)
	}},
	{"read a process's memory", []measure{filter, ownNamespaces, fewCapabilities}, func(t Targets) error {
		var read [4]byte
		local := unix.Iovec{Base: &read[0]}
		local.SetLen(len(read))
		_, err := unix.ProcessVMReadv(t.Victim, []unix.Iovec{local}, []unix.RemoteIovec{{Base: uintptr(t.Memory), Len: len(read)}}, 0)
		return err
	}},
	{"signal a process of the host", []measure{ownNamespaces}, func(t Targets) error { return unix.Kill(t.Victim, 0) }},
	{"attach the host's shared memory", []measure{ownNamespaces}, func(t Targets) error {
		_, err := unix.SysvShmGet(t.SharedKey, 0, 0)
		return err
	}},
	{"connect to an abstract socket of the host", []measure{ownNamespaces}, func(t Targets) error { return connect("unix", t.Abstract) }},
	{"connect to a socket of the host by its path", []measure{ownRoot}, func(t Targets) error { return connect("unix", t.Socket) }},
	{"connect to a port of the host", []measure{filter, ownNamespaces}, func(t Targets) error {
		return connect("tcp4", net.JoinHostPort("127.0.0.1", strconv.Itoa(t.Port)))
	}},
	{"open a netlink socket", []measure{filter}, func(Targets) error {
		fd, err := unix.Socket(unix.AF_NETLINK, unix.SOCK_RAW, unix.NETLINK_ROUTE)
		return closed(fd, err)
	}},
	{"change the host name", []measure{filter, fewCapabilities}, func(Targets) error { return unix.Sethostname([]byte("owned")) }},
	{"execute a program of a share", []measure{filter}, func(t Targets) error {
		_, err := syscall.ForkExec(t.Executable, []string{t.Executable}, &syscall.ProcAttr{})
		return err
	}},
	{"use a keyring", []measure{filter}, func(Targets) error {
		_, err := unix.KeyctlGetKeyringID(unix.KEY_SPEC_SESSION_KEYRING, true)
		return err
	}},
	{"take an instance of inotify from the host's root", []measure{filter}, func(Targets) error {
		fd, err := unix.InotifyInit1(0)
		return closed(fd, err)
	}},
	{"take a group of fanotify from the host's root", []measure{filter}, func(Targets) error {
		fd, err := unix.FanotifyInit(unix.FAN_CLASS_NOTIF|unix.FAN_REPORT_FID, 0) // which needs no capability
		return closed(fd, err)
	}},
	{"take bytes of message queues from the host's root", []measure{filter}, func(Targets) error {
		name := []byte("msb\x00")
		fd, _, errno := unix.Syscall6(unix.SYS_MQ_OPEN, uintptr(unsafe.Pointer(&name[0])), unix.O_CREAT|unix.O_RDWR, 0o600, 0, 0, 0)
		return closed(int(fd), failure(errno))
	}},
	{"take requests of Linux' AIO from the host", []measure{filter}, func(Targets) error {
		var context uintptr
		_, _, errno := unix.Syscall(unix.SYS_IO_SETUP, 1, uintptr(unsafe.Pointer(&context)), 0)
		return failure(errno)
	}},
	{"hold up who opens a file", []measure{filter}, func(t Targets) error {
		file, err := os.Open(t.Given)
		if err != nil {
			return err
		}
		defer file.Close()
		_, err = unix.FcntlInt(file.Fd(), unix.F_SETLEASE, unix.F_RDLCK)
		return err
	}},
	{"have a file count for another's quota", []measure{filter}, func(t Targets) error {
		const setProject = 0x401c5820 // FS_IOC_FSSETXATTR of linux/fs.h
		file, err := os.Open(cmp.Or(t.Writable, t.Given))
		if err != nil {
			return err
		}
		defer file.Close()
		var attributes [28]byte // struct fsxattr
		_, _, errno := unix.Syscall(unix.SYS_IOCTL, file.Fd(), setProject, uintptr(unsafe.Pointer(&attributes)))
		if errno == unix.EOPNOTSUPP || errno == unix.ENOTTY { // it is asked, and has no quotas
			return nil
		}
		return failure(errno)
	}},
	{"load a BPF program", []measure{filter, fewCapabilities}, func(Targets) error {
		// A map of one entry (union bpf_attr: type array, key, value, entries).
		attr := [16]uint32{2, 4, 4, 1}
		fd, _, errno := unix.Syscall(unix.SYS_BPF, unix.BPF_MAP_CREATE, uintptr(unsafe.Pointer(&attr)), unsafe.Sizeof(attr))
		return closed(int(fd), failure(errno))
	}},
	{"raise a resource limit", []measure{lowLimits}, func(Targets) error {
		return unix.Setrlimit(unix.RLIMIT_CORE, &unix.Rlimit{Cur: 1, Max: 1})
	}},
}

// elsewhere are attempts of the VMM's place in another, in which other measures stop
// them.
func elsewhere(measures map[string][]measure) (attempts []attempt) {
	for _, a := range vmmAttempts {
		if own, tried := measures[a.name]; tried {
			attempts = append(attempts, attempt{a.name, own, a.do})
			delete(measures, a.name)
		}
	}
	for name := range measures {
		panic("no attempt is called " + name)
	}
	return attempts
}

// inDescriptors opens a path below any directory whose descriptor this process has.
func inDescriptors(path string, flags int) error {
	last := error(unix.ENOENT)
	for fd := range 64 {
		var stat unix.Stat_t
		if unix.Fstat(fd, &stat) != nil || stat.Mode&unix.S_IFMT != unix.S_IFDIR {
			continue
		}
		file, err := unix.Openat(fd, path, flags, 0o600)
		if err == nil {
			return unix.Close(file)
		}
		last = err
	}
	return last
}

func read(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	return nil
}

func write(path string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	return file.Close()
}

func connect(network, address string) error {
	conn, err := net.Dial(network, address)
	if err != nil {
		return err
	}
	return conn.Close()
}

func closed(fd int, err error) error {
	if err == nil {
		return unix.Close(fd)
	}
	return err
}

func failure(errno unix.Errno) error {
	if errno != 0 {
		return errno
	}
	return nil
}
