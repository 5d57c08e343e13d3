package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

// Leftovers is what containers could leave behind on the host.
type Leftovers map[string]bool

// vmms are the names of the drivers' VMMs, cut at 15 bytes as the kernel does.
var vmms = map[string]string{"qemu": "qemu-system-x86", "krun": "libkrun VM"}

// processNames are the names of what runs for a container; msb-krun is the VMM
// before libkrun names it.
var processNames = []string{"containerd-shim", "virtiofsd", "msb-shield", "msb-anchor", "msb-krun", vmms["qemu"], vmms["krun"]}

// VMM is the name of the process that runs a VM under the driver under test.
func (h *Host) VMM() string { return vmms[h.Driver] }

// Leftovers lists the processes, mounts, directories and sockets that are there
// now, and the number of containerd's open descriptors.
func (h *Host) Leftovers() Leftovers {
	left := make(Leftovers)
	for pid, name := range Processes() {
		if h.isOthersShim(pid, name) {
			continue
		}
		left[fmt.Sprintf("process %d %s", pid, name)] = true
	}
	// containerd's mounts may be its own.
	root := fmt.Sprintf("/proc/%d/root", h.Pid())
	mounts, _ := os.ReadFile(fmt.Sprintf("/proc/%d/mountinfo", h.Pid()))
	for line := range strings.Lines(string(mounts)) {
		if strings.Contains(line, h.Dir) || strings.Contains(line, "msb") {
			left["mount "+strings.TrimSpace(line)] = true
		}
	}
	for _, pattern := range []string{
		h.Bundle("*"), filepath.Join(h.state(), "io.containerd.runtime.v2.task", KubernetesNamespace, "*"),
		filepath.Join(h.state(), "io.containerd.sandbox.controller.v1.shim", KubernetesNamespace, "*"), root + "/run/containerd/s/*", filepath.Join(os.TempDir(), "msb-[0-9]*"),
		root + "/run/containerd/fifo/*",
		// Control groups of containers, in version 2 and in each hierarchy of 1.
		filepath.Join("/sys/fs/cgroup", Namespace, "*/cgroup.procs"), filepath.Join("/sys/fs/cgroup/*", Namespace, "*/cgroup.procs"),
		filepath.Join("/sys/fs/cgroup", PodsCgroup, "*/cgroup.procs"), filepath.Join("/sys/fs/cgroup/*", PodsCgroup, "*/cgroup.procs"),
	} {
		paths, _ := filepath.Glob(pattern)
		for _, path := range paths {
			left["path "+path] = true
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

// isOthersShim tells the shim of another containerd: it has that one's address among
// its arguments.
func (h *Host) isOthersShim(pid int, name string) bool {
	line, err := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return err == nil && name == "containerd-shim" && strings.Contains(string(line), "-address") && !strings.Contains(string(line), h.Address())
}

// othersQEMU tells a QEMU that has nothing to do with a shim: it sees the host.
func othersQEMU(pid int, name string) bool {
	if !strings.HasPrefix(name, "qemu") {
		return false
	}
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		return false
	}
	its, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	return err == nil && its == own
}

// Descriptors is the number of open descriptors of a process.
func Descriptors(pid int) int {
	entries, _ := os.ReadDir(fmt.Sprintf("/proc/%d/fd", pid))
	return len(entries)
}

// New returns what is there now and was not before, waiting a moment for what is
// just going.
func (h *Host) New(before Leftovers) []string {
	var more []string
	for deadline := time.Now().Add(5 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		more = more[:0]
		for what := range h.Leftovers() {
			if !before[what] {
				more = append(more, what)
			}
		}
		if len(more) == 0 || time.Now().After(deadline) {
			slices.Sort(more)
			return more
		}
	}
}
