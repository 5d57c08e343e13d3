package survey

import (
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"time"

	"github.com/msb-runtime/containerd-shim-msb/shim/spare"
)

// A Spare is a VM that waits to be used, or what is left of one.
type Spare struct {
	Pid    int         `json:"pid"`
	State  spare.State `json:"state"`
	CPUs   int         `json:"cpus"`
	Memory int64       `json:"memory"` // of the guest, in bytes
	// Resident is what its processes have of the host's memory, in bytes. What they share
	// counts once, and what they share with others in part.
	Resident int64 `json:"resident"`
	// Started is when it began to boot; nil if it is dead.
	Started *time.Time `json:"started,omitempty"`
	// Containerd is the address of the one whose containers it is for; empty if it is dead.
	Containerd string `json:"containerd,omitempty"`
	Dir        string `json:"dir"`

	listed spare.Listed
}

// Spares are those below a root, of the containerd that has an address; an empty one means
// all. Whose a dead one was is not known.
func (h Host) Spares(root, address string) ([]Spare, error) {
	all, err := spare.List(root)
	if err != nil {
		return nil, err
	}
	boot := h.bootTime()
	found := []Spare{}
	for _, l := range all {
		if address != "" && l.State != spare.Dead && l.Address != address {
			continue
		}
		s := Spare{Pid: l.Pid, State: l.State, CPUs: l.Size.CPUs, Memory: l.Size.Memory, Containerd: l.Address, Dir: l.Dir, listed: l}
		if p := h.process(l.Pid); p != nil && l.State != spare.Dead {
			started := boot.Add(ticks(p.start))
			pids := []int{l.Pid}
			for _, below := range h.Descendants(l.Pid) {
				pids = append(pids, below.Pid)
			}
			s.Started, s.Resident = &started, h.memoryOf(pids)
		}
		found = append(found, s)
	}
	return found, nil
}

// memoryOf is what processes have of the host's memory, in bytes: each the share of it that is
// its own (proc_pid_smaps(5), Pss).
func (h Host) memoryOf(pids []int) (bytes int64) {
	for _, pid := range pids {
		sums, _ := os.ReadFile(filepath.Join(h.Proc, strconv.Itoa(pid), "smaps_rollup"))
		for line := range strings.Lines(string(sums)) {
			var kib int64
			if n, _ := fmt.Sscanf(line, "Pss: %d kB", &kib); n == 1 {
				bytes += kib << 10
			}
		}
	}
	return bytes
}
