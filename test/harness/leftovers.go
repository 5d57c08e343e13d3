package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Leftovers is what containers could leave behind on the host.
type Leftovers map[string]bool

// vmms are the names of the drivers' VMMs, cut at 15 bytes as the kernel does.
var vmms = map[string]string{"qemu": "qemu-system-x86", "krun": "libkrun VM"}

// processNames are the names of what runs for a container; msb-krun is the VMM
// before libkrun names it.
var processNames = []string{"containerd-shim", "virtiofsd", "msb-shield", "msb-placeholder", "msb-krun", vmms["qemu"], vmms["krun"]}

// VMM is the name of the process that runs a VM under the driver under test.
func (h *Host) VMM() string { return vmms[h.Driver] }

// Leftovers lists the processes, mounts, loop devices, directories and sockets that are
// there now, but for spares that no start was handed over to, and what runs for them.
func (h *Host) Leftovers() Leftovers {
	left := make(Leftovers)
	for pid, name := range Processes() {
		if h.isOthers(pid) || IsSpare(pid) {
			continue
		}
		left[fmt.Sprintf("process %d %s", pid, name)] = true
	}
	// containerd's mounts may be its own.
	root := fmt.Sprintf("/proc/%d/root", h.Pid())
	mounts, _ := Mounts(h.Pid(), nil)
	for _, m := range mounts {
		what := fmt.Sprintf("mount %d on %d: %s of %s %s at %s, %s, %s", m.ID, m.Parent, m.Root, m.FSType, m.Source, m.Mountpoint, m.Options, m.VFSOptions)
		if strings.Contains(what, h.Dir) || strings.Contains(what, "msb") {
			left[what] = true
		}
	}
	for _, dir := range usedSpares() {
		left["path "+dir] = true
	}
	for _, device := range loopDevices(h.Dir) {
		left[device] = true
	}
	for _, pattern := range []string{
		h.Bundle("*"), filepath.Join(h.state(), "io.containerd.runtime.v2.task", KubernetesNamespace, "*"),
		filepath.Join(h.state(), "io.containerd.sandbox.controller.v1.shim", KubernetesNamespace, "*"), root + "/run/containerd/s/*", filepath.Join(h.temporary(), "msb-*"),
		root + "/run/containerd/fifo/*",
		// Control groups of containers, in version 2 and in each hierarchy of 1.
		filepath.Join("/sys/fs/cgroup", Namespace, "*/cgroup.procs"), filepath.Join("/sys/fs/cgroup/*", Namespace, "*/cgroup.procs"),
		filepath.Join("/sys/fs/cgroup", h.PodsCgroup(), "*/cgroup.procs"), filepath.Join("/sys/fs/cgroup/*", h.PodsCgroup(), "*/cgroup.procs"),
	} {
		paths, _ := filepath.Glob(pattern)
		for _, path := range paths {
			left["path "+strings.TrimPrefix(path, root)] = true
		}
	}
	return left
}

// Processes are the shims, VMMs and file servers that run, by process id.
func Processes() map[int]string {
	found := make(map[int]string)
	stats, _ := filepath.Glob("/proc/[0-9]*/stat")
	for _, file := range stats {
		data, err := os.ReadFile(file)
		if err != nil {
			continue
		}
		var pid int
		_, _ = fmt.Sscan(string(data), &pid)
		open, end := strings.IndexByte(string(data), '('), strings.LastIndexByte(string(data), ')')
		if open < 0 || end+2 >= len(data) {
			continue
		}
		name, state := string(data[open+1:end]), data[end+2]
		if state != 'Z' && slices.Contains(processNames, name) && !othersQEMU(pid, name) {
			found[pid] = name
		}
	}
	return found
}

// isOthers tells a process of another containerd.
func (h *Host) isOthers(pid int) bool {
	if address := containerdOf(pid); address != "" {
		return address != h.Address()
	}
	return slices.ContainsFunc(Owners(), func(o Owner) bool { return o.Dir != h.Dir && o.Has(pid) })
}

// containerdOf is the address of the containerd that a process belongs to. It is empty for
// what has no shim.
func containerdOf(pid int) string {
	address, _, _ := strings.Cut(shimOf(pid), "\x00")
	return address
}

// shimOf is what the arguments of a process's shim, which is it or what it comes from, have
// from containerd's address on. It is empty for what has no shim.
func shimOf(pid int) string {
	for ; pid > 1; pid = parent(pid) {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if _, rest, isShim := strings.Cut(string(line), "\x00-address\x00"); isShim {
			return rest
		}
	}
	return ""
}

// parent is a process's, or 0.
func parent(pid int) (ppid int) {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := strings.Cut(string(status), "\nPPid:\t")
	_, _ = fmt.Sscan(rest, &ppid)
	return ppid
}

// othersQEMU tells a QEMU that has nothing to do with a shim: it sees the host.
func othersQEMU(pid int, name string) bool {
	if !strings.HasPrefix(name, "qemu") {
		return false
	}
	its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	return err == nil && its == hostMounts()
}

// Descriptors is the number of open descriptors of a process.
func Descriptors(pid int) int {
	entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return len(entries)
}

// New returns what is there now and was not before, waiting for what is just going. What
// has one of the ignored texts in it is left out.
func (h *Host) New(before Leftovers, ignored ...string) []string {
	var more []string
	Eventually(func() bool {
		more = more[:0]
		for what := range h.Leftovers() {
			if !before[what] && !slices.ContainsFunc(ignored, func(text string) bool { return strings.Contains(what, text) }) {
				more = append(more, what)
			}
		}
		return len(more) == 0
	})
	slices.Sort(more)
	return more
}
