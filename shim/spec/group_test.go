package spec

import (
	"slices"
	"strings"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Whatever a container asks for, it has a cgroup namespace, and sees its own group.
func TestOwnGroup(t *testing.T) {
	for name, change := range map[string]func(*specs.Spec){
		"none asked for": func(*specs.Spec) {},
		"one asked for": func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.CgroupNamespace})
		},
	} {
		count := 0
		for _, namespace := range guestSpec(t, Places{}, change).Linux.Namespaces {
			if namespace.Type == specs.CgroupNamespace && namespace.Path == "" {
				count++
			}
		}
		if count != 1 {
			t.Errorf("%s: %d cgroup namespaces", name, count)
		}
	}
}

func TestGroupMounts(t *testing.T) {
	readOnly, writable := []string{"nosuid", "noexec", "nodev", "ro"}, []string{"nosuid", "noexec", "nodev", "rw"}
	for name, c := range map[string]struct {
		given specs.Mount
		want  []specs.Mount
	}{
		"the groups": {
			specs.Mount{Destination: "/c", Type: "bind", Source: "/sys/fs/cgroup/", Options: []string{"rbind", "rslave", "ro"}},
			[]specs.Mount{{Destination: "/c", Type: "cgroup", Source: "cgroup", Options: readOnly}},
		},
		"the groups, by option": {
			specs.Mount{Destination: "/c", Source: "/sys/fs/cgroup", Options: []string{"bind", "ro", "rw"}},
			[]specs.Mount{{Destination: "/c", Type: "cgroup", Source: "cgroup", Options: writable}},
		},
		"sysfs": {
			specs.Mount{Destination: "/s", Type: "bind", Source: "/sys", Options: []string{"rbind", "rro"}},
			[]specs.Mount{
				{Destination: "/s", Type: "sysfs", Source: "sysfs", Options: readOnly},
				{Destination: "/s/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: readOnly},
			},
		},
		"below sysfs": {
			specs.Mount{Destination: "/s", Type: "bind", Source: "/sys/kernel/debug", Options: []string{"rbind"}},
			[]specs.Mount{{Destination: "/s", Type: "bind", Source: "/sys/kernel/debug", Options: []string{"rbind"}}},
		},
		"sysfs of a network that is not the container's": {
			specs.Mount{Destination: "/s", Type: "bind", Source: "/sys", Options: []string{"rbind", "ro"}},
			[]specs.Mount{
				{Destination: "/s", Type: "bind", Source: "/sys", Options: []string{"rbind", "ro"}},
				{Destination: "/s/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: readOnly},
			},
		},
	} {
		changes := []func(*specs.Spec){withMount(c.given)}
		if strings.HasPrefix(name, "sysfs of") {
			changes = append(changes, without(specs.NetworkNamespace), inUserNamespace("", shifted, shifted))
		}
		got := guestSpec(t, Places{}, changes...).Mounts
		if !slices.EqualFunc(got, c.want, func(a, b specs.Mount) bool {
			return a.Destination == b.Destination && a.Type == b.Type && a.Source == b.Source && slices.Equal(a.Options, b.Options)
		}) {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}
