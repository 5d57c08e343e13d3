package spec

import (
	"path"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// kinds are the namespaces that there are (namespaces(7)).
var kinds = []specs.LinuxNamespaceType{
	specs.PIDNamespace, specs.NetworkNamespace, specs.MountNamespace, specs.IPCNamespace, specs.UTSNamespace,
	specs.UserNamespace, specs.CgroupNamespace, specs.TimeNamespace,
}

// clocks are those that a time namespace has offsets of (time_namespaces(7)).
var clocks = []string{"monotonic", "boottime"}

// checkLinux refuses of a container's Linux section what runc refuses and the guest's runtime
// passes over or would find too late, and what is about the host's kernel.
func checkLinux(linux *specs.Linux) error {
	for i, namespace := range linux.Namespaces {
		switch {
		case !slices.Contains(kinds, namespace.Type):
			return invalid("linux.namespaces has the kind %q, which nobody knows: correct it", shorten(string(namespace.Type)))
		case has(linux.Namespaces[:i], namespace.Type):
			return invalid("linux.namespaces has the kind %s twice: leave one out", namespace.Type)
		}
	}
	if err := checkClocks(linux); err != nil {
		return err
	}
	switch {
	case linux.IntelRdt != nil:
		return unsupported("linux.intelRdt concerns the host's processor and is not supported in a microVM: leave it out")
	case !isAny(linux.RootfsPropagation, append(propagations, "")...):
		return invalid("the container's root file system has the propagation %q, which nobody knows: correct linux.rootfsPropagation", shorten(linux.RootfsPropagation))
	case linux.Personality != nil && !isAny(string(linux.Personality.Domain), string(specs.PerLinux), string(specs.PerLinux32)):
		return invalid("linux.personality has the domain %q: it is LINUX or LINUX32", shorten(string(linux.Personality.Domain)))
	case len(linux.NetDevices) > 0:
		return unsupported("linux.netDevices would move network interfaces of the host into the container, which a microVM cannot have: leave it out, and give it a network namespace with interfaces (CNI)")
	case !isDefaultPolicy(linux.MemoryPolicy):
		return unsupported("linux.memoryPolicy is about nodes of the host's memory, of which a microVM sees none: leave it out, or name nodes for the whole VM in linux.resources.cpu.mems")
	}
	return nil
}

func checkClocks(linux *specs.Linux) error {
	if len(linux.TimeOffsets) > 0 && !has(linux.Namespaces, specs.TimeNamespace) {
		return invalid("linux.timeOffsets are for a time namespace, and the container has none: add one to linux.namespaces, or leave them out")
	}
	for clock, offset := range linux.TimeOffsets {
		switch {
		case !isAny(clock, clocks...):
			return invalid("linux.timeOffsets has the clock %q: it is monotonic or boottime", shorten(clock))
		case offset.Nanosecs >= 1_000_000_000:
			return invalid("linux.timeOffsets has %d nanoseconds for the clock %s, which are a second or more: correct it", offset.Nanosecs, clock)
		}
	}
	return nil
}

// isDefaultPolicy tells a policy of memory that asks for nothing: what a process is given anyway,
// where there is one node.
func isDefaultPolicy(policy *specs.LinuxMemoryPolicy) bool {
	return policy == nil ||
		slices.Contains([]specs.MemoryPolicyModeType{specs.MpolDefault, specs.MpolLocal}, policy.Mode) && policy.Nodes == "" && len(policy.Flags) == 0
}

// checkHooks refuses hooks that could not run, before anything is there for them.
func checkHooks(hooks *specs.Hooks) error {
	if hooks == nil {
		return nil
	}
	if len(hooks.CreateContainer) > 0 {
		return unsupported("the configuration has createContainer hooks, programs of the host that would have to run in the container, which they cannot in a microVM: make them createRuntime hooks, which run on the host, or leave them out")
	}
	//lint:ignore SA1019 clients still set prestart hooks
	for _, hook := range slices.Concat(hooks.Prestart, hooks.CreateRuntime, hooks.StartContainer, hooks.Poststart, hooks.Poststop) {
		switch {
		case !path.IsAbs(hook.Path):
			return invalid("hook %q: its path is not absolute, which the OCI runtime specification requires: correct it", shorten(hook.Path))
		case hook.Timeout != nil && *hook.Timeout <= 0:
			return invalid("hook %s: its timeout of %d s is not above 0", shorten(hook.Path), *hook.Timeout)
		}
	}
	return nil
}
