package krun

import (
	"encoding/json"
	"net"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/vm"
	"github.com/msb-runtime/containerd-shim-msb/vm/jail"
	"github.com/msb-runtime/containerd-shim-msb/vm/krun/api"
)

func testPlan() plan {
	return plan{
		driver: Driver{Program: "/kit/msb-krun", Library: "/kit/libkrun.so.1"},
		config: vm.Config{
			Kernel: "/kit/vmlinux", Disk: "/kit/guest.erofs", Init: "/sbin/msb-agent", Parameters: []string{"msb.sysctl.fs.x=1"}, CPUs: 2, Memory: 640 << 20, ReturnMemory: true,
			Shares: []vm.Share{{Tag: "msbpool", Dir: "/b/msb/pool/.served"}, {Tag: "msbfiles", Dir: "/b/msb/files/.served"}},
			Dir:    "/b/msb/vm",
		},
		descriptors: 1024,
	}
}

// What msb-krun is told has no path of the host in it but the library's.
func TestMachine(t *testing.T) {
	data, err := json.Marshal(testPlan().machine())
	if err != nil {
		t.Fatal(err)
	}
	var got api.Machine
	if err := json.Unmarshal(data, &got); err != nil {
		t.Fatal(err)
	}
	want := api.Machine{
		Library: "/kit/libkrun.so.1",
		CPUs:    2, MemoryMiB: 640,
		Kernel:      "/vmlinux",
		CommandLine: "console=hvc0 quiet reboot=k panic=-1 nomodule no-kvmapf initcall_blacklist=jent_mod_init root=/dev/vda rootfstype=erofs ro init=/sbin/msb-agent fb_tunnels=none initcall_blacklist=slab_late_init msb.sysctl.fs.x=1",
		Disk:        "/guest.erofs",
		Shares:      []api.Share{{Tag: "msbpool", Dir: "/shares/msbpool"}, {Tag: "msbfiles", Dir: "/shares/msbfiles"}},
		Console:     "/proc/self/fd/1",
		Socket:      "/agent.sock", Port: 1024,
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v", got, want)
	}
}

// Two devices for the shares, however many there are; everything else read-only.
func TestJail(t *testing.T) {
	spec := testPlan().jail()
	want := []jail.Bind{
		{Source: "/kit/vmlinux", Target: "/vmlinux", ReadOnly: true},
		{Source: "/kit/guest.erofs", Target: "/guest.erofs", ReadOnly: true},
		{Source: "/b/msb/vm/agent.sock", Target: "/agent.sock"},
		{Source: "/dev/kvm", Target: "/dev/kvm", Device: true},
		{Source: "/b/msb/pool/.served", Target: "/shares/msbpool", Tree: true},
		{Source: "/b/msb/files/.served", Target: "/shares/msbfiles", Tree: true},
	}
	if !reflect.DeepEqual(spec.Root.Binds, want) {
		t.Errorf("binds %+v\nwant  %+v", spec.Root.Binds, want)
	}
	if spec.Root.Dir != "/b/msb/vm" || !spec.Root.Descriptors || !spec.Cooperates || !spec.Filter || !spec.NoNewPrivileges {
		t.Errorf("%+v", spec)
	}
	if !spec.NoSetuidFixup {
		t.Error("the file server loses its capabilities when it acts as a user")
	}
	if spec.Namespaces != unix.CLONE_NEWPID|unix.CLONE_NEWIPC|unix.CLONE_NEWUTS|unix.CLONE_NEWNET {
		t.Errorf("namespaces %#x", spec.Namespaces)
	}
	for _, never := range []uintptr{
		unix.CAP_SYS_ADMIN, unix.CAP_SYS_PTRACE, unix.CAP_SYS_MODULE, unix.CAP_SYS_RAWIO, unix.CAP_NET_ADMIN, unix.CAP_NET_RAW,
		unix.CAP_DAC_READ_SEARCH, unix.CAP_SYS_CHROOT, unix.CAP_BPF, unix.CAP_KILL, unix.CAP_SYS_RESOURCE, unix.CAP_SYSLOG,
	} {
		if slices.Contains(spec.Capabilities, never) {
			t.Errorf("the VMM has capability %d", never)
		}
	}
	if limits := []jail.Limit{{Resource: unix.RLIMIT_CORE}, {Resource: unix.RLIMIT_NOFILE, Value: 1024}}; !slices.Equal(spec.Limits, limits) {
		t.Errorf("limits %v", spec.Limits)
	}
}

