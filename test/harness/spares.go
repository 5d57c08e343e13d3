package harness

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// Spares are the processes of this containerd's spare VMs that wait for a start.
func (h *Host) Spares() (pids []int) {
	for _, pid := range h.AllSpares() {
		if sockets, _ := filepath.Glob(h.SpareDir(strconv.Itoa(pid)) + "/socket"); len(sockets) == 1 {
			pids = append(pids, pid)
		}
	}
	return pids
}

// AllSpares are those, and the ones that boot.
func (h *Host) AllSpares() (pids []int) {
	for pid, name := range Processes() {
		command, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if strings.HasPrefix(name, "containerd-shim") && strings.Contains(string(command), "-address\x00"+h.Address()+"\x00spare\x00") {
			pids = append(pids, pid)
		}
	}
	return pids
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
