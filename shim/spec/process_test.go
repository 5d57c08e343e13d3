package spec

import (
	"encoding/json"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"
)

// refusedFor checks an error that says something of a request; of none that is refused, that
// there is no error.
func refusedFor(t *testing.T, err error, says string) {
	t.Helper()
	switch {
	case says == "" && err != nil:
		t.Errorf("refused: %v", err)
	case says != "" && (!errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), says)):
		t.Errorf("error %v, which does not say %s", err, says)
	}
}

// A container's first process and an exec's are refused for the same.
func TestProcessRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*specs.Process)
		says   string // behind whose process it is; empty: it is not refused
	}{
		"plain":                    {func(*specs.Process) {}, ""},
		"no command":               {func(p *specs.Process) { p.Args = nil }, "has no command"},
		"an empty command":         {func(p *specs.Process) { p.Args = []string{""} }, ""}, // the guest finds none
		"no directory":             {func(p *specs.Process) { p.Cwd = "" }, `has the working directory ""`},
		"a relative directory":     {func(p *specs.Process) { p.Cwd = "bin" }, `has the working directory "bin"`},
		"an odd directory":         {func(p *specs.Process) { p.Cwd = "//a/../b" }, ""},
		"no variable's value":      {func(p *specs.Process) { p.Env = []string{"A=b", "SECRET"} }, "has an environment variable that is not NAME=VALUE, number 2"},
		"an empty variable":        {func(p *specs.Process) { p.Env = []string{""} }, "has an environment variable that is not NAME=VALUE, number 1"},
		"no variable's name":       {func(p *specs.Process) { p.Env = []string{"=b"} }, "has an environment variable without a name, number 1"},
		"an empty value":           {func(p *specs.Process) { p.Env = []string{"A=", "B=="} }, ""},
		"the highest priority":     {func(p *specs.Process) { p.IOPriority = &specs.LinuxIOPriority{Class: "IOPRIO_CLASS_RT"} }, ""},
		"the lowest priority":      {func(p *specs.Process) { p.IOPriority = &specs.LinuxIOPriority{Class: "IOPRIO_CLASS_BE", Priority: 7} }, ""},
		"no class of priority":     {func(p *specs.Process) { p.IOPriority = &specs.LinuxIOPriority{} }, `has the class of I/O priority ""`},
		"an unknown class":         {func(p *specs.Process) { p.IOPriority = &specs.LinuxIOPriority{Class: "RT"} }, `has the class of I/O priority "RT"`},
		"no user":                  {func(p *specs.Process) { p.User.UID = 1<<32 - 1 }, "has the user or group 4294967295"},
		"no group":                 {func(p *specs.Process) { p.User.GID = 1<<32 - 1 }, "has the user or group 4294967295"},
		"no additional group":      {func(p *specs.Process) { p.User.AdditionalGids = []uint32{5, 1<<32 - 1} }, "has the user or group 4294967295"},
		"the last user":            {func(p *specs.Process) { p.User = specs.User{UID: 1<<32 - 2, GID: 1<<32 - 2} }, ""},
		"limits":                   {limited("RLIMIT_NOFILE", 5, 5), ""},
		"no limit":                 {limited("RLIMIT_CORE", 1<<64-1, 1<<64-1), ""},
		"an unknown limit":         {limited("RLIMIT_NOSUCH", 5, 5), `has the limit "RLIMIT_NOSUCH"`},
		"a limit's short name":     {limited("NOFILE", 5, 5), `has the limit "NOFILE"`},
		"a limit in small":         {limited("rlimit_nofile", 5, 5), `has the limit "rlimit_nofile"`},
		"a limit without a name":   {limited("", 5, 5), `has the limit ""`},
		"above the hard limit":     {limited("RLIMIT_NOFILE", 6, 5), "has the limit RLIMIT_NOFILE with 6, which is above its hard limit, 5"},
		"nice":                     {scheduled(specs.Scheduler{Policy: "SCHED_BATCH", Nice: 19}), ""},
		"too nice":                 {scheduled(specs.Scheduler{Policy: "SCHED_OTHER", Nice: 20}), "has the nice value 20"},
		"not nice":                 {scheduled(specs.Scheduler{Policy: "SCHED_BATCH", Nice: -21}), "has the nice value -21"},
		"nice, and not asked":      {scheduled(specs.Scheduler{Policy: "SCHED_IDLE", Nice: 20}), ""},
		"no policy":                {scheduled(specs.Scheduler{}), "has a scheduler without a policy"},
		"an unknown policy":        {scheduled(specs.Scheduler{Policy: "SCHED_NOSUCH"}), ""}, // the guest knows it as little
		"a turn":                   {scheduled(specs.Scheduler{Policy: "SCHED_RR", Priority: 5}), ""},
		"a priority of no turn":    {scheduled(specs.Scheduler{Policy: "SCHED_OTHER", Priority: 5}), "has a scheduler's priority"},
		"a deadline":               {scheduled(specs.Scheduler{Policy: "SCHED_DEADLINE", Runtime: 1, Deadline: 2, Period: 3}), ""},
		"a runtime of no deadline": {scheduled(specs.Scheduler{Policy: "SCHED_RR", Priority: 1, Runtime: 1}), "has a scheduler's runtime"},
		"a period of no deadline":  {scheduled(specs.Scheduler{Policy: "SCHED_OTHER", Period: 1}), "has a scheduler's runtime"},
		"processors":               {onProcessors("0-3, 5,", "1023"), ""},
		"no processors":            {onProcessors("", ""), ""},
		"no number":                {onProcessors("x", ""), `has the processors "x"`},
		"too many processors":      {onProcessors("", "0-1024"), `has the processors "0-1024"`},
		"from the last":            {onProcessors("", "3-1"), `has the processors "3-1"`},
		"an empty list":            {onProcessors(",", ""), `has the processors ","`},
		"a priority too low":       {func(p *specs.Process) { p.IOPriority = &specs.LinuxIOPriority{Class: "IOPRIO_CLASS_BE", Priority: 8} }, "has the I/O priority 8"},
		"a priority below zero":    {func(p *specs.Process) { p.IOPriority = &specs.LinuxIOPriority{Class: "IOPRIO_CLASS_BE", Priority: -1} }, "has the I/O priority -1"},
	} {
		t.Run(name, func(t *testing.T) {
			first := container(func(s *specs.Spec) { c.change(s.Process) })
			_, err := New(first, "/bundle")
			_, execErr := plain(t).GuestProcess(anyProcess(t, first.Process))
			if c.says == "" {
				refusedFor(t, err, "")
				refusedFor(t, execErr, "")
				return
			}
			refusedFor(t, err, "the container "+c.says)
			refusedFor(t, execErr, "the exec "+c.says)
			if strings.Contains(err.Error(), "SECRET") {
				t.Errorf("the error has the text of a variable: %v", err)
			}
		})
	}
}

