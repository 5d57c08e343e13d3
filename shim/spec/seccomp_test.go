package spec

import (
	"encoding/json"
	"reflect"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
)

func TestFilterRefused(t *testing.T) {
	rule := func(action specs.LinuxSeccompAction) []specs.LinuxSyscall {
		return []specs.LinuxSyscall{{Names: []string{"read"}, Action: specs.ActAllow}, {Names: []string{"mkdir"}, Action: action}}
	}
	for name, c := range map[string]struct {
		filter *specs.LinuxSeccomp
		says   string // empty: it is none that is refused
	}{
		"none":                  {nil, ""},
		"plain":                 {&specs.LinuxSeccomp{DefaultAction: specs.ActErrno, Syscalls: rule(specs.ActTrace)}, ""},
		"known flags":           {&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: filterFlags}, ""},
		"an unknown flag":       {&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Flags: []specs.LinuxSeccompFlag{specs.LinuxSeccompFlagLog, "NOSUCH"}}, `"NOSUCH"`},
		"a listener unused":     {&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: "/run/x", Syscalls: rule(specs.ActErrno)}, ""},
		"notify":                {&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: rule(specs.ActNotify)}, "SCMP_ACT_NOTIFY"},
		"notify with listener":  {&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, ListenerPath: "/run/x", Syscalls: rule(specs.ActNotify)}, "SCMP_ACT_NOTIFY"},
		"notify of all by rule": {&specs.LinuxSeccomp{DefaultAction: specs.ActNotify}, "SCMP_ACT_NOTIFY"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(container(func(s *specs.Spec) { s.Linux.Seccomp = c.filter }), "/bundle")
			refusedFor(t, err, c.says)
		})
	}
}

func TestGuestFilter(t *testing.T) {
	rules := func(all bool) (rules []specs.LinuxSyscall) {
		for _, action := range []specs.LinuxSeccompAction{specs.ActErrno, specs.ActTrace, specs.ActAllow, specs.ActKillProcess, specs.ActLog} {
			rule := specs.LinuxSyscall{Names: []string{"mkdir"}, Action: action, ErrnoRet: new(uint(28))}
			if !all && action != specs.ActErrno && action != specs.ActTrace {
				rule.ErrnoRet = nil
			}
			rules = append(rules, rule)
		}
		return rules
	}
	for name, c := range map[string]struct{ asked, want *specs.LinuxSeccomp }{
		"none":         {},
		"says nothing": {asked: &specs.LinuxSeccomp{Architectures: []specs.Arch{specs.ArchX86_64}}},
		"rules for no call": {
			&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: append(rules(false), specs.LinuxSyscall{Action: specs.ActErrno})},
			&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: rules(false)},
		},
		"allowed by default": {
			&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, DefaultErrnoRet: new(uint(1)), ListenerPath: "/x", ListenerMetadata: "m", Syscalls: rules(true)},
			&specs.LinuxSeccomp{DefaultAction: specs.ActAllow, Syscalls: rules(false)},
		},
		"refused by default": {
			&specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: new(uint(38)), Flags: filterFlags, Syscalls: rules(true)},
			&specs.LinuxSeccomp{DefaultAction: specs.ActErrno, DefaultErrnoRet: new(uint(38)), Flags: filterFlags, Syscalls: rules(false)},
		},
	} {
		t.Run(name, func(t *testing.T) {
			p, err := New(container(func(s *specs.Spec) { s.Linux.Seccomp = c.asked }), "/bundle")
			if err != nil {
				t.Fatal(err)
			}
			data, err := p.Guest(Places{})
			if err != nil {
				t.Fatal(err)
			}
			var guest specs.Spec
			if err := json.Unmarshal(data, &guest); err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(guest.Linux.Seccomp, c.want) {
				t.Errorf("the guest's filter is %+v, want %+v", guest.Linux.Seccomp, c.want)
			}
		})
	}
}
