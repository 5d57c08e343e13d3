package spare

import (
	"bufio"
	"fmt"
	"os"
	"strconv"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
)

// hasMemory tells whether the host has so many bytes of memory for another VM
// (proc_meminfo(5), MemAvailable). It has, where nobody can say.
func hasMemory(bytes int64) bool {
	file, err := os.Open("/proc/meminfo")
	if err != nil {
		return true
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		var available int64
		if n, _ := fmt.Sscanf(lines.Text(), "MemAvailable: %d kB", &available); n == 1 {
			return available<<10 > bytes
		}
	}
	return true
}

// renice gives all threads of a process and of its descendants a priority (setpriority(2)). A
// thread that is made meanwhile has that of the one which makes it, so it is done twice.
func renice(pid, nice int) error {
	for range 2 {
		below, err := sandbox.Descendants(pid)
		if err != nil {
			return err
		}
		for _, pid := range append(below, pid) {
			threads, _ := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid)) // it may have ended
			for _, thread := range threads {
				if tid, err := strconv.Atoi(thread.Name()); err == nil {
					_ = unix.Setpriority(unix.PRIO_PROCESS, tid, nice)
				}
			}
		}
	}
	return nil
}

// Nice is the priority of this process.
func Nice() int {
	// The system call answers 20 minus the priority, which so is never negative.
	raw, err := unix.Getpriority(unix.PRIO_PROCESS, 0)
	if err != nil {
		return 0
	}
	return 20 - raw
}
