package qemu

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/msb-runtime/containerd-shim-msb/vm"
	"github.com/msb-runtime/containerd-shim-msb/vm/jail"
	"github.com/msb-runtime/containerd-shim-msb/vm/kvm"
	"github.com/msb-runtime/containerd-shim-msb/vm/mux"
)

// Accelerators of QEMU that the driver uses; never a list of them, because QEMU
// does not fall back from a KVM that opens but runs no guest.
const (
	accelKVM = "kvm"
	// One thread for all virtual CPUs. With a thread each, a processor may run
	// an instruction that another has just replaced: the kernel patches its own
	// code, at boot and later, and dies of a breakpoint it no longer expects.
	//
	// QEMU keeps what it has translated in up to 1 GiB, an eighth of the host's memory; a
	// guest of 512 MiB fills 400 MiB in three minutes. The VM's control group allows
	// 256 MiB beside the guest's own memory, for all processes. Beyond 96 MiB QEMU forgets
	// everything and translates again what still runs; a boot takes about half of it.
	accelTCG = "tcg,thread=single,tb-size=96"
)

// Names in QEMU's jail.
const (
	jailKernel = "/kit/vmlinux"
	jailDisk   = "/kit/guest.erofs"
)

// plan is a machine with everything decided; its descriptors are numbers in
// the QEMU process.
type plan struct {
	config  vm.Config
	board   board
	accel   string
	tscKHz  int64 // frequency of the host's time stamp counter, 0 if unknown
	agentFD int   // socket of the virtio-serial port
	shareFD []int // vhost-user sockets, one for each of config.Shares
	tapFD   []int // TAP devices, one for each of config.Network.Interfaces
	vhostFD []int // of the kernel's vhost-net, one for each of them, or none
}

// systemDirs are where a distribution keeps programs and libraries, as far as it
// has them: QEMU loads modules and firmware when it needs them.
var systemDirs = []string{"/usr", "/lib", "/lib32", "/lib64", "/bin", "/etc/ld.so.cache", "/nix/store", "/gnu/store"}

// jail is what QEMU's process is confined to: it sees the distribution's programs
// and libraries and the guest kit, and has no capability at all. What of the host
// it works on, it gets as descriptors. present tells whether a path is there.
func (p plan) jail(qemu string, files []*os.File, present func(string) bool) jail.Spec {
	dirs := systemDirs
	if prefix := filepath.Dir(filepath.Dir(qemu)); !slices.ContainsFunc(dirs, func(dir string) bool { return within(prefix, dir) }) {
		dirs = append(dirs[:len(dirs):len(dirs)], prefix)
	}
	var binds []jail.Bind
	for _, dir := range dirs {
		if present(dir) {
			binds = append(binds, jail.Bind{Source: dir, Target: dir, ReadOnly: true, Exec: true})
		}
	}
	binds = append(binds,
		jail.Bind{Source: p.config.Kernel, Target: jailKernel, ReadOnly: true},
		jail.Bind{Source: p.config.Disk, Target: jailDisk, ReadOnly: true},
		jail.Bind{Source: os.DevNull, Target: os.DevNull, Device: true}) // it tries file locks on it
	if p.accel == accelKVM {
		binds = append(binds, jail.Bind{Source: kvm.Device, Target: kvm.Device, Device: true})
	}
	spec := jail.Spec{
		Program:         qemu,
		Args:            p.args(),
		Files:           files,
		Output:          p.config.Console,
		Root:            &jail.Root{Dir: p.config.Dir, Binds: binds},
		Namespaces:      jail.Isolated,
		Capabilities:    []uintptr{},
		NoNewPrivileges: true,
		Limits:          jail.FileServerLimits(jail.DescriptorLimit()),
		Filter:          true,
	}
	if network := p.config.Network; network.Host || network.Namespace != nil {
		spec.InNetwork(network.Namespace)
	}
	return spec
}

// serverJail is what a file server is confined to by us: it makes its own root,
// namespaces, capabilities and filter. Where the limit of descriptors is lower than it
// needs, it raises its own to at most 1,000,000 before (virtiofsd's --rlimit-nofile).
func serverJail(virtiofsd string) jail.Spec {
	return jail.Spec{
		Program:         virtiofsd,
		NoSetuidFixup:   true,
		NoNewPrivileges: true,
		Limits:          jail.FileServerLimits(jail.DescriptorLimit()),
		Filter:          true,
	}
}