// The path of a socket has room for 107 bytes; Kubernetes' bundles have more.
func TestListenDeep(t *testing.T) {
	dir := t.TempDir() + "/" + strings.Repeat("x", 200)
	if err := unix.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	l, err := listen(dir + "/agent.sock")
	if err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	close(done)
	if _, err := l.accept(done); err == nil || !strings.Contains(err.Error(), "before the agent called") {
		t.Errorf("accept after the machine's end: %v", err)
	}
}

// With interfaces the VMM is in the network's namespace, has the TAP device's node
// and no more rights; with the host's network it may have internet sockets, and is
// nowhere but where the shim is.
func TestNetwork(t *testing.T) {
	namespace := os.NewFile(99, "namespace")
	p := testPlan()
	p.config.Network = vm.Network{Namespace: namespace, Interfaces: []vm.Interface{{Tap: "msbtap0", HardwareAddress: net.HardwareAddr{2, 0, 0, 0, 0, 1}}}}
	spec := p.jail()
	const others = unix.CLONE_NEWPID | unix.CLONE_NEWIPC | unix.CLONE_NEWUTS
	if spec.Network != namespace || spec.Namespaces != others || spec.Internet || !slices.Equal(spec.Capabilities, capabilities) {
		t.Errorf("with an interface: %+v", spec)
	}
	if !slices.Contains(spec.Root.Binds, jail.Bind{Source: "/dev/net/tun", Target: "/dev/net/tun", Device: true}) {
		t.Errorf("its binds: %+v", spec.Root.Binds)
	}
	if got := p.machine(); len(got.Interfaces) != 1 || got.Interfaces[0].Tap != "msbtap0" || got.HostNetwork || strings.Contains(got.CommandLine, "tsi") {
		t.Errorf("its machine: %+v", got)
	}
	p = Driver{HostNetworkKernel: "/kit/vmlinux-tsi"}.plan(vm.Config{Kernel: "/kit/vmlinux", Network: vm.Network{Host: true}})
	spec = p.jail()
	if spec.Network != nil || spec.Namespaces != others || !spec.Internet || len(spec.Capabilities) != len(capabilities)+1 {
		t.Errorf("with the host's: %+v", spec)
	}
	if !slices.Contains(spec.Root.Binds, jail.Bind{Source: "/kit/vmlinux-tsi", Target: "/vmlinux", ReadOnly: true}) {
		t.Errorf("its binds: %+v", spec.Root.Binds)
	}
	if _, err := (Driver{HostNetworkKernel: "/kit/none"}).Start(t.Context(), vm.Config{Network: vm.Network{Host: true}}); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "/kit/none") {
		t.Errorf("without its kernel: %v", err)
	}
	if got := p.machine(); !got.HostNetwork || !strings.HasSuffix(got.CommandLine, " mitigations=off tsi_hijack") {
		t.Errorf("its machine: %+v", got)
	}
}

// libkrun always has the balloon's device: what keeps memory is a guest without its driver.
func TestReturnMemory(t *testing.T) {
	for _, returned := range []bool{true, false} {
		without := plan{config: vm.Config{ReturnMemory: returned}}.commandLine()
		if driver := !strings.Contains(without, "jent_mod_init,virtio_balloon_driver_init "); driver != returned {
			t.Errorf("ReturnMemory %v: %s", returned, without)
		}
	}
}
