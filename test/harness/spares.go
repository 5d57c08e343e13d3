package harness

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// sparesEnv is how many spare VMs are kept ready (spare.count), for tests that know nothing of
// them. Without it there are none.
const sparesEnv = "MSB_SPARES"

// spareRun is the directory of the runtime's spares; see shim/spare.
const spareRun = "/run/msb"

// IsSpare tells whether a process is a spare that no start was handed over to, or runs for
// one. From then on it is a shim's as any other.
func IsSpare(pid int) bool {
	_, rest, _ := strings.Cut(shimOf(pid), "\x00")
	return strings.HasPrefix(rest, "spare\x00")
}

// SpareDir is a pattern for the directory of a spare, or of all, where containerd has it.
func (h *Host) SpareDir(pid string) string {
	return fmt.Sprintf("/proc/%d/root%s/spares/*/*-%s", h.Pid(), spareRun, pid)
}

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
	for pid, name := range Processes() {
		if strings.HasPrefix(name, "containerd-shim") && h.isSpare(pid) {
			pids = append(pids, pid)
		}
	}
	return pids
}

func (h *Host) isSpare(pid int) bool { return IsSpare(pid) && !h.isOthers(pid) }

// EndSpares has the spares end in order, and waits until they have. It is for tests that count
// what spares have, too. While a container starts there may be new ones.
func (h *Host) EndSpares() error { return h.awaitNoSpares(unix.SIGTERM) }

// awaitNoSpares waits until there are no spares, whose processes get some signals.
func (h *Host) awaitNoSpares(signals ...unix.Signal) error {
	gone := Eventually(func() bool {
		spares := h.AllSpares()
		for _, pid := range spares {
			for _, signal := range signals {
				_ = unix.Kill(pid, signal)
			}
		}
		return len(spares) == 0
	})
	if !gone {
		return fmt.Errorf("spares %v do not end", h.AllSpares())
	}
	return nil
}

// SettleSpares waits for spares that boot, so that the VM of the next container is one of them,
// where tests that know nothing of spares are run with some.
func (h *Host) SettleSpares() {
	if os.Getenv(sparesEnv) == "" {
		return
	}
	Eventually(func() bool {
		waiting := h.Spares()
		return !slices.ContainsFunc(h.AllSpares(), func(pid int) bool { return !slices.Contains(waiting, pid) })
	})
}

// usedSpares are the directories of spares that a start was handed over to, whose shim takes
// them away. What a spare has left that died while it waited, the next one takes away. Outside
// of Main they are not known: the directory is everybody's.
func usedSpares() (dirs []string) {
	if os.Getenv(Private) == "" {
		return nil
	}
	all, _ := filepath.Glob(filepath.Join(spareRun, "spares", "*", "*-*"))
	for _, dir := range all {
		if _, err := os.Stat(filepath.Join(dir, "waiting")); errors.Is(err, fs.ErrNotExist) {
			dirs = append(dirs, dir)
		}
	}
	return dirs
}

// tellSpares says how many of the VMs were spares, if the tests are run with some.
func (h *Host) tellSpares() {
	if os.Getenv(sparesEnv) == "" {
		return
	}
	log := h.Log()
	used, booted := strings.Count(log, "phase=spare "), strings.Count(log, "phase=\"guest boot\" ")
	fmt.Printf("spares: %d of %d VMs were spares\n", used, used+booted)
}
