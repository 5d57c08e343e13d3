// Package api is what the krun driver tells msb-krun, as JSON on its standard
// input. It imports nothing, so that neither side gets what the other needs.
package api

// A Machine is what the VMM's process is told to run. Paths are those in its
// jail.
type Machine struct {
	// Library is where libkrun is, on the host.
	Library string
	// CPUs is the number of virtual CPUs.
	CPUs int
	// MemoryMiB is the guest's RAM.
	MemoryMiB int64
	// Kernel is an ELF image, CommandLine all of its command line.
	Kernel, CommandLine string
	// Disk is the raw, read-only image that becomes /dev/vda.
	Disk string
	// Shares become virtio-fs devices.
	Shares []Share
	// Console is what the guest's console is written to.
	Console string
	// Socket is the unix socket to which a guest's connection to vsock port Port
	// of the host is joined.
	Socket string
	Port   uint32
	// Interfaces become virtio-net devices.
	Interfaces []Interface
	// HostNetwork makes the guest's sockets of IPv4 and IPv6 this process's.
	HostNetwork bool
}

// An Interface is a virtio-net device, joined with a TAP device of the process's
// network namespace.
type Interface struct {
	Tap             string
	HardwareAddress [6]byte
}

// A Share is a directory for the guest.
type Share struct{ Tag, Dir string }
