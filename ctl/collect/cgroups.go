package collect

import (
	"os"
	"path/filepath"
	"strings"
)

// figures are the files that are read, of version 2 and of version 1.
var figures = strings.Fields(`memory.current memory.peak memory.min memory.low memory.high memory.max memory.events
	memory.swap.current memory.swap.max memory.pressure cpu.max cpu.weight cpu.stat cpu.pressure
	cpuset.cpus cpuset.cpus.effective cpuset.mems.effective pids.current pids.max pids.events io.pressure cgroup.events
	memory.usage_in_bytes memory.max_usage_in_bytes memory.limit_in_bytes memory.memsw.limit_in_bytes memory.failcnt memory.oom_control
	cpu.shares cpu.cfs_quota_us cpu.cfs_period_us cpuacct.usage cpuset.effective_cpus`)

// cgroups are the figures of the control groups of the first process of each family: by the
// group's directory and the file's name.
func (s Source) cgroups(families []family) map[string]map[string]string {
	groups := make(map[string]map[string]string)
	for _, f := range families {
		if len(f.Processes) == 0 {
			continue
		}
		for _, line := range f.Processes[0].Cgroups {
			dir := groupOf(line)
			if dir == "" || groups[dir] != nil {
				continue
			}
			read := make(map[string]string)
			for _, name := range figures {
				if data, err := os.ReadFile(filepath.Join(s.Cgroups, dir, name)); err == nil {
					read[name] = strings.TrimSpace(string(data))
				}
			}
			if len(read) > 0 {
				groups[dir] = read
			}
		}
	}
	return groups
}

// groupOf is the directory of a line of proc_pid_cgroup(5), below the one where they are
// mounted; empty for a hierarchy that has no controller.
func groupOf(line string) string {
	parts := strings.SplitN(line, ":", 3)
	const fields = 3
	switch {
	case len(parts) != fields:
		return ""
	case parts[0] == "0" && parts[1] == "":
		return filepath.Clean(parts[2])
	case parts[1] == "" || strings.HasPrefix(parts[1], "name="):
		return ""
	}
	return filepath.Join("/", parts[1], parts[2])
}
