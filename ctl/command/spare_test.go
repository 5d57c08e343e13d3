package command

import (
	"bytes"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/msb-runtime/containerd-shim-msb/ctl/survey"
	"github.com/msb-runtime/containerd-shim-msb/shim/spare"
)

func TestListSpares(t *testing.T) {
	now := time.Now()
	began := now.Add(-90 * time.Second)
	one := survey.Spare{Pid: 7, State: spare.Waiting, CPUs: 1, Memory: 512 << 20, Resident: 241 << 20, Started: &began, Containerd: "/run/containerd/containerd.sock"}
	dead := survey.Spare{Pid: 8, State: spare.Dead, CPUs: 2, Memory: 1 << 30}
	var out bytes.Buffer
	if err := listSpares(&out, []survey.Spare{one, dead}, now); err != nil {
		t.Fatal(err)
	}
	const want = `PID  STATE    CPUS  MEMORY  RESIDENT  AGE    CONTAINERD
7    waiting  1     512MiB  241MiB    1m30s  /run/containerd/containerd.sock
8    dead     2     1GiB    -         -      -
`
	if out.String() != want {
		t.Errorf("printed\n%s\nwant\n%s", out.String(), want)
	}

	for text, d := range map[string]survey.Drain{
		"there are no spares\n": {},
		"7 has ended\n8 was dead: what it had left is taken away\n":                                       {Ended: []survey.Spare{one}, Removed: []survey.Spare{dead}},
		"7 is a container's now, and stays\n":                                                             {Used: []survey.Spare{one}},
		"7 has not ended within 5s: no container gets it; kill -9 7, then once more msbctl spare drain\n": {Left: []survey.Spare{one}},
	} {
		out.Reset()
		printDrain(&out, d, 5*time.Second)
		if out.String() != text {
			t.Errorf("printed %q, want %q", out.String(), text)
		}
	}
}

// In a directory of the test's own there is one spare, which is dead: that of nobody knows whom.
func TestSpareCommands(t *testing.T) {
	root := t.TempDir()
	dead := filepath.Join(root, "key", "1x536870912-7")
	if err := os.MkdirAll(dead, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dead, "lock"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if stdout, stderr, code := run(t, "spare", "--root", root, "fill", "--address", "/no/such", "--json"); code != exitFailed || stdout != "[]\n" || !strings.Contains(stderr, "is not there") {
		t.Errorf("spare fill: code %d, %q, %q", code, stdout, stderr)
	}
	if stdout, stderr, code := run(t, "spare", "--root", root, "ls"); code != 0 || !strings.Contains(stdout, "7    dead") {
		t.Errorf("spare ls: code %d, %q, %q", code, stdout, stderr)
	}
	if stdout, stderr, code := run(t, "spare", "--root", root, "drain"); code != 0 || !strings.Contains(stdout, "7 was dead") {
		t.Errorf("spare drain: code %d, %q, %q", code, stdout, stderr)
	}
	for args, want := range map[string]string{"ls": "CONTAINERD", "drain": "", "ls --json": "[", "drain --json": `"ended": []`} {
		stdout, stderr, code := run(t, append([]string{"spare", "--root", root}, append(strings.Fields(args), "--address", "unix:///no/such")...)...)
		if code != 0 || stderr != "" || !strings.Contains(stdout, want) {
			t.Errorf("spare %s: code %d, %q, %q", args, code, stdout, stderr)
		}
	}
	for args, want := range map[string]string{
		"--count 0": "--count is 0 and must be at least 1", "--cpus -1": "--cpus is -1 and must be at least 1",
		"--memory many": `--memory "many" is not a size such as 512MiB`, "--memory 64MiB": "--memory 64MiB is less than the 128MiB that a guest needs",
		"--memory -1": "--memory", "more": "1 arguments",
	} {
		stdout, stderr, code := run(t, append([]string{"spare", "fill", "--address", "/no/such"}, strings.Fields(args)...)...)
		if code != exitUsage || stdout != "" || !strings.Contains(stderr, want) {
			t.Errorf("spare fill %s: code %d, %q, %q", args, code, stdout, stderr)
		}
	}
	if _, stderr, code := run(t, "spare", "drian"); code != exitUsage || !strings.Contains(stderr, "did you mean drain?") {
		t.Errorf("code %d, %q", code, stderr)
	}
	if _, stderr, code := run(t, "spare", "ls", "x"); code != exitUsage || !strings.Contains(stderr, "1 arguments") {
		t.Errorf("code %d, %q", code, stderr)
	}
}
