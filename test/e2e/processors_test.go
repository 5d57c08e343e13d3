package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"testing"

	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// A guest with several processors has them all, and they agree about memory, files, processes
// and time.
func TestProcessors(t *testing.T) {
	for _, cpus := range []int{2, 4} {
		// A VM has no more than its host, but with the help that its VMM can be given. QEMU without
		// KVM emulates all of them in one thread: more say nothing more.
		if cpus > runtime.NumCPU() && host.Driver != "krun" && !harness.Emulated() {
			continue
		}
		// An emulated host is slow.
		if cpus == 2 && harness.FewEmulated(0, 1) == 0 {
			continue
		}
		t.Run(fmt.Sprint(cpus), func(t *testing.T) {
			o := options{spec: []oci.SpecOpts{oci.WithCPUCFS(int64(cpus)*100_000, 100_000)}}
			if cpus > runtime.NumCPU() {
				o = moreProcessors(t, cpus)
			}
			for boot := range harness.Many(1, 200) {
				t.Run(fmt.Sprint(boot), func(t *testing.T) { stress(t, cpus, o) })
			}
		})
	}
}

// moreProcessors are options of a container that has more than its host, whose VM would get no
// more than that has. An emulated host has one.
func moreProcessors(t *testing.T, cpus int) options {
	t.Helper()
	helped := moreInKrun
	if host.Driver == "qemu" {
		helped = moreInQEMU
	}
	file := config(t, t.TempDir(), helped(t, cpus))[1]
	return options{container: func(id string, image client.Image) []client.NewContainerOpts {
		return []client.NewContainerOpts{
			client.WithNewSnapshot(id, image), client.WithRuntime(harness.Runtime, &runtimeoptions.Options{ConfigPath: file}),
		}
	}}
}

// moreInKrun is a configuration whose VMM is told of more processors than the shim tells it.
func moreInKrun(t *testing.T, cpus int) string {
	t.Helper()
	const program = "msb-krun"
	dir := kit(t, program, fmt.Sprintf(`#!/bin/sh
exec %s <<END
$(sed 's/"CPUs":1,/"CPUs":%d,/')
END
`, filepath.Join(host.Output, "lib", "msb", program), cpus))
	if err := os.Chmod(filepath.Join(dir, program), 0o755); err != nil {
		t.Fatal(err)
	}
	return patient(dir)
}

// moreInQEMU is the same for QEMU, whose jail has the directory above the program's.
func moreInQEMU(t *testing.T, cpus int) string {
	t.Helper()
	const program = "qemu-system-x86_64"
	qemu, err := exec.LookPath(program)
	if err != nil {
		t.Fatal(err)
	}
	file := filepath.Join(t.TempDir(), "bin", program)
	write(t, file, fmt.Sprintf(`#!/bin/sh
for argument; do
	shift
	[ "$before" != -smp ] || argument=%d
	before=$argument
	set -- "$@" "$argument"
done
exec %s "$@"
`, cpus, qemu))
	if err := os.Chmod(file, 0o755); err != nil {
		t.Fatal(err)
	}
	return fmt.Sprintf("qemu.path = %q\nvm.boot_timeout = %q", file, harness.Patience)
}

func stress(t *testing.T, cpus int, o options) {
	nothingLeft(t)
	o.spec = append(o.spec[:len(o.spec):len(o.spec)], oci.WithMounts([]specs.Mount{
		bind(filepath.Join(host.Output, "tools"), "/probe", "ro"), bind(t.TempDir(), "/mounted", "rw"),
		{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs"},
	}))
	c := start(t, o, sleeper...)
	if got, want := c.must("cat /sys/devices/system/cpu/online"), fmt.Sprintf("0-%d", cpus-1); got != want {
		t.Errorf("processors %s are online, not %s", got, want)
	}
	script := fmt.Sprintf("/probe/probe stress %d /tmp /mounted /root", harness.Many(2, 5))
	if got, want := c.must(script), fmt.Sprintf("ok %d", cpus); got != want {
		t.Errorf("the stress ends with %q, not %q", got, want)
	}
}
