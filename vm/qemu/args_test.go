package qemu

import (
	"net"
	"os"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/vm"
	"github.com/msb-runtime/containerd-shim-msb/vm/jail"
)

func example() plan {
	return plan{
		config: vm.Config{
			Kernel: "/kit/vmlinux", Disk: "/a,b/guest.erofs", Dir: "/b/msb/vm", Init: "/sbin/agent", CPUs: 2, Memory: 300 << 20,
			Shares: []vm.Share{{Tag: "pool", Dir: "/pool", Submounts: true}, {Tag: "files", Dir: "/files"}},
		},
		board: boards["amd64"], accel: accelTCG, tscKHz: 2_600_000, agentFD: 3, shareFD: []int{4, 5},
	}
}

// after returns the values of an option that may be given several times.
func after(args []string, option string) (values []string) {
	for i, arg := range args {
		if arg == option {
			values = append(values, args[i+1])
		}
	}
	return values
}

func TestArgs(t *testing.T) {
	args := example().args()
	for option, want := range map[string]string{
		"-accel": "tcg,thread=single,tb-size=96", "-cpu": "max,erms=off,svm=off", "-smp": "2", "-m": "300M", "-kernel": "/kit/vmlinux",
		"-drive":  "id=root,if=none,format=raw,readonly=on,file=/kit/guest.erofs",
		"-object": "memory-backend-memfd,id=ram,share=on,size=300M",
	} {
		if got := after(args, option); !slices.Equal(got, []string{want}) {
			t.Errorf("%s %q, want %q", option, got, want)
		}
	}
	for _, want := range []string{"socket,id=agent,fd=3", "socket,id=share0,fd=4", "socket,id=share1,fd=5"} {
		if !slices.Contains(after(args, "-chardev"), want) {
			t.Errorf("no -chardev %s", want)
		}
	}
	for _, want := range []string{"vhost-user-fs-device,chardev=share0,tag=pool", "vhost-user-fs-device,chardev=share1,tag=files"} {
		if !slices.Contains(after(args, "-device"), want) {
			t.Errorf("no -device %s", want)
		}
	}
	if sandbox := after(args, "-sandbox"); len(sandbox) != 1 || !strings.HasPrefix(sandbox[0], "on,") {
		t.Errorf("sandbox %q", sandbox)
	}
}

// QEMU sees the distribution, read-only, and the kit, and can do nothing as root.
func TestJail(t *testing.T) {
	present := func(path string) bool { return slices.Contains([]string{"/usr", "/lib64", "/opt/qemu"}, path) }
	for name, c := range map[string]struct {
		qemu, accel string
		want        []string
	}{
		"the distribution's": {"/usr/bin/qemu-system-x86_64", accelTCG, []string{"/usr", "/lib64", "/kit/vmlinux", "/a,b/guest.erofs", "/dev/null"}},
		"another, with KVM":  {"/opt/qemu/bin/qemu-system-x86_64", accelKVM, []string{"/usr", "/lib64", "/opt/qemu", "/kit/vmlinux", "/a,b/guest.erofs", "/dev/null", "/dev/kvm"}},
	} {
		p := example()
		p.accel = c.accel
		spec := p.jail(c.qemu, nil, present)
		var sources []string
		for _, bind := range spec.Root.Binds {
			sources = append(sources, bind.Source)
			if !bind.ReadOnly && !strings.HasPrefix(bind.Source, "/dev/") {
				t.Errorf("%s: %s is writable", name, bind.Source)
			}
		}
		if !slices.Equal(sources, c.want) {
			t.Errorf("%s: %q, want %q", name, sources, c.want)
		}
		if spec.Capabilities == nil || len(spec.Capabilities) > 0 || !spec.NoNewPrivileges || spec.Namespaces != jail.Isolated || spec.Root.Dir != "/b/msb/vm" {
			t.Errorf("%s: %+v", name, spec)
		}
		for process, limits := range map[string][]jail.Limit{"QEMU": spec.Limits, "virtiofsd": serverJail("virtiofsd").Limits} {
			if !slices.Equal(limits, jail.FileServerLimits(jail.DescriptorLimit())) || len(limits) != 2 {
				t.Errorf("%s: limits of %s: %v", name, process, limits)
			}
		}
	}
}

