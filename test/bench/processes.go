package main

import (
	"fmt"
	"os"
	"strings"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// processesOf are the processes of the VM of a container or pod, by id and name: the shim and
// those that it has started.
func processesOf(host *harness.Host, id string) (map[int]string, error) {
	all := harness.Processes()
	for pid, name := range all {
		if name == "containerd-shim" && isShimOf(host, pid, id) {
			found := make(map[int]string)
			for other, name := range all {
				if isBelow(other, pid) {
					found[other] = name
				}
			}
			return found, nil
		}
	}
	return nil, fmt.Errorf("%s has no shim", id)
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

// processorTime is what the processes of a VM have taken of the processors, in seconds
// (proc_pid_stat(5): utime and stime, in ticks, of which Linux has 100 in a second).
func processorTime(host *harness.Host, id string) (seconds float64, err error) {
	processes, err := processesOf(host, id)
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
	return seconds, err
}
