package krun

import (
	"path"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/vm"
	"github.com/msb-runtime/containerd-shim-msb/vm/jail"
	"github.com/msb-runtime/containerd-shim-msb/vm/krun/api"
	"github.com/msb-runtime/containerd-shim-msb/vm/kvm"
	"github.com/msb-runtime/containerd-shim-msb/vm/mux"
)

// Names in the jail.
const (
	jailKernel  = "/vmlinux"
	jailDisk    = "/guest.erofs"
	jailSocket  = "/agent.sock"
	jailConsole = "/proc/self/fd/1" // a pipe to the shim
	tunDevice   = "/dev/net/tun"    // libkrun opens it by this name
)

// capabilities are what libkrun's file server does as root on behalf of the
// guest's users (capabilities(7)). It has none that reaches beyond files.
var capabilities = []uintptr{
	unix.CAP_CHOWN,        // chown in the guest
	unix.CAP_DAC_OVERRIDE, // the guest's root reads and writes what others own
	unix.CAP_FOWNER,       // and changes its mode, times and attributes
	unix.CAP_FSETID,       // and keeps set-id bits; dropped for the writes that clear them
	unix.CAP_SETUID,       // a file is made by the user that makes it in the guest
	unix.CAP_SETGID,       // and by its group
	unix.CAP_SETFCAP,      // file capabilities, which packages install
	unix.CAP_MKNOD,        // device nodes in a root file system; shares are nodev
}

// plan is a machine with everything decided.
type plan struct {
	driver      Driver
	config      vm.Config
	descriptors uint64 // most that the VMM can have
}

// socket is where the agent's connection arrives.
func (p plan) socket() string { return filepath.Join(p.config.Dir, "agent.sock") }

// machine is the description for msb-krun.
func (p plan) machine() api.Machine {
	m := api.Machine{
		Library: p.driver.Library,
		CPUs:    p.config.CPUs, MemoryMiB: p.config.Memory >> 20,
		Kernel: jailKernel, CommandLine: p.commandLine(),
		Disk:    jailDisk,
		Console: jailConsole,
		Socket:  jailSocket, Port: mux.VsockPort,
	}
	m.HostNetwork = p.config.Network.Host
	for _, i := range p.config.Network.Interfaces {
		m.Interfaces = append(m.Interfaces, api.Interface{Tap: i.Tap, HardwareAddress: [6]byte(i.HardwareAddress)})
	}
	for _, share := range p.config.Shares {
		m.Shares = append(m.Shares, api.Share{Tag: share.Tag, Dir: shareDir(share)})
	}
	return m
}

// commandLine is the guest kernel's. The kernel resets through the keyboard
// controller, which libkrun takes for the machine's end.
func (p plan) commandLine() string {
	words := []string{
		"console=hvc0", "quiet", "reboot=k", "panic=-1", "nomodule", "no-kvmapf",
		"initcall_blacklist=" + strings.Join(p.withoutInitcalls(), ","),
		"root=/dev/vda", "rootfstype=erofs", "ro", "init=" + p.config.Init,
	}
	words = append(append(words, vm.Words...), p.config.Parameters...)
	if p.config.Network.Host {
		// HostNetworkKernel makes sockets the host's; and it has what msb's kernel is built without.
		words = append(words, "mitigations=off", "tsi_hijack")
	}
	return strings.Join(words, " ")
}

// withoutInitcalls are what the kernel starts without.
func (p plan) withoutInitcalls() []string {
	// The kernel's other random numbers need no jitter RNG, whose self-test takes time.
	without := []string{"jent_mod_init"}
	if !p.config.ReturnMemory {
		// libkrun always has the device.
		without = append(without, "virtio_balloon_driver_init")
	}
	return without
}

// jail is what the VMM's process is confined to.
func (p plan) jail() jail.Spec {
	binds := []jail.Bind{
		{Source: p.config.Kernel, Target: jailKernel, ReadOnly: true},
		{Source: p.config.Disk, Target: jailDisk, ReadOnly: true},
		{Source: p.socket(), Target: jailSocket},
		{Source: kvm.Device, Target: kvm.Device, Device: true},
	}
	if len(p.config.Network.Interfaces) > 0 {
		binds = append(binds, jail.Bind{Source: tunDevice, Target: tunDevice, Device: true})
	}
	for _, share := range p.config.Shares {
		binds = append(binds, jail.Bind{Source: share.Dir, Target: shareDir(share), Tree: true})
	}
	spec := jail.Spec{
		Program:         p.driver.Program,
		Root:            &jail.Root{Dir: p.config.Dir, Binds: binds, Descriptors: true},
		Namespaces:      jail.Isolated,
		Capabilities:    capabilities,
		NoSetuidFixup:   true,
		NoNewPrivileges: true,
		Limits:          jail.FileServerLimits(p.descriptors),
		Cooperates:      true,
		Filter:          true,
	}
	if network := p.config.Network; network.Host || network.Namespace != nil {
		spec.InNetwork(network.Namespace)
	}
	if p.config.Network.Host {
		// The guest's sockets are this process's.
		spec.Internet = true
		spec.Capabilities = append(slices.Clone(capabilities), unix.CAP_NET_BIND_SERVICE)
	}
	return spec
}

// shareDir is a share's directory in the jail.
func shareDir(share vm.Share) string { return path.Join("/shares", share.Tag) }
