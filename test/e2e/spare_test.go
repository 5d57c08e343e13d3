package e2e

import (
	"fmt"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// spared are options of a container whose VM may be a spare, and which has a spare made.
func spared(file string, spec ...oci.SpecOpts) options {
	return options{spec: spec, container: func(id string, image client.Image) []client.NewContainerOpts {
		return []client.NewContainerOpts{
			client.WithNewSnapshot(id, image), client.WithRuntime(harness.Runtime, &runtimeoptions.Options{ConfigPath: file}),
		}
	}}
}

// awaitSpare waits for a spare that is none of some.
func awaitSpare(t *testing.T, others ...int) (spare int) {
	t.Helper()
	waitFor(t, "a spare", func() bool {
		for _, pid := range host.Spares() {
			known := false
			for _, other := range others {
				known = known || pid == other
			}
			if !known {
				spare = pid
				return true
			}
		}
		return false
	})
	return spare
}

// endSpares has the spares end in order, and wants nothing of them to be left.
func endSpares(t *testing.T) {
	t.Helper()
	if err := host.EndSpares(); err != nil {
		t.Error(err)
	}
	waitFor(t, "the directories of spares to be gone", func() bool {
		left, _ := filepath.Glob(host.SpareDir("*"))
		return len(left) == 0
	})
}

// A spare becomes the VM of the next container that fits it: it has that one's files, network,
// control group and name, and the container sees nothing else. Those that do not fit have a VM
// of their own. Whatever is killed, the next start works and nothing is left.
func TestSpares(t *testing.T) {
	nothingLeft(t)
	endSpares(t) // those of other tests
	file := config(t, t.TempDir(), fmt.Sprintf("vm.boot_timeout = %q\nspare.count = 1", harness.Patience))[1]
	t.Cleanup(func() { endSpares(t) })
	lan := host.NewLAN(t)
	port := lan.Port("spare")
	port.Plug("eth0", 1400, "10.99.0.2/24", "fd99::2/64")
	plugged := port.Links()

	first := start(t, spared(file), sleeper...)
	spare := awaitSpare(t)
	vmm := findVMM(spare)
	if findShim(first.ID()) == spare || vmm == 0 {
		t.Fatalf("spare %d, VMM %d", spare, vmm)
	}

	mounted := filepath.Join(t.TempDir(), "file")
	write(t, mounted, "content")
	c := contract{start(t, spared(file,
		oci.WithMounts([]specs.Mount{bind(mounted, "/file", "ro")}),
		oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: port.Path}),
		oci.WithCgroup("/"+harness.Namespace+"/spare"),
	), sleeper...), ""}
	t.Run("used", func(t *testing.T) { checkUsed(t, c.on(t), spare, vmm) })

	next := awaitSpare(t, spare)
	var listed []struct {
		Pid      int
		State    string
		Resident int64
	}
	if code := msbctlJSON(t, &listed, "spare", "ls", "--address", host.Address()); code != 0 || len(listed) != 1 ||
		listed[0].Pid != next || listed[0].State != "waiting" || listed[0].Resident < 32<<20 {
		t.Errorf("spare ls: code %d, %+v, and %d waits", code, listed, next)
	}
	t.Run("of another size", func(t *testing.T) {
		large := start(t, spared(file, oci.WithMemoryLimit(128<<20)), sleeper...)
		if shim := shimOf(t, large.ID()); shim == next || len(host.Spares()) == 0 {
			t.Errorf("a container of another size has shim %d; spares are %v", shim, host.Spares())
		}
	})
	t.Run("of what takes none", func(t *testing.T) {
		c := start(t, spared(file, oci.WithHostNamespace(specs.NetworkNamespace)), sleeper...)
		if shim := shimOf(t, c.ID()); shim == next || !slices.Contains(host.Spares(), next) {
			t.Errorf("a container with the host's network has shim %d, the spare was %d, and spares are %v", shim, next, host.Spares())
		}
	})
	t.Run("killed while it waits", func(t *testing.T) {
		vmm, before := findVMM(next), host.Spares()
		if err := unix.Kill(next, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "its VMM to be gone", func() bool { return unix.Kill(vmm, 0) != nil })
		c := start(t, spared(file), sleeper...)
		if shim := shimOf(t, c.ID()); shim == next {
			t.Error("a dead spare was used")
		}
		awaitSpare(t, before...)
		// Who makes the next spare takes it away. The one that has come may have been made before.
		waitFor(t, "what the dead one has left to be gone", func() bool {
			left, _ := filepath.Glob(host.SpareDir(strconv.Itoa(next)))
			return len(left) == 0
		})
	})
	t.Run("killed when it is used", func(t *testing.T) {
		if err := unix.Kill(spare, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		ended(t, c.exit) // or its end is not known
		waitFor(t, "its VMM to be gone", func() bool { return unix.Kill(vmm, 0) != nil })
		waitFor(t, "its directory to be gone", func() bool {
			left, _ := filepath.Glob(host.SpareDir(strconv.Itoa(spare)))
			return len(left) == 0
		})
		waitFor(t, "its network to be gone", func() bool { return slices.Equal(port.Links(), plugged) })
	})
	t.Run("drained", func(t *testing.T) { drain(t, first) })
}