func TestCommandLine(t *testing.T) {
	emulated := example()
	if line := emulated.commandLine(); !strings.Contains(line, "tsc_early_khz=2600000") || !strings.Contains(line, "init=/sbin/agent") {
		t.Errorf("emulated: %s", line)
	}
	if line := emulated.commandLine(); !strings.Contains(line, " noreplace-smp") || strings.Contains(line, "nolapic_timer") {
		t.Errorf("emulated, two processors: %s", line)
	}
	emulated.config.CPUs = 1
	if line := emulated.commandLine(); !strings.Contains(line, " noreplace-smp nolapic_timer ") {
		t.Errorf("emulated, one processor: %s", line)
	}
	hardware := example()
	hardware.accel, hardware.config.CPUs = accelKVM, 1
	if line := hardware.commandLine(); strings.Contains(line, "tsc_early_khz") || strings.Contains(line, "nolapic_timer") || strings.Contains(line, "noreplace-smp") || hardware.cpu() != "host" {
		t.Errorf("with KVM: %s, CPU %s", line, hardware.cpu())
	}
}

// A machine for arm64 is another, with another processor, and none of x86-64's parameters.
func TestArm64(t *testing.T) {
	p := example()
	p.board = boards["arm64"]
	args := p.args()
	if got := after(args, "-M"); !slices.Equal(got, []string{"virt,gic-version=max,memory-backend=ram"}) {
		t.Errorf("-M %q", got)
	}
	if got := p.cpu(); got != "max,pauth-impdef=on" {
		t.Errorf("-cpu %s", got)
	}
	line := p.commandLine()
	if !strings.Contains(line, " init_on_alloc=1") {
		t.Errorf("pages are not cleared: %s", line)
	}
	for _, word := range []string{"reboot=t", "tsc", "noreplace-smp", "no_timer_check", "lapic"} {
		if strings.Contains(line, word) {
			t.Errorf("%s is in %s", word, line)
		}
	}
	if p.accel = accelKVM; p.cpu() != "host" {
		t.Errorf("with KVM: %s", p.cpu())
	}
}

// What is for another architecture than the host's is emulated, whatever /dev/kvm says.
func TestAcceleratorOfAnother(t *testing.T) {
	if got := accelerator(t.Context(), "none"); got != accelTCG {
		t.Error(got)
	}
}

func TestVirtiofsdArgs(t *testing.T) {
	for name, c := range map[string]struct {
		share vm.Share
		rust  bool
		want  string
		not   string
	}{
		"C, submounts":    {vm.Share{Dir: "/pool", Submounts: true}, false, "announce_submounts", ""},
		"C, none":         {vm.Share{Dir: "/files"}, false, "source=/files", "announce_submounts"},
		"C, comma":        {vm.Share{Dir: "/a,b"}, false, `source=/a\,b`, ""},
		"Rust, submounts": {vm.Share{Dir: "/pool", Submounts: true}, true, "--shared-dir=/pool", "--no-announce-submounts"},
		"Rust, none":      {vm.Share{Dir: "/files"}, true, "--no-announce-submounts", ""},
	} {
		line := strings.Join(virtiofsdArgs(c.share, 7, c.rust), " ")
		if !strings.Contains(line, c.want) || (c.not != "" && strings.Contains(line, c.not)) || !strings.Contains(line, "--fd=7") || !strings.Contains(line, "namespace") {
			t.Errorf("%s: %s", name, line)
		}
	}
	for _, rust := range []bool{false, true} {
		if line := strings.Join(virtiofsdArgs(vm.Share{Dir: "/pool"}, 7, rust), " "); !strings.Contains(line, "xattrmap="+xattrMap) {
			t.Errorf("the guest's trusted attributes are not kept apart: %s", line)
		}
	}
	if !serverJail("virtiofsd").NoSetuidFixup {
		t.Error("virtiofsd loses its capabilities when it acts as a user")
	}
	if !isRust("Usage: virtiofsd --shared-dir <DIR>") || isRust("usage: virtiofsd [options]\n -o source=PATH") {
		t.Error("the two file servers are not told apart")
	}
}

