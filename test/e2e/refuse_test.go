package e2e

import (
	"bytes"
	"debug/elf"
	"fmt"
	"maps"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
	"github.com/msb-runtime/containerd-shim-msb/vm/kvm"
)

// A refusal is what ctr is given and what the sentence has in it.
type refusal struct {
	options []string
	want    string
}

// refusedBy is what only one of the drivers can refuse.
func refusedBy(t *testing.T, driver, dir string) map[string]refusal {
	t.Helper()
	if driver == "krun" {
		return map[string]refusal{
			"missing libkrun": {config(t, dir, `krun.library = "/no/libkrun.so.1"`), "libkrun is not installed (/no/libkrun.so.1: no such file): build it with"},
			"not libkrun":     {config(t, dir, fmt.Sprintf("krun.library = %q", anyLibrary(t))), "this libkrun has no krun_"},
		}
	}
	// This host may have a KVM that runs guests, one that only pretends, or none.
	refusals := map[string]refusal{}
	if kvm.Check() != nil {
		refusals["no usable KVM"] = refusal{config(t, dir, `driver = "krun"`), "driver krun: "}
	}
	maps.Copy(refusals, map[string]refusal{
		"missing QEMU":      {config(t, dir, `qemu.path = "/no/qemu"`), "apt-get install qemu-system-x86"},
		"missing virtiofsd": {config(t, dir, `qemu.virtiofsd = "/no/virtiofsd"`), "virtiofsd is not there: install it"},
	})
	return refusals
}

// What is not supported is refused with a sentence that says why, and leaves
// nothing behind.
func TestRefused(t *testing.T) {
	nothingLeft(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), "x")
	fifo, socket := filepath.Join(dir, "fifo"), filepath.Join(dir, "socket")
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	listener, err := net.ListenPacket("unixgram", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	device := filepath.Join(dir, "device")
	if err := unix.Mknod(device, unix.S_IFBLK|0o600, int(unix.Mkdev(7, 200))); err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(dir, "file")

	target := filepath.Join(dir, "target")
	write(t, filepath.Join(target, "x"), "x")
	if err := os.Symlink("x", filepath.Join(target, "link")); err != nil {
		t.Fatal(err)
	}
	cases := map[string]refusal{
		"FM27 a directory as target":       {[]string{harness.Bind(file, "/etc", "rbind:ro")}, "/etc"},
		"metadata of a directory":          {[]string{harness.Bind(target, "/f", "rbind:x-msb.metadata=guest")}, "is for files and " + target + " is a directory"},
		"following a directory":            {[]string{harness.Bind(target, "/f", "rbind:x-msb.update=follow")}, "is for files and " + target + " is a directory"},
		"unknown own option":               {[]string{harness.Bind(file, "/f", "rbind:x-msb.copy=yes")}, `unknown option "x-msb.copy"`},
		"VM34 hidden path that leads out":  {[]string{harness.Bind(target, "/f", "rbind:x-msb.hide=../file")}, `path "../file" leads out of the source`},
		"VM34 absolute hidden path":        {[]string{harness.Bind(target, "/f", "rbind:x-msb.hide=/etc")}, `path "/etc" is absolute`},
		"VM34 hidden link":                 {[]string{harness.Bind(target, "/f", "rbind:x-msb.hide=x:x-msb.hide=link")}, `"link", which is to be hidden, is a symbolic link`},
		"VM34 hidden path that is missing": {[]string{harness.Bind(target, "/f", "rbind:x-msb.hide=.env")}, `".env", which is to be hidden, is not there`},
		"hidden path of a file":            {[]string{harness.Bind(file, "/f", "rbind:x-msb.hide=x")}, "is for directories and " + file + " is none"},
		"FM38 missing source":              {[]string{harness.Bind(filepath.Join(dir, "missing"), "/f", "rbind")}, "mount /f: source " + dir + "/missing does not exist"},
		"FM39 fifo":                        {[]string{harness.Bind(fifo, "/f", "rbind")}, "is a FIFO; msb can mount regular files, directories and sockets"},
		"FM40 datagram socket":             {[]string{harness.Bind(socket, "/f", "rbind")}, "is a socket for datagrams"},
		"FM41 block device":                {[]string{harness.Bind(device, "/f", "rbind")}, "is a block device"},
		"escaping destination":             {[]string{harness.Bind(file, "/a/../../f", "rbind")}, "leads out of the container's root"},
		"relative destination":             {[]string{harness.Bind(file, "f", "rbind")}, "is not an absolute path"},
		"root as destination":              {[]string{harness.Bind(dir, "/", "rbind")}, "is the container's root itself"},
		"DM05 shared propagation":          {[]string{harness.Bind(dir, "/f", "rbind:rshared")}, "use rslave or rprivate"},
		"unknown file system":              {[]string{"--mount=type=xfs,src=/dev/x,dst=/f"}, `file system type "xfs" cannot be mounted`},
		"memory of 1 MiB":                  {[]string{"--memory-limit", "1048576"}, "a memory limit of 1MiB is too small"},
		"memory of 1 TiB":                  {[]string{"--memory-limit", "1099511627776"}, "and the host has"},
		"host device":                      {[]string{"--device", "/dev/loop-control"}, "/dev/loop-control is the host's"},
		"unknown annotation":               {[]string{"--annotation", "io.containerd.msb.kernel=/x"}, "annotation io.containerd.msb.kernel is not one of msb's"},
		"more CPUs than there are":         {[]string{"--annotation", "io.containerd.msb.vm.cpus=300"}, "300 is more than the host's"},
		"a pod that is gone": {[]string{
			"--annotation", "io.kubernetes.cri.container-type=container", "--annotation", "io.kubernetes.cri.sandbox-id=gone",
		}, "the shim of the pod's sandbox gone does not run, create the pod anew"},
		"malformed cgroup":      {[]string{"--cgroup", "a:b"}, "is neither a path below the hierarchy's root nor slice:prefix:name"},
		"malformed cpus":        {[]string{"--annotation", "io.containerd.msb.vm.cpus=many"}, `"many" is not a number of CPUs`},
		"malformed memory":      {[]string{"--annotation", "io.containerd.msb.vm.memory=-1"}, "is not a size such as 512MiB"},
		"missing configuration": {[]string{"--runtime-config-path", filepath.Join(dir, "none.toml")}, "none.toml: it cannot be read: no such file"},
		"unknown setting":       {config(t, dir, "kernel = 1"), "unknown setting"},
		"unknown driver":        {config(t, dir, `driver = "bochs"`), `unknown driver "bochs"`},
		"missing kit":           {config(t, dir, fmt.Sprintf("kit = %q", dir)), "the guest kit is incomplete"},
		"no kernel":             {config(t, dir, fmt.Sprintf("kit = %q", kit(t, "vmlinux", "nothing"))), "neither an ELF image nor arm64's boot image"},
		"damaged kernel":        {config(t, dir, patient(kit(t, "vmlinux", damagedKernel(t)))), " ended ("},
		"kernel panic":          {config(t, dir, patient(kit(t, "guest.erofs", strings.Repeat("nothing\n", 1<<16)))), "Kernel panic"},
		"no answer in time":     {config(t, dir, `vm.boot_timeout = "100ms"`), "the agent did not answer within 100ms"},
	}
	maps.Copy(cases, refusedBy(t, host.Driver, dir))
	for name, c := range cases {
		t.Run(name, func(t *testing.T) { wantNoTask(t, c.want, c.options...) })
	}
	if host.Driver == "krun" && harness.Emulated() { // it sets a sysctl
		t.Run("more memory than the host has", refusedMemory)
	}
	t.Run("a command that is not there", func(t *testing.T) {
		_, stderr, code := host.Run("nocommand", nil, "/no/such/command")
		if code == 0 || !strings.Contains(stderr, "/no/such/command") {
			t.Errorf("exit code %d: %s", code, stderr)
		}
	})
}

