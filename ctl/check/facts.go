// Package check tells whether this host can run containers in microVMs, and what would help.
// Facts are what was found on the host; the checks are functions of them, and so are tested
// without one. What msbctl can do about a line is a part of it, as data (fix.go).
package check

// Facts are what the host was asked. An error says why something is not there; nil, that it is.
type Facts struct {
	// Proc is whether /proc is there. Without it nothing else can be told.
	Proc error
	// Version is this program's.
	Version string
	// Kernel is the release of the host's (uname -r), Arch its architecture, by Go's name.
	Kernel, Arch string

	Config Config
	Kit    Kit

	// KVM is whether it runs a guest.
	KVM error
	// KVMModule is the kernel's module for this CPU; empty if it has no virtualisation, or
	// there is no module.
	KVMModule string
	// Krun is whether libkrun is there, msb's, and complete.
	Krun error
	QEMU QEMU

	FUSE, Passthrough     error
	TAP, Redirect, Lookup error
	// Vhost is whether the kernel's vhost-net is there.
	Vhost error

	// Traces are where shims send theirs.
	Traces Traces

	Cgroup Cgroup
	// SharedRoot says that mounts of the host reach shims that run already, NoRoot that / is no
	// mount at all for containerd: it is in a chroot.
	SharedRoot, NoRoot bool
	// Descriptors is how many containerd may give to a process.
	Descriptors uint64

	Containerd Containerd
}

// Config is what msb is configured to do.
type Config struct {
	Files    []string
	Problems []string
	Driver   string
}

// Traces are what a shim of this containerd would do with its traces.
type Traces struct {
	// Setting says where they are sent: the setting, or what has it. Empty if nowhere.
	Setting string
	// Err is why they are not.
	Err error
}

// Kit is what is installed beside the shim.
type Kit struct {
	Dir string
	// Shim is the path of the shim, empty if it is not beside this program.
	Shim string
	// Missing are files that are not there.
	Missing []string
	// Broken is what is wrong with one of them.
	Broken error
	// Version is of which msb the kit is, and Guest its kernel's; empty if the kit does not say.
	Version, Guest string
	// Arch is which architecture that kernel is for, by Go's name; empty if it is none.
	Arch string
}

// QEMU is what the driver of that name needs.
type QEMU struct {
	Path, Version, Virtiofsd string
	// Package is Debian's package of it.
	Package string
	// Own says that virtiofsd is msb's build.
	Own bool
	// Err is why one of the two cannot run, OfVirtiofsd whether it is that one.
	Err         error
	OfVirtiofsd bool
}

// Cgroup is what there is of control groups.
type Cgroup struct {
	Version int // 1 or 2; 0 if there are none
	Missing []string
}

// Containerd is the one that is at an address.
type Containerd struct {
	Address string
	// Err is why it does not answer; the rest is then empty.
	Err     error
	Version string
	// Runtime is whether it can start the shim, and what that says of itself.
	Runtime        error
	RuntimeVersion string
	// CRI is whether it has the plugin that Kubernetes calls, and Handlers are the names
	// there of this runtime.
	CRI      bool
	Handlers []string
	// Snapshotters are those that work.
	Snapshotters []string
}