// The measured frequency of the counter is one that a processor may have, and
// two measurements agree.
func TestTSC(t *testing.T) {
	first, second := tscKHz(), tscKHz()
	if first < 500_000 || first > 10_000_000 {
		t.Errorf("%d kHz", first)
	}
	if diff := first - second; diff > first/1000 || diff < -first/1000 {
		t.Errorf("%d kHz and %d kHz", first, second)
	}
}

// Interfaces are TAP devices by descriptor; vhost-net takes over where it is there.
func TestNetworkArgs(t *testing.T) {
	namespace := os.NewFile(99, "namespace")
	p := plan{config: vm.Config{Network: vm.Network{Namespace: namespace, Interfaces: []vm.Interface{{Tap: "msbtap0", HardwareAddress: net.HardwareAddr{2, 0, 0, 0, 0, 1}}}}}, tapFD: []int{7}}
	if got := strings.Join(p.networkArgs(), " "); got != "-netdev tap,id=net0,fd=7 -device virtio-net-device,netdev=net0,mac=02:00:00:00:00:01" {
		t.Errorf("an interface: %s", got)
	}
	p.vhostFD = []int{8}
	if got := strings.Join(p.networkArgs(), " "); !strings.Contains(got, "fd=7,vhost=on,vhostfd=8 ") {
		t.Errorf("with vhost-net: %s", got)
	}
	spec := p.jail("/usr/bin/qemu", nil, func(string) bool { return false })
	if spec.Network != namespace || spec.Namespaces&unix.CLONE_NEWNET != 0 {
		t.Errorf("its jail: %+v", spec)
	}
	p.config.Network = vm.Network{Host: true}
	if got := strings.Join(p.networkArgs(), " "); !strings.HasPrefix(got, "-netdev user,id=net0 ") {
		t.Errorf("the host's: %s", got)
	}
	if spec := p.jail("/usr/bin/qemu", nil, func(string) bool { return false }); spec.Network != nil || spec.Namespaces&unix.CLONE_NEWNET != 0 {
		t.Errorf("its jail: %+v", spec)
	}
	p.config.Network = vm.Network{}
	if spec := p.jail("/usr/bin/qemu", nil, func(string) bool { return false }); len(p.networkArgs()) != 0 || spec.Namespaces&unix.CLONE_NEWNET == 0 {
		t.Errorf("none: %+v", spec)
	}
}

// The machine has eight virtio devices, whether or not the guest's memory goes back to the host.
func TestDevices(t *testing.T) {
	for returned, want := range map[bool]string{true: "virtio-balloon-device,free-page-reporting=on", false: "virtio-rng-device"} {
		p := example()
		p.config.ReturnMemory = returned
		for i := range vm.MaxInterfaces {
			p.config.Network.Interfaces = append(p.config.Network.Interfaces, vm.Interface{})
			p.tapFD = append(p.tapFD, 6+i)
		}
		devices := slices.DeleteFunc(after(p.args(), "-device"), func(device string) bool {
			return strings.HasPrefix(device, "virtconsole,") || strings.HasPrefix(device, "virtserialport,") // of virtio-serial
		})
		if len(devices) != 8 || !slices.Contains(devices, want) {
			t.Errorf("%d devices, want 8 with %s: %q", len(devices), want, devices)
		}
	}
}
