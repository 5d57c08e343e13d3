package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// processesOf are the processes of the VM of a container or pod, by id and name: the shim and
// those that it has started.
func processesOf(host *harness.Host, id string) (map[int]string, error) {
	for pid, name := range harness.Processes() {
		if name == "containerd-shim" && isShimOf(host, pid, id) {
			return below(pid), nil
		}
	}
	return nil, fmt.Errorf("%s has no shim", id)
}

// below are a shim and those that it has started.
func below(shim int) map[int]string {
	all := harness.Processes()
	for pid := range all {
		if !isBelow(pid, shim) {
			delete(all, pid)
		}
	}
	return all
}

func isShimOf(host *harness.Host, pid int, id string) bool {
	line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.Contains(string(line), "\x00-id\x00"+id+"\x00") && strings.Contains(string(line), host.Address())
}

// isBelow tells whether a process is another, or was started by it or by what that has started.
func isBelow(pid, ancestor int) bool {
	for pid > 1 && pid != ancestor {
		status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
		_, parent, _ := strings.Cut(string(status), "\nPPid:")
		pid = 0
		_, _ = fmt.Sscan(parent, &pid)
	}
	return pid == ancestor
}

// processorTime is what processes have taken of the processors, in seconds (proc_pid_stat(5):
// utime and stime, in ticks, of which Linux has 100 in a second).
func processorTime(processes map[int]string) (seconds float64) {
	for pid := range processes {
		stat, _ := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
		fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+1:]))
		if len(fields) < 13 {
			continue // it has ended
		}
		var user, system float64
		_, _ = fmt.Sscan(fields[11]+" "+fields[12], &user, &system)
		seconds += (user + system) / 100
	}
	return seconds
}

// waits is how often the threads of processes have gone to sleep, and so were woken up
// (proc_pid_status(5)).
func waits(processes map[int]string) (times float64) {
	for pid := range processes {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/status", pid))
		for _, thread := range threads {
			status, _ := os.ReadFile(thread)
			_, rest, _ := strings.Cut(string(status), "\nvoluntary_ctxt_switches:")
			var n float64
			_, _ = fmt.Sscan(rest, &n)
			times += n
		}
	}
	return times
}

// proportion is a process's part of the host's memory (proc_pid_smaps(5)): what
// it shares with others, divided by how many they are, and what it has alone.
func proportion(pid int) (shared, private float64) {
	rollup, _ := os.ReadFile(fmt.Sprintf("/proc/%d/smaps_rollup", pid))
	for line := range strings.Lines(string(rollup)) {
		var name string
		var kib float64
		_, _ = fmt.Sscanf(line, "%s %f kB", &name, &kib)
		switch name {
		case "Pss:":
			shared += kib / 1024
		case "Private_Clean:", "Private_Dirty:":
			private += kib / 1024
		}
	}
	return shared - private, private
}
