package collect

import (
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"github.com/msb-runtime/containerd-shim-msb/ctl/survey"
	"github.com/msb-runtime/containerd-shim-msb/shim/spare"
)

// A family is the processes of a sandbox or of a spare: its shim first.
type family struct {
	// Of is the namespace and id of the sandbox, or the directory of the spare.
	Of        string    `json:"of"`
	Processes []process `json:"processes"`
}

// A process is what is told of one. Neither its arguments nor its environment are.
type process struct {
	Pid  int    `json:"pid"`
	Name string `json:"name"`
	// Program is the name of the file that it runs.
	Program string `json:"program,omitempty"`
	// Waits is where in the kernel it does (proc_pid_wchan(5)).
	Waits  string            `json:"waits,omitempty"`
	Status map[string]string `json:"status"`
	// Limits are lines of proc_pid_limits(5), Cgroups of proc_pid_cgroup(5).
	Limits      []string `json:"limits"`
	Cgroups     []string `json:"cgroups"`
	OOMScoreAdj string   `json:"oom_score_adj,omitempty"`
	// Descriptors is how many it has open.
	Descriptors int `json:"descriptors"`
}

// told are the fields of proc_pid_status(5) that are.
var told = strings.Fields(`State PPid TracerPid Uid Gid FDSize Threads
	VmPeak VmSize VmLck VmPin VmHWM VmRSS RssAnon RssFile RssShmem VmData VmSwap
	SigQ SigPnd ShdPnd SigBlk SigIgn SigCgt CapInh CapPrm CapEff CapBnd CapAmb NoNewPrivs Seccomp Seccomp_filters
	Cpus_allowed_list Mems_allowed_list voluntary_ctxt_switches nonvoluntary_ctxt_switches`)

// families are the processes of sandboxes and spares.
func (s Source) families(sandboxes []survey.Inspection, spares []survey.Spare) []family {
	families := []family{}
	for _, i := range sandboxes {
		f := family{i.Namespace + "/" + i.ID, []process{}}
		if i.Shim != nil {
			f.Processes = s.tree(i.Shim.Pid)
		}
		if i.VMM != nil && !slices.ContainsFunc(f.Processes, func(p process) bool { return p.Pid == i.VMM.Pid }) {
			f.Processes = append(f.Processes, s.tree(i.VMM.Pid)...)
		}
		families = append(families, f)
	}
	for _, one := range spares {
		f := family{one.Dir, []process{}}
		if one.State != spare.Dead {
			f.Processes = s.tree(one.Pid)
		}
		families = append(families, f)
	}
	return families
}

// tree is a process and all below it (survey.Host.Descendants). Those that have ended meanwhile
// are left out.
func (s Source) tree(pid int) []process {
	all := []process{}
	for _, one := range append([]survey.Process{{Pid: pid}}, s.Host.Descendants(pid)...) {
		if p, there := s.process(one.Pid); there {
			all = append(all, p)
		}
	}
	return all
}

func (s Source) proc(pid int, name string) string {
	return filepath.Join(s.Host.Proc, strconv.Itoa(pid), name)
}

// read is a file of a process; empty if there is none.
func (s Source) read(pid int, name string) string {
	data, _ := os.ReadFile(s.proc(pid, name))
	return string(data)
}

func (s Source) process(pid int) (p process, there bool) {
	p = process{Pid: pid, Status: map[string]string{}, Limits: []string{}, Cgroups: []string{}}
	for line := range strings.Lines(s.read(pid, "status")) {
		name, value, _ := strings.Cut(strings.TrimSpace(line), ":")
		switch {
		case name == "Name":
			p.Name = strings.TrimSpace(value)
		case slices.Contains(told, name):
			p.Status[name] = strings.Join(strings.Fields(value), " ")
		}
	}
	for line := range strings.Lines(s.read(pid, "limits")) {
		p.Limits = append(p.Limits, strings.Join(strings.Fields(line), " "))
	}
	for line := range strings.Lines(s.read(pid, "cgroup")) {
		p.Cgroups = append(p.Cgroups, strings.TrimSpace(line))
	}
	if program, err := os.Readlink(s.proc(pid, "exe")); err == nil {
		p.Program = filepath.Base(program)
	}
	p.Waits, p.OOMScoreAdj = s.read(pid, "wchan"), strings.TrimSpace(s.read(pid, "oom_score_adj"))
	descriptors, _ := os.ReadDir(s.proc(pid, "fd"))
	p.Descriptors = len(descriptors)
	return p, len(p.Status) > 0
}