// drain has msbctl end the spares. Containers keep what they have: neither they nor what has
// just become theirs is asked.
func drain(t *testing.T, containers ...*task) {
	waitFor(t, "spares to end", func() bool {
		if _, stderr, code := msbctl(t, "spare", "drain", "--address", host.Address()); code != 0 {
			t.Errorf("spare drain: code %d, %q", code, stderr)
		}
		return len(host.AllSpares()) == 0
	})
	for _, c := range containers {
		shimOf(t, c.ID())
	}
}

// checkUsed wants a container to have a spare, whole.
func checkUsed(t *testing.T, c contract, spare, vmm int) {
	if shim := shimOf(t, c.ID()); shim != spare || findVMM(shim) != vmm {
		t.Fatalf("the shim is %d, with VMM %d, and the spare was %d, with %d", shim, findVMM(shim), spare, vmm)
	}
	if got := c.must("cat /file; ls /proc | grep -c '^[0-9]'"); !strings.HasPrefix(got, "content") {
		t.Errorf("the file: %q", got)
	}
	if got := c.must("grep -c ' /file ' /proc/self/mountinfo; grep -c msb-warm /proc/1/cgroup || true"); got != "1\n0" {
		t.Errorf("mounts of the file, control groups of others: %q", got)
	}
	c.ping(harness.BridgeAddress)
	if got := c.must("cat /sys/class/net/eth0/mtu"); got != "1400" {
		t.Errorf("the MTU is %s", got)
	}
	for _, pid := range append(descendants(spare), spare) {
		name := content(t, fmt.Sprintf("/proc/%d/comm", pid))
		if strings.HasPrefix(name, "msb-placeholder") {
			continue // it stands for the container, outside
		}
		if groups := content(t, fmt.Sprintf("/proc/%d/cgroup", pid)); !strings.Contains(groups, "/"+harness.Namespace+"/spare") {
			t.Errorf("%d %s is not in the container's control group:\n%s", pid, strings.TrimSpace(name), groups)
		}
		if got, want := priority(t, pid), priority(t, host.Pid()); got != want {
			t.Errorf("%d %s has the priority %s, and containerd %s", pid, strings.TrimSpace(name), got, want)
		}
	}
}

// priority is a process's nice value.
func priority(t *testing.T, pid int) string {
	t.Helper()
	_, stat, _ := strings.Cut(content(t, fmt.Sprintf("/proc/%d/stat", pid)), ") ")
	const nice = 19 - 3 // proc_pid_stat(5), of the fields from the third on
	return strings.Fields(stat)[nice]
}

// descendants are all processes below a shim, but for spares that it has made, and theirs.
func descendants(pid int) (all []int) {
	for _, child := range children(pid) {
		if harness.Processes()[child] == "containerd-shim" {
			continue
		}
		all = append(append(all, child), descendants(child)...)
	}
	return all
}
