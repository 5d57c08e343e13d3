// Package jail starts the processes of a VMM and confines them.
//
// Who owns the guest owns the VMM: a guest may break its kernel, then a device
// model or the file server of its VMM. So the VMM's process is built to be
// owned. It sees a root of its own that holds what the machine was given and
// nothing else, it has only the capabilities that its work needs, it is in
// namespaces of its own, and the kernel refuses it the system calls that a VMM
// has no use for.
//
// The jail is built from outside, by a thread of the shim in the jail's mount
// namespace (keeper.go); the process never has the privilege to build it, nor
// to leave it. A process that cooperates (package entry) starts with the host's root,
// loads its libraries from there, and is moved into the jail by pivot_root(2),
// which moves every process of the mount namespace: so the jail holds no
// library, and no program.
package jail

import (
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// A Spec describes a process and what it is confined to. What is left out is not
// confined: each measure can be tested by leaving it out.
type Spec struct {
	// Program is the absolute path of the executable, Args are its arguments
	// without the program's name.
	Program string
	Args    []string
	// Opened is Program, opened earlier (Program.File), of a process that cooperates: others start where
	// there is no procfs to execute it by. Nil means what is at the path.
	Opened *os.File
	// Input is what the process reads on its standard input: all of it at once.
	Input []byte
	// Files become the descriptors from FirstFile on. The caller keeps and
	// closes its own.
	Files []*os.File
	// Output takes what the process prints.
	Output io.Writer

	// Root is the file system that the process sees; nil means the caller's.
	Root *Root
	// Namespaces are the CLONE_NEW… flags of the namespaces that the process
	// gets for itself (namespaces(7)), beside the mount namespace of its Root.
	Namespaces uintptr
	// Network is the network namespace that it joins; nil means the caller's, or a
	// new one with CLONE_NEWNET among Namespaces. The caller closes it.
	Network *os.File
	// Capabilities are what the process keeps (capabilities(7)); nil means all.
	// It is a bounding set: nothing that it executes can have more.
	Capabilities []uintptr
	// NoSetuidFixup leaves the process its capabilities when it takes on another user
	// (capabilities(7), SECBIT_NO_SETUID_FIXUP). A file server does so to make a file
	// as the user who makes it in the guest. The guest's kernel has judged by then
	// whether that user may, and knows of groups and capabilities that the server
	// would judge without.
	NoSetuidFixup bool
	// NoNewPrivileges keeps executables from raising privileges (prctl(2),
	// PR_SET_NO_NEW_PRIVS).
	NoNewPrivileges bool
	// Limits are the resource limits of the process (setrlimit(2)).
	Limits []Limit

	// Cooperates says that the program calls entry.Enter: it is moved into its Root
	// then, and not before it starts.
	Cooperates bool
	// Filter is the system call filter: one that the process has from its start on, which
	// keeps it from what root's processes share (shared.go), and, if it cooperates, the one
	// that entry.Enter installs. Internet allows sockets of IPv4 and IPv6 in that. DataOnly
	// is for who serves the content of files: it may not make, name or remove one, nor
	// change its metadata, and of ioctl(2) it has what a FUSE server needs.
	Filter, Internet, DataOnly bool
}

// filter is its filter of system calls; nil without one.
func (s Spec) filter() ([]unix.SockFilter, error) {
	switch {
	case !s.Filter:
		return nil, nil
	case s.Internet:
		return filters[internet]()
	case s.DataOnly:
		return filters[dataOnly]()
	}
	return filters[ordinary]()
}

// name is the program's, for errors.
func (s Spec) name() string { return filepath.Base(s.Program) }

// FirstFile is the number of the first of a Spec's Files in the process.
const FirstFile = 3

// A Limit is a resource limit, soft and hard alike.
type Limit struct {
	Resource int // one of unix.RLIMIT_…
	Value    uint64
}

// maxDescriptors is the most that a process has, wherever the host's limit is: service
// managers set it to 2^30, and each descriptor takes memory of the kernel's.
const maxDescriptors = 1 << 20

// DescriptorLimit is how many descriptors a process of a VM may have (RLIMIT_NOFILE): as
// many as this process can give to another, at most 1 Mi. A file server holds one for
// every file in use. It is 0 if that cannot be told.
//
// There is no such limit of threads: RLIMIT_NPROC counts those of a user, not of a
// process, and the kernel does not apply it to root. The VM's control group has one.
func DescriptorLimit() uint64 {
	var limit unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &limit); err != nil {
		return 0
	}
	return atMost(limit.Max)
}

func atMost(hard uint64) uint64 { return min(hard, maxDescriptors) }

// FileServerLimits are the limits of a VMM and of a process that serves files: no core,
// and a descriptor for every file that the guest has in its cache. With 0 descriptors
// their number is left as it is.
func FileServerLimits(descriptors uint64) []Limit {
	limits := []Limit{{Resource: unix.RLIMIT_CORE, Value: 0}}
	if descriptors > 0 {
		limits = append(limits, Limit{Resource: unix.RLIMIT_NOFILE, Value: descriptors})
	}
	return limits
}

// A Root is the content of a jail. What it holds cannot be added to: its own
// directories are read-only.
type Root struct {
	// Dir is an existing directory of the host over which the root is mounted, in
	// the process's mount namespace only.
	Dir string
	// Whole makes what is mounted on Dir the root, as it is: it has no Binds and no
	// Descriptors then.
	Whole bool
	// Binds are its entries.
	Binds []Bind
	// Descriptors gives the process /proc/self/fd, with its own descriptors and
	// nothing else of procfs.
	Descriptors bool
}

// A Bind is an object of the host in a jail.
type Bind struct {
	// Source is the absolute path on the host.
	Source string
	// Target is the absolute path in the jail.
	Target string
	// ReadOnly makes this mount read-only, what is mounted below it included.
	ReadOnly bool
	// Device allows device nodes on this mount to be opened.
	Device bool
	// Exec allows programs and libraries on it to be executed.
	Exec bool
	// Tree takes along what is mounted below, now and later.
	Tree bool
}

// A Process is a running child. It dies with the process that started it.
type Process struct {
	cmd    *exec.Cmd
	output io.Writer
	exited chan struct{} // closed when it was waited for
}

// Pid is the process id in the caller's namespace.
func (p *Process) Pid() int { return p.cmd.Process.Pid }

// Exited is closed when the process has ended and all its output was written.
func (p *Process) Exited() <-chan struct{} { return p.exited }

// State tells how the process ended; it is known when Exited is closed.
func (p *Process) State() *os.ProcessState { return p.cmd.ProcessState }

// Kill ends the process at once.
func (p *Process) Kill() { _ = p.cmd.Process.Kill() }

// End waits a while for the process to end by itself, and kills it if it does
// not.
func (p *Process) End(grace time.Duration) {
	select {
	case <-p.exited:
	case <-time.After(grace):
		p.Kill()
		<-p.exited
	}
}

// Isolated are the namespaces that every process of a VMM can do with: it needs
// to see no other process, to share no System V object, no host name and no
// network interface or abstract socket of the host.
const Isolated = ownObjects | unix.CLONE_NEWNET

const ownObjects = unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS

// InNetwork confines like Isolated a process that has a network: it joins a network
// namespace, or with nil stays in the caller's.
func (s *Spec) InNetwork(namespace *os.File) {
	s.Namespaces, s.Network = ownObjects, namespace
}