// wantNoTask wants that ctr runs nothing with these options, and says why in one line.
func wantNoTask(t *testing.T, words string, options ...string) {
	t.Helper()
	_, stderr, code := host.Run(fmt.Sprintf("e2e-%d", time.Now().UnixNano()), options, "true")
	if code == 0 || !strings.Contains(stderr, words) || strings.Contains(strings.TrimSpace(stderr), "\n") {
		t.Errorf("exit code %d, want a line with %q:\n%s", code, words, stderr)
	}
}

// A host that does not commit the VM's memory says so at once. (QEMU's is a file,
// which the kernel commits as it is touched.)
func refusedMemory(t *testing.T) {
	const overcommit = "/proc/sys/vm/overcommit_memory" // proc_sys_vm(5)
	before := content(t, overcommit)
	if err := os.WriteFile(overcommit, []byte("2"), 0); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := os.WriteFile(overcommit, []byte(before), 0); err != nil {
			t.Error(err)
		}
	}()
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		t.Fatal(err)
	}
	most := fmt.Sprintf("io.containerd.msb.vm.memory=%dMiB", uint64(info.Totalram)*uint64(info.Unit)>>20-64)
	wantNoTask(t, "the host cannot give the VM its", "--annotation", most)
}

// config is the option for a configuration file with the given content.
func config(t *testing.T, dir, content string) []string {
	t.Helper()
	file, err := os.CreateTemp(dir, "*.toml")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if !strings.Contains(content, "driver") {
		content = fmt.Sprintf("driver = %q\n%s\n", host.Driver, content)
	}
	if _, err := file.WriteString(content); err != nil {
		t.Fatal(err)
	}
	return []string{"--runtime-config-path", file.Name()}
}

// patient is a configuration with a kit whose guest is given time to fail, however slow the machine is.
func patient(kit string) string {
	return fmt.Sprintf("kit = %q\nvm.boot_timeout = %q", kit, harness.Patience)
}

// kit is a copy of the kit in which one file has another content.
func kit(t *testing.T, broken, content string) string {
	t.Helper()
	dir := t.TempDir()
	if err := host.KitBut(broken, dir); err != nil {
		t.Fatal(err)
	}
	write(t, filepath.Join(dir, broken), content)
	return dir
}

// anyLibrary is a shared library that is not libkrun: the C library.
func anyLibrary(t *testing.T) string {
	t.Helper()
	for _, pattern := range []string{"/lib/*/libc.so.6", "/lib64/libc.so.6"} {
		if found, err := filepath.Glob(pattern); err == nil && len(found) > 0 {
			return found[0]
		}
	}
	t.Fatal("the C library is not where it is on Linux")
	return ""
}

// damagedKernel is the kernel's ELF file with no code in what is to be executed.
func damagedKernel(t *testing.T) string {
	t.Helper()
	kernel, err := os.ReadFile(filepath.Join(host.Output, "lib", "msb", "vmlinux"))
	if err != nil {
		t.Fatal(err)
	}
	file, err := elf.NewFile(bytes.NewReader(kernel))
	if err != nil {
		t.Fatal(err)
	}
	for _, segment := range file.Progs {
		if segment.Type == elf.PT_LOAD && segment.Flags&elf.PF_X != 0 {
			code := kernel[segment.Off : segment.Off+segment.Filesz]
			copy(code, bytes.Repeat([]byte{0xff}, len(code)))
		}
	}
	return string(kernel)
}
