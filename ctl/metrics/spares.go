package metrics

import (
	"github.com/msb-runtime/containerd-shim-msb/shim/spare"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
)

// A waiting is the VMs of a size that wait.
type waiting struct {
	count  int
	memory int64
}

// waiting are the VMs that wait to be used. Those that boot yet, and what dead ones have left,
// are not among them.
func (s Source) waiting() (map[spec.Size]waiting, error) {
	listed, err := s.Spares()
	all := map[spec.Size]waiting{}
	for _, l := range listed {
		if l.State != spare.Waiting {
			continue
		}
		w := all[l.Size]
		w.count++
		w.memory += s.memory(l.Pid)
		all[l.Size] = w
	}
	return all, err
}

// memory is what a process and those that it has started have. Shared memory is the guest's,
// which all of them map.
func (s Source) memory(pid int) (bytes int64) {
	processes := s.Descendants(pid)
	if p := s.Process(pid); p != nil {
		processes = append(processes, *p)
	}
	var shared int64
	for _, p := range processes {
		u, _ := s.use(p)
		bytes += u.anonymous + u.file
		shared = max(shared, u.shared)
	}
	return bytes + shared
}
