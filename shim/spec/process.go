package spec

import (
	"math"
	"path"
	"slices"
	"strconv"
	"strings"

	"github.com/containerd/containerd/v2/pkg/cap"
	"github.com/opencontainers/runtime-spec/specs-go"
)

const (
	// maxIOPriority is the lowest priority of a class of I/O scheduling (ioprio_set(2)).
	maxIOPriority = 7
	// maxScore is the greatest adjustment of a process's OOM score (proc_pid_oom_score_adj(5)).
	maxScore = 1000
	// noID is no user and no group: setuid(2) and setgid(2) leave who one is, which is root.
	noID = math.MaxUint32
	// The range of nice values (setpriority(2)).
	minNice, maxNice = -20, 19
	// maxProcessor is the greatest number of a processor that a set of them has (CPU_SET(3)).
	maxProcessor = 1023
)

var ioClasses = []specs.IOPriorityClass{specs.IOPRIO_CLASS_RT, specs.IOPRIO_CLASS_BE, specs.IOPRIO_CLASS_IDLE}

// rlimits are those that there are (getrlimit(2)).
var rlimits = []string{
	"RLIMIT_AS", "RLIMIT_CORE", "RLIMIT_CPU", "RLIMIT_DATA", "RLIMIT_FSIZE", "RLIMIT_LOCKS", "RLIMIT_MEMLOCK", "RLIMIT_MSGQUEUE",
	"RLIMIT_NICE", "RLIMIT_NOFILE", "RLIMIT_NPROC", "RLIMIT_RSS", "RLIMIT_RTPRIO", "RLIMIT_RTTIME", "RLIMIT_SIGPENDING", "RLIMIT_STACK",
}

// planProcess is a process for the guest. What runc refuses of it and crun would pass over is
// refused; who says whose process it is.
func planProcess(who string, asked specs.Process) (specs.Process, error) {
	if err := checkProcess(who, &asked); err != nil {
		return specs.Process{}, err
	}
	// Labels of the host's security modules mean nothing to the guest's kernel.
	asked.ApparmorProfile, asked.SelinuxLabel = "", ""
	asked.Env = environment(asked.Env)
	asked.Capabilities = capabilities(asked.Capabilities)
	return asked, nil
}

func checkProcess(who string, process *specs.Process) error {
	switch {
	case len(process.Args) == 0:
		return invalid("%s has no command: give it process.args", who)
	case !path.IsAbs(process.Cwd):
		return invalid("%s has the working directory %q, which is no absolute path: correct process.cwd", who, shorten(process.Cwd))
	case process.IOPriority != nil && (process.IOPriority.Priority < 0 || process.IOPriority.Priority > maxIOPriority):
		return invalid("%s has the I/O priority %d, and there are 0 to %d: correct process.ioPriority", who, process.IOPriority.Priority, maxIOPriority)
	case process.IOPriority != nil && !slices.Contains(ioClasses, process.IOPriority.Class):
		return invalid("%s has the class of I/O priority %q, which nobody knows: correct process.ioPriority", who, shorten(string(process.IOPriority.Class)))
	case process.User.UID == noID || process.User.GID == noID || slices.Contains(process.User.AdditionalGids, noID):
		return invalid("%s has the user or group %d, which is none: correct process.user", who, uint32(noID))
	}
	for _, limit := range process.Rlimits {
		switch {
		case !isAny(limit.Type, rlimits...):
			return invalid("%s has the limit %q, which nobody knows: correct process.rlimits", who, shorten(limit.Type))
		case limit.Soft > limit.Hard:
			return invalid("%s has the limit %s with %d, which is above its hard limit, %d: correct process.rlimits", who, limit.Type, limit.Soft, limit.Hard)
		}
	}
	if err := checkScheduler(who, process.Scheduler); err != nil {
		return err
	}
	if affinity := process.ExecCPUAffinity; affinity != nil {
		for _, set := range []string{affinity.Initial, affinity.Final} {
			if !isProcessors(set) {
				return invalid("%s has the processors %q, which are no list like 0-3,5: correct process.execCPUAffinity", who, shorten(set))
			}
		}
	}
	for i, variable := range process.Env {
		switch name, _, found := strings.Cut(variable, "="); {
		case !found: // its text may be a secret
			return invalid("%s has an environment variable that is not NAME=VALUE, number %d: correct process.env", who, i+1)
		case name == "":
			return invalid("%s has an environment variable without a name, number %d: correct process.env", who, i+1)
		}
	}
	return nil
}

// checkScheduler refuses what runc does. Of an exec, where runc asks the kernel only, too: it sets
// another nice value than is asked for.
func checkScheduler(who string, s *specs.Scheduler) error {
	if s == nil {
		return nil
	}
	switch nice := slices.Contains([]specs.LinuxSchedulerPolicy{specs.SchedOther, specs.SchedBatch}, s.Policy); {
	case s.Policy == "":
		return invalid("%s has a scheduler without a policy: correct process.scheduler", who)
	case nice && (s.Nice < minNice || s.Nice > maxNice):
		return invalid("%s has the nice value %d, and there are %d to %d: correct process.scheduler", who, s.Nice, minNice, maxNice)
	case s.Priority != 0 && s.Policy != specs.SchedFIFO && s.Policy != specs.SchedRR:
		return invalid("%s has a scheduler's priority, which is for SCHED_FIFO and SCHED_RR: correct process.scheduler", who)
	case s.Policy != specs.SchedDeadline && (s.Runtime != 0 || s.Deadline != 0 || s.Period != 0):
		return invalid("%s has a scheduler's runtime, deadline or period, which are for SCHED_DEADLINE: correct process.scheduler", who)
	}
	return nil
}

// isProcessors tells a list of processors, or an empty text (cpuset(7), "List format"). As with runc
// there may be empty parts, and space around one.
func isProcessors(list string) bool {
	found := list == ""
	for part := range strings.SplitSeq(list, ",") {
		part = strings.TrimSpace(part)
		if part == "" {
			continue
		}
		found = true
		first, last, isRange := strings.Cut(part, "-")
		if !isRange {
			last = first
		}
		from, err := strconv.ParseUint(first, 10, 32)
		to, err2 := strconv.ParseUint(last, 10, 32)
		if err != nil || err2 != nil || from > to || to > maxProcessor {
			return false
		}
	}
	return found
}

// capabilities are those that there are, as runc knows them: by their names in capitals. It passes
// over others. None at all asks for those that the runtime has.
func capabilities(asked *specs.LinuxCapabilities) *specs.LinuxCapabilities {
	if asked == nil {
		return nil
	}
	known := func(names []string) (kept []string) {
		for _, name := range names {
			if isAny(name, cap.Known()...) {
				kept = append(kept, name)
			}
		}
		return kept
	}
	return &specs.LinuxCapabilities{
		Bounding: known(asked.Bounding), Effective: known(asked.Effective), Inheritable: known(asked.Inheritable),
		Permitted: known(asked.Permitted), Ambient: known(asked.Ambient),
	}
}

// environment is an environment as runc leaves it: of a variable that is there more than once
// the last one holds, where it is, and an empty HOME is none, for which the runtime looks in the
// container's /etc/passwd.
func environment(env []string) []string {
	seen := make(map[string]bool)
	var kept []string
	for _, variable := range slices.Backward(env) {
		name, value, _ := strings.Cut(variable, "=")
		if seen[name] {
			continue
		}
		seen[name] = true
		if name != "HOME" || value != "" {
			kept = append(kept, variable)
		}
	}
	slices.Reverse(kept)
	return kept
}
