package spec

import (
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// filterFlags are those that runc knows (seccomp(2)).
var filterFlags = []specs.LinuxSeccompFlag{
	"SECCOMP_FILTER_FLAG_TSYNC", specs.LinuxSeccompFlagLog, specs.LinuxSeccompFlagSpecAllow, specs.LinuxSeccompFlagWaitKillableRecv,
}

// checkFilter refuses of a filter of system calls what runc refuses and crun would find only
// when the process starts, and what needs a process of the host.
func checkFilter(filter *specs.LinuxSeccomp) error {
	if filter == nil {
		return nil
	}
	for _, flag := range filter.Flags {
		if !slices.Contains(filterFlags, flag) {
			return invalid("the container's filter of system calls has the flag %q, which nobody knows: correct linux.seccomp.flags", shorten(string(flag)))
		}
	}
	if filter.DefaultAction == specs.ActNotify || slices.ContainsFunc(filter.Syscalls, func(s specs.LinuxSyscall) bool { return s.Action == specs.ActNotify }) {
		return unsupported("the container's filter of system calls asks a process of the host (SCMP_ACT_NOTIFY), which cannot answer for a microVM: give linux.seccomp another action")
	}
	return nil
}

// guestFilter is a filter without what runc passes over and crun refuses: numbers of errors for
// actions that return none, the listener that nothing is sent to, rules for no call, and a filter that
// says nothing.
func guestFilter(asked *specs.LinuxSeccomp) *specs.LinuxSeccomp {
	if asked == nil || asked.DefaultAction == "" && len(asked.Syscalls) == 0 {
		return nil
	}
	filter := *asked
	filter.ListenerPath, filter.ListenerMetadata = "", ""
	if !hasNumber(filter.DefaultAction) {
		filter.DefaultErrnoRet = nil
	}
	filter.Syscalls = slices.DeleteFunc(slices.Clone(filter.Syscalls), func(rule specs.LinuxSyscall) bool { return len(rule.Names) == 0 })
	for i, rule := range filter.Syscalls {
		if !hasNumber(rule.Action) {
			filter.Syscalls[i].ErrnoRet = nil
		}
	}
	return &filter
}

func hasNumber(action specs.LinuxSeccompAction) bool {
	return action == specs.ActErrno || action == specs.ActTrace
}
