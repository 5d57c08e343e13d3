package command

import (
	"bufio"
	"bytes"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"testing"

	"github.com/msb-runtime/containerd-shim-msb/ctl/check"
)

func fixesOf(modules ...string) (fixes []check.Fix) {
	for _, module := range modules {
		fixes = append(fixes, check.Fix{For: []string{"the line of " + module}, Remedy: check.Remedy{Modules: []string{module}}})
	}
	return fixes
}

// Each remedy is told before it is done, and done only if somebody says so, or has said so of all.
func TestFix(t *testing.T) {
	for _, c := range []struct {
		yes     bool
		answers string
		done    string // the modules, with what became of them
		tried   int
	}{
		{false, "", "a refused, bad refused, c refused", 0},
		{false, "\nno\nx\n", "a refused, bad refused, c refused", 0},
		{false, "y\nYES\n", "a done, bad failed, c refused", 2},
		{false, "n\nn\ny", "a refused, bad refused, c done", 1},
		{true, "", "a done, bad failed, c done", 3},
	} {
		var said bytes.Buffer
		f := fixer{tell: &said, yes: c.yes, answers: bufio.NewReader(strings.NewReader(c.answers))}
		f.apply = func(r check.Remedy) error {
			if !strings.Contains(said.String(), "fix: "+r.String()+" (the line of "+r.Modules[0]+")\n") {
				t.Errorf("%v is done before it is told: %q", r, &said)
			}
			if r.Modules[0] == "bad" {
				return errors.New("broken")
			}
			return nil
		}
		var done []string
		for _, one := range f.fix(fixesOf("a", "bad", "c")) {
			done = append(done, strings.TrimPrefix(one.Command, "modprobe ")+" "+one.Outcome)
		}
		if got := strings.Join(done, ", "); got != c.done || f.tried != c.tried {
			t.Errorf("%q: %s, %d tried", c.answers, got, f.tried)
		}
		for text, want := range map[string]bool{
			"do it?": !c.yes, "modprobe bad has failed: broken": strings.Contains(c.done, "failed"), "next boot": strings.Contains(c.done, "done"),
		} {
			if strings.Contains(said.String(), text) != want {
				t.Errorf("%q: %q is told: %q", c.answers, text, &said)
			}
		}
	}
}

func TestFixReport(t *testing.T) {
	results := []check.Result{{Name: "a", State: check.OK, Found: "x"}, {Name: "mounts", State: check.Warning, Found: "y", Means: "m", Do: "d"}}
	var out bytes.Buffer
	r := report{out: &out, left: []string{"mounts"}}
	var code told
	if err := r.end(results); !errors.As(err, &code) || code != exitWarning || !strings.HasSuffix(out.String(), "\nleft to you: mounts\n") || !strings.HasPrefix(out.String(), "ok ") {
		t.Errorf("%v, %q", err, &out)
	}
	out.Reset()
	if r.printed = true; r.end(results) == nil || out.String() != "left to you: mounts\n" {
		t.Errorf("printed before: %q", &out)
	}
	out.Reset()
	r = report{out: &out, json: true, left: []string{"mounts"}, fixes: []fixed{{For: []string{"a"}, Command: "modprobe a", Outcome: "done"}}}
	var answer struct {
		State string
		Fixes []fixed
		Left  []string
	}
	if err := r.end(results); !errors.As(err, &code) || json.Unmarshal(out.Bytes(), &answer) != nil || answer.State != "warning" ||
		len(answer.Fixes) != 1 || answer.Fixes[0].Command != "modprobe a" || !slices.Equal(answer.Left, r.left) {
		t.Errorf("%q", &out)
	}
	if _, stderr, code := run(t, "check", "--yes"); code != exitUsage || !strings.Contains(stderr, "--yes is for --fix") {
		t.Errorf("code %d, %q", code, stderr)
	}
}