// plain is a plan of a container that asks for nothing in particular.
func plain(t *testing.T) *Plan {
	t.Helper()
	plan, err := New(container(), "/bundle")
	if err != nil {
		t.Fatal(err)
	}
	return plan
}

func anyProcess(t *testing.T, process *specs.Process) *anypb.Any {
	t.Helper()
	data, err := json.Marshal(process)
	if err != nil {
		t.Fatal(err)
	}
	return &anypb.Any{TypeUrl: "process", Value: data}
}

func limited(kind string, soft, hard uint64) func(*specs.Process) {
	return func(p *specs.Process) { p.Rlimits = []specs.POSIXRlimit{{Type: kind, Soft: soft, Hard: hard}} }
}

func scheduled(s specs.Scheduler) func(*specs.Process) {
	return func(p *specs.Process) { p.Scheduler = &s }
}

func onProcessors(initial, final string) func(*specs.Process) {
	return func(p *specs.Process) { p.ExecCPUAffinity = &specs.CPUAffinity{Initial: initial, Final: final} }
}

// What an exec does not say of its scheduling and its limits is the container's; so is the umask,
// whatever it says.
func TestExecInherits(t *testing.T) {
	first := container(func(s *specs.Spec) {
		s.Process.Scheduler, s.Process.IOPriority = &specs.Scheduler{Policy: "SCHED_BATCH"}, &specs.LinuxIOPriority{Class: "IOPRIO_CLASS_BE", Priority: 1}
		s.Process.ExecCPUAffinity, s.Process.User.Umask = &specs.CPUAffinity{Final: "1"}, new(uint32(0o27))
		s.Process.Rlimits = []specs.POSIXRlimit{{Type: "RLIMIT_NOFILE", Hard: 9, Soft: 8}}
	})
	plan, err := New(first, "/bundle")
	if err != nil {
		t.Fatal(err)
	}
	for exec, want := range map[string]string{
		`{}`: `{"user":{"uid":0,"gid":0,"umask":23},"args":["a"],"cwd":"/","rlimits":[{"type":"RLIMIT_NOFILE","hard":9,"soft":8}],"scheduler":{"policy":"SCHED_BATCH"},"ioPriority":{"class":"IOPRIO_CLASS_BE","priority":1},"execCPUAffinity":{"final":"1"}}`,
		`{"user":{"uid":5,"umask":0},"rlimits":[{"type":"RLIMIT_CORE","hard":0,"soft":0}],"scheduler":{"policy":"SCHED_IDLE"},"ioPriority":{"class":"IOPRIO_CLASS_RT","priority":2},"execCPUAffinity":{"initial":"0"}}`: `{"user":{"uid":5,"gid":0,"umask":23},"args":["a"],"cwd":"/","rlimits":[{"type":"RLIMIT_CORE","hard":0,"soft":0}],"scheduler":{"policy":"SCHED_IDLE"},"ioPriority":{"class":"IOPRIO_CLASS_RT","priority":2},"execCPUAffinity":{"initial":"0"}}`,
	} {
		process := &specs.Process{Args: []string{"a"}, Cwd: "/"}
		if err := json.Unmarshal([]byte(exec), process); err != nil {
			t.Fatal(err)
		}
		is, err := plan.GuestProcess(anyProcess(t, process))
		if err != nil || string(is.GetValue()) != want {
			t.Errorf("%s is for the guest\n%s, %v, want\n%s", exec, is.GetValue(), err, want)
		}
	}
}

