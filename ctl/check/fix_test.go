package check

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
)

// Which lines msbctl can do something about, and what it leaves.
func TestFixes(t *testing.T) {
	device := fmt.Errorf("/dev/kvm cannot be used (%w): load the module", fs.ErrNotExist)
	for name, c := range map[string]struct {
		change func(*Facts)
		fixes  string
		left   string
	}{
		"all is well":        {func(*Facts) {}, "", ""},
		"no KVM":             {func(f *Facts) { f.KVM = errTest }, "", "KVM driver"},
		"no KVM by firmware": {func(f *Facts) { f.KVM = device }, "", "KVM driver"},
		"KVM has no device":  {func(f *Facts) { f.KVM, f.KVMModule = device, "kvm_amd" }, "modprobe kvm_amd for KVM", "driver"},
		"KVM has a device":   {func(f *Facts) { f.KVM, f.KVMModule = errTest, "kvm_amd" }, "", "KVM driver"},
		"KVM is a must":      {func(f *Facts) { f.KVM, f.KVMModule, f.Config.Driver = device, "kvm_intel", "krun" }, "modprobe kvm_intel for KVM", "driver"},
		"no FUSE":            {func(f *Facts) { f.FUSE = unix.ENODEV }, "modprobe fuse for FUSE, FUSE passthrough", ""},
		"no passthrough":     {func(f *Facts) { f.Passthrough = errTest }, "", "FUSE passthrough"},
		"no TAP":             {func(f *Facts) { f.TAP = fs.ErrNotExist }, "modprobe tun for TAP devices, traffic control", ""},
		"no vhost-net":       {func(f *Facts) { f.Vhost, f.Config.Driver = fs.ErrNotExist, "qemu" }, "modprobe vhost_net for vhost-net", ""},
		"odd vhost-net":      {func(f *Facts) { f.Vhost, f.Config.Driver = errTest, "qemu" }, "", "vhost-net"},
		"FUSE is refused":    {func(f *Facts) { f.FUSE = errTest }, "", "FUSE FUSE passthrough"},
		"TAP is refused":     {func(f *Facts) { f.TAP = errTest }, "", "TAP devices traffic control"},
		"no redirection":     {func(f *Facts) { f.Redirect = errTest }, "modprobe -a sch_ingress cls_u32 act_mirred for traffic control", ""},
		"several": {
			func(f *Facts) { f.TAP, f.FUSE, f.SharedRoot = fs.ErrNotExist, fs.ErrNotExist, false },
			"modprobe fuse for FUSE, FUSE passthrough; modprobe tun for TAP devices, traffic control", "mounts",
		},
		"old kernel":      {func(f *Facts) { f.Kernel = "4.19" }, "", "kernel"},
		"mistakes":        {func(f *Facts) { f.Config.Problems = []string{"x"} }, "", "configuration"},
		"part of a kit":   {func(f *Facts) { f.Kit.Missing = []string{"vmlinux"} }, "", "kit"},
		"no libkrun":      {func(f *Facts) { f.Krun = errTest }, "", "libkrun"},
		"no QEMU":         {func(f *Facts) { f.QEMU.Err, f.Config.Driver = errTest, "qemu" }, "", "QEMU driver"},
		"no lookup":       {func(f *Facts) { f.Lookup = errTest }, "", "socket lookup"},
		"no groups":       {func(f *Facts) { f.Cgroup.Version = 0 }, "", "control groups"},
		"v1 lacks":        {func(f *Facts) { f.Cgroup = Cgroup{1, []string{"pids"}} }, "", "control groups"},
		"v2 lacks":        {func(f *Facts) { f.Cgroup.Missing = []string{"cpuset"} }, "", "control groups"},
		"private root":    {func(f *Facts) { f.SharedRoot = false }, "", "mounts"},
		"few descriptors": {func(f *Facts) { f.Descriptors = 1024 }, "", "descriptors"},
		"no containerd":   {func(f *Facts) { f.Containerd = Containerd{Err: errTest} }, "", "containerd runtime Kubernetes snapshotter"},
		"no snapshotter":  {func(f *Facts) { f.Containerd.Snapshotters = nil }, "", "snapshotter"},
	} {
		f := good()
		c.change(&f)
		results := Run(f)
		fixes, left := Fixes(results)
		var does, leaves []string
		for _, fix := range fixes {
			does = append(does, fix.Remedy.String()+" for "+strings.Join(fix.For, ", "))
		}
		for _, r := range left {
			leaves = append(leaves, r.Name)
		}
		if got := strings.Join(does, "; "); got != c.fixes {
			t.Errorf("%s: %q, want %q", name, got, c.fixes)
		}
		if got := strings.Join(leaves, " "); got != c.left {
			t.Errorf("%s: left %q, want %q", name, got, c.left)
		}
		// What is done is what the line says.
		for _, r := range results {
			if r.Remedy != nil && !strings.HasPrefix(r.Do, r.Remedy.String()) {
				t.Errorf("%s: %s says %q, and %q is done", name, r.Name, r.Do, r.Remedy)
			}
		}
	}
}

// It runs modprobe, here another of that name, and tells what that says when it fails.
func TestApply(t *testing.T) {
	dir := t.TempDir()
	const script = "#!/bin/sh\necho \"$@\" >>%s/args\n[ $1 != tun ] || { echo 'modprobe: FATAL: Module tun not found' >&2; exit 1; }\n"
	if err := os.WriteFile(filepath.Join(dir, "modprobe"), fmt.Appendf(nil, script, dir), 0o700); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir)
	if err := load("a", "b").Apply(t.Context()); err != nil {
		t.Error(err)
	}
	if err := load("tun").Apply(t.Context()); err == nil || err.Error() != "FATAL: Module tun not found" {
		t.Errorf("a module that is not there: %v", err)
	}
	if args, err := os.ReadFile(filepath.Join(dir, "args")); string(args) != "-a a b\ntun\n" {
		t.Errorf("%q, %v", args, err)
	}
}
