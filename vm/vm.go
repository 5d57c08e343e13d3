// Package vm says what a microVM is to the shim: a process that somebody else
// (a driver) starts, that serves directories to a guest over virtio-fs, and
// that carries byte streams to the agent in it.
//
// The life of a machine:
//
//	Driver.Check      can this host run it, and if not what would help
//	Driver.Start      the VMM process runs, the guest boots
//	Machine.Dial      blocks until the agent answers, the machine ends, or ctx does
//	Machine.Done      closed when the VMM process is gone, however it went
//	Machine.Stop      ends it; a machine that ended by itself may be stopped too
//
// A driver never changes what it is given: it does not mount, and it removes
// nothing but what it made itself.
package vm

import (
	"context"
	"net"
	"os"
)

// A Driver starts machines with one kind of VMM.
type Driver interface {
	// Name is the word that configuration uses for the driver.
	Name() string

	// Check tells whether this host can run machines with the driver. Its
	// error names what is missing and what to install, and is of the class
	// errdefs.ErrFailedPrecondition.
	Check(context.Context) error

	// Start launches the VMM and returns as soon as its process runs; the guest
	// boots meanwhile. ctx bounds the launch only, not the machine's life. The
	// caller owns the machine and ends it with Stop.
	Start(ctx context.Context, config Config) (Machine, error)
}

// A Machine is a running microVM.
type Machine interface {
	// Dial opens a new byte stream to the agent's listener. Before the guest
	// has booted it waits. The caller closes the stream.
	Dial(context.Context) (net.Conn, error)

	// Accept returns the next stream that the agent opens. It fails when ctx or
	// the machine ends. A guest that opens more than a few streams that nobody
	// accepts loses its machine. The caller closes the stream.
	Accept(context.Context) (net.Conn, error)

	// Pid is the process id of the VMM, in the shim's PID namespace.
	Pid() int

	// Done is closed when the VMM process has ended.
	Done() <-chan struct{}

	// Err tells why the machine ended: nil while it runs and after Stop,
	// otherwise an error with the last lines of the console in it.
	Err() error

	// Stop ends the machine at once and waits, until ctx ends, for its
	// processes to be gone. Whatever the guest must write first, it must have
	// written before.
	Stop(context.Context) error
}

// Config is a machine to be started. Paths are absolute and are read in the
// mount namespace of the caller.
type Config struct {
	// Kernel is the guest's kernel image, in the format the driver boots.
	Kernel string
	// Disk is the read-only erofs image that becomes the guest's root.
	Disk string
	// Init is the path in Disk of the program that becomes PID 1.
	Init string
	// Parameters are more words of the kernel's command line
	// (Documentation/admin-guide/kernel-parameters.rst).
	Parameters []string
	// CPUs is the number of virtual CPUs.
	CPUs int
	// Memory is the guest's RAM in bytes, a multiple of MiB.
	Memory int64
	// ReturnMemory gives memory that the guest has freed back to the host, a few seconds
	// later.
	ReturnMemory bool
	// Shares are the directories that the guest may mount, one virtio-fs
	// device each, whatever is mounted below them now or later.
	Shares []Share
	// Network is how the machine stands in a network; its zero value is not at all.
	Network Network
	// Dir is an empty directory for the driver's own use while the machine runs.
	// It goes with the caller's mount namespace.
	Dir string
	// Console receives what the guest's kernel and the VMM print. The driver
	// quotes its tail in errors.
	Console *Console
}

// MaxInterfaces is how many virtio-net devices a machine can have: as many as the
// drivers' machines have room for beside the devices that each needs.
const MaxInterfaces = 3

// A Network is how a machine stands in a network.
type Network struct {
	// Namespace is the network namespace that the VMM runs in; nil means an empty
	// one of its own. It is the caller's.
	Namespace *os.File
	// Interfaces become virtio-net devices, MaxInterfaces at most.
	Interfaces []Interface
	// Host gives the guest the network of the caller: the VMM runs in the caller's
	// namespace, and connections of the guest are connections of the VMM. There
	// are no Interfaces then, and no Namespace.
	Host bool
}

// HostHardwareAddress is the address of the virtio-net device by which a guest has
// the host's network, where it takes a device for that.
var HostHardwareAddress = net.HardwareAddr{0x02, 0x6d, 0x73, 0x62, 0, 1}

// An Interface is one virtio-net device, joined with a TAP device.
type Interface struct {
	// HardwareAddress is the device's own.
	HardwareAddress net.HardwareAddr
	// Tap is the name of a TAP device in the Network's Namespace that root may
	// attach to, with IFF_NO_PI and IFF_VNET_HDR (Documentation/networking/tuntap.rst).
	Tap string
}

// A Share is one virtio-fs device.
type Share struct {
	// Tag is the name by which the guest mounts it.
	Tag string
	// Dir is the directory served. It is a mount point of a shared or slave
	// mount, so that what the shim mounts below it later reaches the VMM.
	Dir string
	// Submounts makes each mount below Dir a file system of its own in the
	// guest (FUSE_SUBMOUNTS): own st_dev, own unmount.
	Submounts bool
}
