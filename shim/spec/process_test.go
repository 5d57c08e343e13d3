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
		"plain":                 {func(*specs.Process) {}, ""},
		"no command":            {func(p *specs.Process) { p.Args = nil }, "has no command"},
		"an empty command":      {func(p *specs.Process) { p.Args = []string{""} }, ""}, // the guest finds none
		"no directory":          {func(p *specs.Process) { p.Cwd = "" }, `has the working directory ""`},
		"a relative directory":  {func(p *specs.Process) { p.Cwd = "bin" }, `has the working directory "bin"`},
		"an odd directory":      {func(p *specs.Process) { p.Cwd = "//a/../b" }, ""},
		"no variable's value":   {func(p *specs.Process) { p.Env = []string{"A=b", "SECRET"} }, "has an environment variable that is not NAME=VALUE, number 2"},
		"an empty variable":     {func(p *specs.Process) { p.Env = []string{""} }, "has an environment variable that is not NAME=VALUE, number 1"},
		"no variable's name":    {func(p *specs.Process) { p.Env = []string{"=b"} }, "has an environment variable without a name, number 1"},
		"an empty value":        {func(p *specs.Process) { p.Env = []string{"A=", "B=="} }, ""},
		"the highest priority":  {func(p *specs.Process) { p.IOPriority = &specs.LinuxIOPriority{Priority: 0} }, ""},
		"the lowest priority":   {func(p *specs.Process) { p.IOPriority = &specs.LinuxIOPriority{Priority: 7} }, ""},
		"a priority too low":    {func(p *specs.Process) { p.IOPriority = &specs.LinuxIOPriority{Priority: 8} }, "has the I/O priority 8"},
		"a priority below zero": {func(p *specs.Process) { p.IOPriority = &specs.LinuxIOPriority{Priority: -1} }, "has the I/O priority -1"},
	} {
		t.Run(name, func(t *testing.T) {
			first := container(func(s *specs.Spec) { c.change(s.Process) })
			_, err := New(first, "/bundle")
			_, execErr := GuestProcess(anyProcess(t, first.Process))
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

func anyProcess(t *testing.T, process *specs.Process) *anypb.Any {
	t.Helper()
	data, err := json.Marshal(process)
	if err != nil {
		t.Fatal(err)
	}
	return &anypb.Any{TypeUrl: "process", Value: data}
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
	exec, err := GuestProcess(anyProcess(t, asked.Process))
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
