package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Spares are the processes of this containerd's spare VMs that wait for a start. To look for
// them takes little: they boot with a low priority, and who waits for them is not to hold them up.
func (h *Host) Spares() (pids []int) {
	sockets, _ := filepath.Glob(h.SpareDir("*") + "/socket")
	for _, socket := range sockets {
		dir := filepath.Dir(socket)
		if pid, err := strconv.Atoi(dir[strings.LastIndexByte(dir, '-')+1:]); err == nil && h.isSpare(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

// AllSpares are those, and the ones that boot.
func (h *Host) AllSpares() (pids []int) {
	for pid := range Processes() {
		if h.isSpare(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (h *Host) isSpare(pid int) bool {
	command, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
	return strings.Contains(string(command), "-address\x00"+h.Address()+"\x00spare\x00")
}

// SpareDir is a pattern for the directory of a spare, or of all, where containerd has it.
func (h *Host) SpareDir(pid string) string {
	return fmt.Sprintf("/proc/%d/root/run/msb/spares/*/*-%s", h.Pid(), pid)
}

// EndSpares has them end in order, and tells whether they have.
func (h *Host) EndSpares() bool {
	return Eventually(func() bool {
		all := h.AllSpares()
		for _, pid := range all {
			_ = unix.Kill(pid, unix.SIGTERM)
		}
		return len(all) == 0
	})
}
