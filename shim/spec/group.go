package spec

import (
	"path"
	"slices"

	"github.com/opencontainers/runtime-spec/specs-go"
)

const (
	sysfs        = "/sys"
	groups       = "/sys/fs/cgroup"
	belowSysfs   = "fs/cgroup"
	mountOfGroup = "cgroup" // crun mounts version 2, where it is
)

// ownGroup gives a container a cgroup namespace where it asks for none, as Docker does on a
// host of version 1: what it would see without is its group's ancestors, which on this host
// are other groups and in the guest the agent's and those of other containers.
func ownGroup(namespaces []specs.LinuxNamespace) []specs.LinuxNamespace {
	if has(namespaces, specs.CgroupNamespace) {
		return namespaces
	}
	return append(slices.Clip(namespaces), specs.LinuxNamespace{Type: specs.CgroupNamespace})
}

// groupMounts turns binds of the host's control groups, and of its whole sysfs with them,
// into mounts of the guest's: those are seen from the container's cgroup namespace, a bind
// would show all of the guest's groups.
//
// A sysfs of its own can be had only by who owns the network namespace that it shows
// (sysfs(5)); who does not has the bind, and the groups on it.
func groupMounts(mounts []specs.Mount, ownsNetwork bool, isHosts func(index int) bool) (all []specs.Mount) {
	for i, mount := range mounts {
		source := path.Clean(mount.Source)
		if isHosts(i) || !asksForBind(mount) || !isAny(source, sysfs, groups) {
			all = append(all, mount)
			continue
		}
		options := []string{"nosuid", "noexec", "nodev", "rw"}
		if isReadOnly(mount.Options) {
			options[3] = "ro"
		}
		own := func(kind, destination string) specs.Mount {
			return specs.Mount{Destination: destination, Type: kind, Source: kind, Options: options}
		}
		if source == groups {
			all = append(all, own(mountOfGroup, mount.Destination))
			continue
		}
		if ownsNetwork {
			mount = own("sysfs", mount.Destination)
		}
		all = append(all, mount, own(mountOfGroup, path.Join(mount.Destination, belowSysfs)))
	}
	return all
}

func asksForBind(mount specs.Mount) bool {
	return mount.Type == "bind" || slices.ContainsFunc(mount.Options, func(option string) bool { return isAny(option, "bind", "rbind") })
}

// isReadOnly: the last option holds.
func isReadOnly(options []string) (readOnly bool) {
	for _, option := range options {
		if isAny(option, "ro", "rro") {
			readOnly = true
		} else if option == "rw" {
			readOnly = false
		}
	}
	return readOnly
}