func within(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// args is QEMU's command line, without the program.
func (p plan) args() []string {
	memory := strconv.FormatInt(p.config.Memory>>20, 10) + "M"
	args := []string{
		"-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-monitor", "none",
		"-sandbox", "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny",
		"-M", p.board.machine + ",memory-backend=ram",
		"-accel", p.accel,
		"-cpu", p.cpu(),
		"-smp", strconv.Itoa(p.config.CPUs),
		"-m", memory,
		"-object", "memory-backend-memfd,id=ram,share=on,size=" + memory,
		// vhost-user needs virtio 1.0, which these machines do not offer by default.
		"-global", "virtio-mmio.force-legacy=false",
		"-kernel", jailKernel,
		"-append", p.commandLine(),
		"-drive", "id=root,if=none,format=raw,readonly=on,file=" + jailDisk,
		"-device", "virtio-blk-device,drive=root,opt_io_size=1048576", // the guest reads ahead twice that
		"-device", p.eighthDevice(),
		"-device", "virtio-serial-device,max_ports=2",
		"-chardev", "stdio,id=console,signal=off,mux=off",
		"-device", "virtconsole,chardev=console,nr=0",
		"-chardev", "socket,id=agent,fd=" + strconv.Itoa(p.agentFD),
		"-device", "virtserialport,chardev=agent,nr=1,name=" + mux.Port,
	}
	for i, share := range p.config.Shares {
		id := "share" + strconv.Itoa(i)
		args = append(args,
			"-chardev", "socket,id="+id+",fd="+strconv.Itoa(p.shareFD[i]),
			"-device", "vhost-user-fs-device,chardev="+id+",tag="+share.Tag)
	}
	return append(args, p.networkArgs()...)
}

// eighthDevice is what there is room for beside the disk, the ports, the shares and the
// interfaces: the machine of x86-64 has eight virtio devices without ACPI (QEMU, hw/i386/microvm.c).
// The host's random numbers are in the agent's first call as well; pages that the guest
// has freed only the balloon's device can give back.
func (p plan) eighthDevice() string {
	if p.config.ReturnMemory {
		return "virtio-balloon-device,free-page-reporting=on"
	}
	return "virtio-rng-device"
}

// networkArgs are the virtio-net devices.
func (p plan) networkArgs() (args []string) {
	if p.config.Network.Host {
		return []string{"-netdev", "user,id=net0", "-device", "virtio-net-device,netdev=net0,mac=" + vm.HostHardwareAddress.String()}
	}
	for i, device := range p.config.Network.Interfaces {
		id := "net" + strconv.Itoa(i)
		netdev := "tap,id=" + id + ",fd=" + strconv.Itoa(p.tapFD[i])
		if len(p.vhostFD) > 0 {
			netdev += ",vhost=on,vhostfd=" + strconv.Itoa(p.vhostFD[i])
		}
		args = append(args, "-netdev", netdev, "-device", "virtio-net-device,netdev="+id+",mac="+device.HardwareAddress.String())
	}
	return args
}

// cpu is the model of the machine's processors.
func (p plan) cpu() string {
	if p.accel == accelKVM {
		return "host"
	}
	return p.board.emulated
}

// commandLine is the guest kernel's.
func (p plan) commandLine() string {
	words := []string{
		"console=hvc0", "quiet", "panic=-1",
		"root=/dev/vda", "rootfstype=erofs", "ro", "init=" + p.config.Init,
	}
	words = append(append(words, vm.Words...), p.board.words...)
	if p.accel == accelTCG {
		// QEMU keeps translated code for a page until the guest's processor
		// writes to it. virtiofsd writes to the guest's memory behind QEMU's
		// back, so a page of the page cache that once held other code would
		// run that. With this the processor clears each page before it is used.
		words = append(words, "init_on_alloc=1")
		words = append(words, p.board.emulationWords(p)...)
	}
	return strings.Join(append(words, p.config.Parameters...), " ")
}

// xattrMap keeps the guest's trusted.* attributes apart from the host's (virtiofsd(1),
// the first rule that fits counts): the host's name of the guest's trusted.X is
// user.msb.trusted.X. By that name the guest cannot reach it, and the host's own
// trusted.* it does not see. libkrun's server does the same (hack/libkrun/krun-devices.patch).
const xattrMap = ":prefix:all:trusted.:user.msb.:" +
	":bad:client:user.msb.::" +
	":bad:server::trusted.:" +
	":ok:all:::"

// virtiofsdArgs is the command line of the file server for a share: of the one
// written in Rust, or of the older one in C that came with QEMU before 8.0.
func virtiofsdArgs(share vm.Share, listenFD int, rust bool) []string {
	if rust {
		args := []string{
			fmt.Sprintf("--fd=%d", listenFD), "--shared-dir=" + share.Dir,
			"--sandbox=namespace", "--cache=auto", "--xattr", "--xattrmap=" + xattrMap, "--log-level=error",
		}
		if !share.Submounts {
			args = append(args, "--no-announce-submounts")
		}
		return args
	}
	options := "sandbox=namespace,cache=auto,xattr,xattrmap=" + xattrMap
	if share.Submounts {
		options += ",announce_submounts"
	}
	return []string{
		fmt.Sprintf("--fd=%d", listenFD), "-f",
		"-o", "source=" + strings.ReplaceAll(share.Dir, ",", `\,`),
		"-o", options + ",log_level=err",
	}
}
