package e2e

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
	"github.com/msb-runtime/containerd-shim-msb/vm/kvm"
)

// auto takes krun where KVM can run a guest, and otherwise qemu, with a warning
// that says why.
func TestAuto(t *testing.T) {
	nothingLeft(t)
	before := len(host.Log())
	out, stderr, code := host.Run("auto", config(t, t.TempDir(), `driver = "auto"`), "echo", "hello")
	if code != 0 || out != "hello\n" {
		t.Fatalf("code %d: %s%s", code, out, stderr)
	}
	warned := strings.Contains(host.Log()[before:], "using driver qemu instead")
	if usable := kvm.Check(); (usable != nil) != warned {
		t.Errorf("KVM: %v; warned: %t", usable, warned)
	}
}

// The VMM runs on KVM where that can run a guest. What the kernel says of the VMM: its capabilities, its filter, its namespaces,
// its root; and that it and the shim are in the group that the spec names, with
// the host's limits and the container's OOM score.
func TestConfined(t *testing.T) {
	nothingLeft(t)
	id := fmt.Sprintf("confined-%d", os.Getpid())
	score := 321
	c := start(t, options{spec: []oci.SpecOpts{
		oci.WithCgroup("/" + harness.Namespace + "/" + id), oci.WithCPUCFS(150_000, 100_000), oci.WithMemoryLimit(128 << 20),
		func(_ context.Context, _ oci.Client, _ *containers.Container, s *specs.Spec) error {
			s.Process.OOMScoreAdj = &score
			return nil
		},
	}}, sleeper...)
	vmm := fmt.Sprintf("/proc/%d/", c.vmm())
	shim := fmt.Sprintf("/proc/%d/", shimOf(t, c.ID()))

	status := content(t, vmm+"status")
	capabilities := map[string]string{
		// chown, dac_override, fowner, fsetid, setgid, setuid, mknod, setfcap
		"krun": "00000000880000db",
		"qemu": "0000000000000000",
	}[host.Driver]
	for _, want := range []string{"CapPrm:\t" + capabilities, "CapEff:\t" + capabilities, "CapBnd:\t" + capabilities, "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(status, want) {
			t.Errorf("no %q in\n%s", want, status)
		}
	}
	if host.Driver == "qemu" {
		accelerator := "tcg"
		if kvm.Check() == nil {
			accelerator = "kvm"
		}
		if line := strings.ReplaceAll(content(t, vmm+"cmdline"), "\x00", " "); !strings.Contains(line, "-accel "+accelerator) {
			t.Errorf("QEMU does not run with %s: %s", accelerator, line)
		}
	}
	for _, namespace := range []string{"mnt", "pid", "ipc", "uts", "net"} {
		if link(t, vmm+"ns/"+namespace) == link(t, "/proc/self/ns/"+namespace) {
			t.Errorf("the VMM is in the host's %s namespace", namespace)
		}
	}
	wantRoot := map[string][]string{"krun": {"agent.sock", "dev", "guest.erofs", "proc", "shares", "vmlinux"}}[host.Driver]
	if names := harness.Names(t, vmm+"root"); wantRoot != nil && !slices.Equal(names, wantRoot) || slices.Contains(names, "root") || slices.Contains(names, "home") {
		t.Errorf("the VMM sees %q", names)
	}
	if got := strings.TrimSpace(content(t, vmm+"oom_score_adj")); got != strconv.Itoa(score) {
		t.Errorf("oom_score_adj %s, want %d", got, score)
	}
	for _, process := range []string{vmm, shim} {
		if group := content(t, process+"cgroup"); !strings.Contains(group, ":/"+harness.Namespace+"/"+id+"\n") {
			t.Errorf("%s is in\n%s", process, group)
		}
	}
	wantLimit(t, "/"+harness.Namespace+"/"+id, "cpu.max", "150000 100000", "cpu/cpu.cfs_quota_us", "150000")
	// RAM of limit and overhead, and the VMM's allowance.
	memory := strconv.Itoa((128 + 128 + 256) << 20)
	wantLimit(t, "/"+harness.Namespace+"/"+id, "memory.max", memory, "memory/memory.limit_in_bytes", memory)

	quota := int64(70_000)
	if err := c.Update(c.ctx, client.WithResources(&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &quota}})); err != nil {
		t.Error(err)
	}
	wantLimit(t, "/"+harness.Namespace+"/"+id, "cpu.max", "70000 100000", "cpu/cpu.cfs_quota_us", "70000")
}

// wantLimit compares a limit of a group in the version that this host has; v1 is
// controller/file.
func wantLimit(t *testing.T, group, v2, value2, v1, value1 string) {
	t.Helper()
	const root = "/sys/fs/cgroup"
	if data, err := os.ReadFile(filepath.Join(root, group, v2)); err == nil {
		if got := strings.TrimSpace(string(data)); got != value2 {
			t.Errorf("%s is %s, want %s", v2, got, value2)
		}
		return
	}
	controller, file, _ := strings.Cut(v1, "/")
	if got := strings.TrimSpace(content(t, filepath.Join(root, controller, group, file))); got != value1 {
		t.Errorf("%s is %s, want %s", v1, got, value1)
	}
}

// Forty mounts are no more devices than two.
func TestDevices(t *testing.T) {
	nothingLeft(t)
	dir := t.TempDir()
	var mounts []specs.Mount
	for i := range 40 {
		source := filepath.Join(dir, strconv.Itoa(i))
		write(t, source, fmt.Sprintf("file %d\n", i))
		mounts = append(mounts, bind(source, fmt.Sprintf("/mounts/%d", i), "ro"))
	}
	c := start(t, options{spec: []oci.SpecOpts{oci.WithMounts(mounts)}}, sleeper...)
	const virtiofs = "0x001a" // VIRTIO_ID_FS (include/uapi/linux/virtio_ids.h)
	if got := c.must("grep -l " + virtiofs + " /sys/bus/virtio/devices/*/device | wc -l"); got != "2" {
		t.Errorf("%s virtiofs devices, want 2", got)
	}
	if got := c.must("cat /mounts/* | wc -l"); got != "40" {
		t.Errorf("%s of 40 mounts", got)
	}
}

func content(t *testing.T, file string) string {
	t.Helper()
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func link(t *testing.T, path string) string {
	t.Helper()
	target, err := os.Readlink(path)
	if err != nil {
		t.Fatal(err)
	}
	return target
}