// Capabilities that nobody knows are none; no capabilities at all are not an empty set.
func TestCapabilities(t *testing.T) {
	if is := capabilities(nil); is != nil {
		t.Errorf("none at all is %+v", is)
	}
	names := []string{"CAP_NOSUCH", "CAP_KILL", "cap_chown", "CHOWN", "CAP_CHECKPOINT_RESTORE", ""}
	is := capabilities(&specs.LinuxCapabilities{Bounding: names, Effective: names, Inheritable: names, Permitted: names, Ambient: names})
	for kind, set := range map[string][]string{"bounding": is.Bounding, "effective": is.Effective, "inheritable": is.Inheritable, "permitted": is.Permitted, "ambient": is.Ambient} {
		if !slices.Equal(set, []string{"CAP_KILL", "CAP_CHECKPOINT_RESTORE"}) {
			t.Errorf("%s capabilities are %v", kind, set)
		}
	}
}

func TestEnvironment(t *testing.T) {
	for asked, want := range map[string]string{
		"":                        "",
		"A=1 B=2":                 "A=1 B=2",
		"A=1 B=2 A=3":             "B=2 A=3",
		"A=1 A=":                  "A=",
		"HOME= A=1":               "A=1",
		"HOME=/a HOME= A=1":       "A=1",
		"HOME= A=1 HOME=/b":       "A=1 HOME=/b",
		"HOMES= A=b=c A=b=d":      "HOMES= A=b=d",
		"PATH=/a HOME=/x PATH=/b": "HOME=/x PATH=/b",
	} {
		if is := environment(strings.Fields(asked)); !slices.Equal(is, strings.Fields(want)) {
			t.Errorf("%q is %q, want %q", asked, is, want)
		}
	}
}

// Both kinds of processes have an environment as runc leaves it, and none of the host's labels.
func TestProcessOfBoth(t *testing.T) {
	asked := container(func(s *specs.Spec) { s.Process.Env = []string{"A=1", "HOME=", "A=2"} })
	exec, err := plain(t).GuestProcess(anyProcess(t, asked.Process))
	if err != nil {
		t.Fatal(err)
	}
	p, err := New(asked, "/bundle")
	if err != nil {
		t.Fatal(err)
	}
	data, err := p.Guest(Places{})
	if err != nil {
		t.Fatal(err)
	}
	var guest specs.Spec
	var process specs.Process
	if err := json.Unmarshal(data, &guest); err != nil {
		t.Fatal(err)
	}
	if err := json.Unmarshal(exec.GetValue(), &process); err != nil {
		t.Fatal(err)
	}
	for name, is := range map[string]*specs.Process{"a container's": guest.Process, "an exec's": &process} {
		if !slices.Equal(is.Env, []string{"A=2"}) || is.ApparmorProfile != "" || is.SelinuxLabel != "" {
			t.Errorf("%s process for the guest is %+v", name, is)
		}
	}
}

func TestPropagationRefused(t *testing.T) {
	for propagation, says := range map[string]string{
		"": "", "private": "", "rprivate": "", "slave": "", "rslave": "", "shared": "", "rshared": "", "unbindable": "", "runbindable": "",
		"nosuch": `"nosuch"`, "Private": `"Private"`,
	} {
		_, err := New(container(func(s *specs.Spec) { s.Linux.RootfsPropagation = propagation }), "/bundle")
		refusedFor(t, err, says)
	}
}
