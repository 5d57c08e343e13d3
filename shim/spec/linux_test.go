package spec

import (
	"encoding/json"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// What runc refuses of a container's configuration, or what is about the host's kernel, is refused.
func TestLinuxRefused(t *testing.T) {
	timed := func(clock string, offset specs.LinuxTimeOffset) func(*specs.Spec) {
		return func(s *specs.Spec) {
			s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.TimeNamespace})
			s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{clock: offset}
		}
	}
	policy := func(p specs.LinuxMemoryPolicy) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Linux.MemoryPolicy = &p }
	}
	hooked := func(hook specs.Hook) func(*specs.Spec) {
		return func(s *specs.Spec) { s.Hooks = &specs.Hooks{Poststart: []specs.Hook{hook}} }
	}
	for name, c := range map[string]struct {
		change func(*specs.Spec)
		says   string // empty: it is not refused
	}{
		"an unknown namespace":  {func(s *specs.Spec) { s.Linux.Namespaces[0].Type = "nosuch" }, `the kind "nosuch"`},
		"a namespace twice":     {func(s *specs.Spec) { s.Linux.Namespaces = append(s.Linux.Namespaces, s.Linux.Namespaces[2]) }, "the kind ipc twice"},
		"a clock":               {timed("boottime", specs.LinuxTimeOffset{Secs: -5, Nanosecs: 999_999_999}), ""},
		"an unknown clock":      {timed("realtime", specs.LinuxTimeOffset{Secs: 5}), `the clock "realtime"`},
		"too many nanoseconds":  {timed("monotonic", specs.LinuxTimeOffset{Nanosecs: 1_000_000_000}), "1000000000 nanoseconds"},
		"a clock of the host's": {func(s *specs.Spec) { s.Linux.TimeOffsets = map[string]specs.LinuxTimeOffset{"boottime": {}} }, "are for a time namespace"},
		"a personality":         {func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: "LINUX32"} }, ""},
		"an unknown one":        {func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{Domain: "PER_LINUX"} }, `the domain "PER_LINUX"`},
		"no domain":             {func(s *specs.Spec) { s.Linux.Personality = &specs.LinuxPersonality{} }, `the domain ""`},
		"an interface":          {func(s *specs.Spec) { s.Linux.NetDevices = map[string]specs.LinuxNetDevice{"eth0": {}} }, "linux.netDevices"},
		"a policy of memory":    {policy(specs.LinuxMemoryPolicy{Mode: "MPOL_BIND", Nodes: "0"}), "linux.memoryPolicy"},
		"an unknown policy":     {policy(specs.LinuxMemoryPolicy{Mode: "nosuch"}), "linux.memoryPolicy"},
		"a policy's flag":       {policy(specs.LinuxMemoryPolicy{Mode: "MPOL_DEFAULT", Flags: []specs.MemoryPolicyFlagType{"nosuch"}}), "linux.memoryPolicy"},
		"the default policy":    {policy(specs.LinuxMemoryPolicy{Mode: "MPOL_DEFAULT"}), ""},
		"the near node":         {policy(specs.LinuxMemoryPolicy{Mode: "MPOL_LOCAL"}), ""},
		"cache":                 {func(s *specs.Spec) { s.Linux.IntelRdt = &specs.LinuxIntelRdt{} }, "linux.intelRdt"},
		"mappings for nobody":   {func(s *specs.Spec) { s.Linux.UIDMappings = []specs.LinuxIDMapping{{Size: 1}} }, ""}, // as with runc
		"a score":               {func(s *specs.Spec) { s.Process.OOMScoreAdj = new(-1000) }, ""},
		"a score too high":      {func(s *specs.Spec) { s.Process.OOMScoreAdj = new(1001) }, "the OOM score adjustment 1001, and there are -1000 to 1000"},
		"a score too low":       {func(s *specs.Spec) { s.Process.OOMScoreAdj = new(-1001) }, "the OOM score adjustment -1001"},
		"a hook":                {hooked(specs.Hook{Path: "/bin/true", Timeout: new(1)}), ""},
		"a hook somewhere":      {hooked(specs.Hook{Path: "bin/true"}), `hook "bin/true": its path is not absolute`},
		"a hook without time":   {hooked(specs.Hook{Path: "/bin/true", Timeout: new(0)}), "hook /bin/true: its timeout of 0 s"},
		"a hook back in time":   {hooked(specs.Hook{Path: "/bin/true", Timeout: new(-1)}), "hook /bin/true: its timeout of -1 s"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(container(c.change), "/bundle")
			refusedFor(t, err, c.says)
		})
	}
}

// Sections for other platforms do not reach the guest's runtime, which would read them.
func TestOtherPlatforms(t *testing.T) {
	plan, err := New(container(func(s *specs.Spec) {
		s.Windows, s.VM, s.Solaris, s.ZOS, s.FreeBSD = &specs.Windows{}, &specs.VM{}, &specs.Solaris{}, &specs.ZOS{}, &specs.FreeBSD{}
	}), "/bundle")
	if err != nil {
		t.Fatal(err)
	}
	data, err := plan.Guest(Places{})
	if err != nil {
		t.Fatal(err)
	}
	var guest specs.Spec
	if err := json.Unmarshal(data, &guest); err != nil {
		t.Fatal(err)
	}
	if guest.Windows != nil || guest.VM != nil || guest.Solaris != nil || guest.ZOS != nil || guest.FreeBSD != nil {
		t.Errorf("the guest gets %+v", guest)
	}
}
