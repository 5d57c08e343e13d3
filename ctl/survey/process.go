package survey

import (
	"cmp"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/moby/sys/mountinfo"

	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
)

// perSecond is how many ticks a second has in proc(5), on every architecture of this runtime
// (USER_HZ).
const perSecond = 100

func ticks(n int64) time.Duration { return time.Duration(n) * time.Second / perSecond }

// bootTime is when the host was booted.
func (h Host) bootTime() time.Time {
	stat, _ := os.ReadFile(filepath.Join(h.Proc, "stat"))
	for line := range strings.Lines(string(stat)) {
		if text, found := strings.CutPrefix(line, "btime "); found {
			seconds, _ := strconv.ParseInt(strings.TrimSpace(text), 10, 64)
			return time.Unix(seconds, 0)
		}
	}
	return time.Time{}
}

// process is one of the host's, nil if it is not there.
func (h Host) process(pid int) *Process {
	if pid <= 0 {
		return nil
	}
	stat, err := os.ReadFile(filepath.Join(h.Proc, strconv.Itoa(pid), "stat"))
	if err != nil {
		return nil
	}
	return parseStat(pid, string(stat))
}

// parseStat reads a line of proc_pid_stat(5). The second field may have spaces and brackets.
func parseStat(pid int, stat string) *Process {
	open, end := strings.IndexByte(stat, '('), strings.LastIndexByte(stat, ')')
	if open < 0 || end < open {
		return nil
	}
	const state, parent, user, system, start, resident = 0, 4 - 3, 14 - 3, 15 - 3, 22 - 3, 24 - 3
	fields := strings.Fields(stat[end+1:])
	if len(fields) <= resident || fields[state] == "Z" {
		return nil
	}
	p := &Process{Pid: pid, Name: stat[open+1 : end]}
	p.start, _ = strconv.ParseInt(fields[start], 10, 64)
	pages, _ := strconv.ParseInt(fields[resident], 10, 64)
	p.Resident = pages * int64(os.Getpagesize())
	p.Parent, _ = strconv.Atoi(fields[parent])
	for _, field := range []int{user, system} {
		n, _ := strconv.ParseInt(fields[field], 10, 64)
		p.CPU += ticks(n)
	}
	return p
}

// Process is one of the host's by its id; nil if it is not there.
func (h Host) Process(pid int) *Process { return h.process(pid) }

// Processes are those that the shim of a sandbox has started, and those that they have: VMM,
// file servers, and the others of the host's side.
func (h Host) Processes(s Sandbox) []Process {
	if s.Shim == nil {
		return nil
	}
	all := h.Descendants(s.Shim.Pid)
	slices.SortFunc(all, func(a, b Process) int { return a.Pid - b.Pid })
	return all
}

// maxProcesses is how many processes of a sandbox are looked at. It has a dozen, and a few for
// each container.
const maxProcesses = 1000

// Descendants are the processes that one has started, and those that they have
// (proc_pid_task(5), children). A shim starts spares, too, which become the shims of others:
// what runs the same program as the first is not followed.
func (h Host) Descendants(pid int) (all []Process) {
	program, name := h.program(pid), ""
	if first := h.process(pid); first != nil {
		name = first.Name
	}
	// other tells whether a process is no such shim. Its program tells, where it can be read: a
	// process chooses its own name.
	other := func(p *Process) bool {
		if program == "" {
			return p.Name != name
		}
		return h.program(p.Pid) != program
	}
	for next := []int{pid}; len(next) > 0; next = next[1:] {
		tasks := filepath.Join(h.Proc, strconv.Itoa(next[0]), "task")
		threads, _ := os.ReadDir(tasks) // none, of a process that has ended meanwhile
		for _, thread := range threads {
			pids, _ := os.ReadFile(filepath.Join(tasks, thread.Name(), "children"))
			for _, text := range strings.Fields(string(pids)) {
				pid, _ := strconv.Atoi(text)
				if p := h.process(pid); p != nil && other(p) {
					all, next = append(all, *p), append(next, pid)
				}
				if len(all) == maxProcesses {
					return all
				}
			}
		}
	}
	return all
}

// program is the name of the file that a process runs (proc_pid_exe(5)); empty if that is not known. Its
// own name a process may change: who owns a file server would not be counted by that of the shim. A
// file that was replaced since, by an upgrade, has the same name.
func (h Host) program(pid int) string {
	path, err := os.Readlink(filepath.Join(h.Proc, strconv.Itoa(pid), "exe"))
	if err != nil {
		return ""
	}
	return strings.TrimSuffix(filepath.Base(path), " (deleted)")
}

// A Share is something of the host's that a VM is given.
type Share struct {
	// Name is by what the guest knows it.
	Name string `json:"name"`
	// Kind is root file system, directory or file.
	Kind string `json:"kind"`
	// FileSystem is the type of what it is on, and Path where it is there. A file that the
	// guest may write is on the shield's, which shows its name alone.
	FileSystem string `json:"file_system"`
	Path       string `json:"path"`
	ReadOnly   bool   `json:"read_only"`
}

// kinds are by the beginnings of the shares' names.
var kinds = map[string]string{"rf": "root file system", "dm": "directory", "fm": "file"}

// Shares are what a sandbox's VM is given, as it is mounted in the shim's namespace: below the
// bundle, or below the directory of the spare that the VM was. What is mounted below a directory
// goes with it.
func (h Host) Shares(s Sandbox) (shares []Share) {
	if s.Shim == nil {
		return nil
	}
	file, err := os.Open(filepath.Join(h.Proc, strconv.Itoa(s.Shim.Pid), "mountinfo"))
	if err != nil {
		return nil
	}
	defer file.Close()
	trees := filepath.Join(cmp.Or(s.Spare, s.Bundle), sandbox.TreesDir) + "/"
	mounts, _ := mountinfo.GetMountsFromReader(file, mountinfo.PrefixFilter(strings.TrimSuffix(trees, "/")))
	for _, m := range mounts {
		parts := strings.Split(strings.TrimPrefix(m.Mountpoint, trees), "/")
		if len(parts) < 2 || parts[0] != "pool" && parts[0] != "files" {
			continue
		}
		kind, _, _ := strings.Cut(parts[1], "_")
		if kinds[kind] == "" || parts[0] == "pool" && len(parts) > 2 {
			continue
		}
		share := Share{
			Name: parts[1], Kind: kinds[kind], FileSystem: m.FSType, Path: m.Root,
			ReadOnly: slices.Contains(strings.Split(m.Options, ","), "ro"),
		}
		if strings.HasPrefix(m.FSType, "fuse.msb") {
			share.Path = parts[len(parts)-1]
		}
		shares = append(shares, share)
	}
	return shares
}
