package sandbox

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Descendants are the ids of all processes that a process has started, and of those that they
// have (proc_pid_task(5), children). Of a shim whose VM nobody uses yet these are the VMM and
// its file servers.
func Descendants(pid int) (pids []int, err error) {
	threads, err := os.ReadDir(fmt.Sprintf("/proc/%d/task", pid))
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	for _, thread := range threads {
		children, err := os.ReadFile(fmt.Sprintf("/proc/%d/task/%s/children", pid, thread.Name()))
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ESRCH) {
			continue // it has ended
		}
		if err != nil {
			return nil, err
		}
		for _, field := range strings.Fields(string(children)) {
			child, err := strconv.Atoi(field)
			if err != nil {
				return nil, err
			}
			below, err := Descendants(child)
			if err != nil {
				return nil, err
			}
			pids = append(append(pids, child), below...)
		}
	}
	return pids, nil
}
