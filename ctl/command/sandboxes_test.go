package command

import (
	"bytes"
	"strings"
	"testing"
	"time"

	"github.com/msb-runtime/containerd-shim-msb/ctl/survey"
)

func TestList(t *testing.T) {
	now := time.Now()
	ago := func(d time.Duration) *time.Time { at := now.Add(-d); return &at }
	var out bytes.Buffer
	if err := list(&out, []survey.Sandbox{
		{
			Namespace: "default", ID: "web", State: survey.Running, Driver: "krun", CPUs: 2, Memory: 512 << 20, Started: ago(61 * time.Second),
			VMM: &survey.Process{Pid: 7, Resident: 96 << 20}, Containers: []survey.Container{{ID: "web", State: "running"}},
		},
		{
			Namespace: "k8s.io", ID: strings.Repeat("0123456789abcdef", 4), State: survey.Hung, Started: ago(50 * time.Hour),
			Containers: []survey.Container{{ID: "a"}, {ID: "b"}},
		},
		{
			Namespace: "k8s.io", ID: "gone", State: survey.Running, Forgotten: true, Driver: "qemu", VMM: &survey.Process{Pid: 9},
			Containers: []survey.Container{{ID: "gone", State: "running"}},
		},
		{Namespace: "k8s.io", ID: "p", State: survey.Stopped, Started: ago(-time.Hour), Containers: []survey.Container{{ID: "a", State: "stopped"}}},
	}, now); err != nil {
		t.Fatal(err)
	}
	const want = `NAMESPACE  ID            STATE      DRIVER  CPUS  MEMORY  RESIDENT  AGE   VMM  CONTAINERS
default    web           running    krun    2     512MiB  96MiB     1m1s  7    1/1
k8s.io     0123456789ab  hung       -       -     -       -         2d2h  -    ?/2
k8s.io     gone          forgotten  qemu    -     -       -         -     9    1/1
k8s.io     p             stopped    -       -     -       -         0s    -    0/1
`
	if out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", out.String(), want)
	}
}

// How a sandbox ends that containerd has forgotten is told where it is shown.
func TestForgotten(t *testing.T) {
	s := survey.Sandbox{Namespace: "default", ID: "gone", State: survey.Running, Forgotten: true, Shim: &survey.Process{Pid: 7}}
	var out, errs bytes.Buffer
	tellForgotten(&errs, []survey.Sandbox{{Namespace: "default", ID: "web", State: survey.Running}, s})
	if want := "msbctl: containerd has forgotten default/gone: kill -TERM 7 ends its shim, and the VM with it\n"; errs.String() != want {
		t.Errorf("%q, want %q", &errs, want)
	}
	if err := printInspection(&out, survey.Inspection{Sandbox: s}, time.Now()); err != nil || !strings.Contains(out.String(), "running, and containerd has forgotten it: kill -TERM 7 ends") {
		t.Errorf("%v, %s", err, &out)
	}
	s.State = survey.Hung // it may be ending
	errs.Reset()
	if tellForgotten(&errs, []survey.Sandbox{s}); !strings.Contains(errs.String(), "kill -TERM 7 ends") {
		t.Errorf("of one that does not listen: %q", &errs)
	}
	s.Address = "unix:///run/containerd/s/x" // it would not hear of SIGTERM
	errs.Reset()
	if tellForgotten(&errs, []survey.Sandbox{s}); !strings.Contains(errs.String(), "kill -KILL 7 ends") {
		t.Errorf("of one that hangs: %q", &errs)
	}
}

func TestSandboxesUsage(t *testing.T) {
	for args, want := range map[string]struct {
		code   int
		stderr string
	}{
		"inspect":           {exitUsage, "it is msbctl inspect ID"},
		"inspect a b":       {exitUsage, "2 arguments"},
		"ls a":              {exitUsage, "1 arguments"},
		"ls --state /no":    {exitFailed, "state directory"},
		"inspect --no-such": {exitUsage, "no-such"},
		"check a":           {exitUsage, "1 arguments"},
	} {
		if _, stderr, code := run(t, strings.Fields(args)...); code != want.code || !strings.Contains(stderr, want.stderr) {
			t.Errorf("msbctl %s: code %d, %q", args, code, stderr)
		}
	}
	state := t.TempDir()
	if stdout, _, code := run(t, "ls", "--json", "--state", state); code != 0 || stdout != "[]\n" {
		t.Errorf("nothing: code %d, %q", code, stdout)
	}
	if _, stderr, code := run(t, "inspect", "--state", state, "x"); code != exitFailed || !strings.Contains(stderr, `begins with "x"`) {
		t.Errorf("nothing: code %d, %q", code, stderr)
	}
}
