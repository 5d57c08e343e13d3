package main

import (
	"context"
	"encoding/json"
	"errors"
	"go/parser"
	"go/token"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"
)

const root = "../.."

// Each mutation is one of the code as it is: what it changes is there, once; the result is Go; and
// the test that it names exists. Otherwise the list would rot, because it is rarely run.
func TestMutationsAreOfTheCode(t *testing.T) {
	names := make(map[string]bool)
	for _, m := range slices.Concat(mutations, vmMutations) {
		if names[m.name] {
			t.Errorf("two mutations have the name %q", m.name)
		}
		names[m.name] = true
		text, err := m.apply(root)
		if err != nil {
			t.Error(err)
			continue
		}
		if _, err := parser.ParseFile(token.NewFileSet(), m.file, text, parser.SkipObjectResolution); err != nil {
			t.Errorf("%s: with the change it is no Go: %v", m.name, err)
		}
		for _, test := range strings.Split(m.run, "|") {
			if !exists(t, m.test(), test) {
				t.Errorf("%s: %s has no test %s", m.name, m.test(), test)
			}
		}
	}
}

// exists tells whether a package has a test.
func exists(t *testing.T, pkg, name string) bool {
	t.Helper()
	files, err := os.ReadDir(root + "/" + pkg)
	if err != nil {
		t.Error(err)
		return false
	}
	return slices.ContainsFunc(files, func(file os.DirEntry) bool {
		if !strings.HasSuffix(file.Name(), "_test.go") {
			return false
		}
		text, err := os.ReadFile(root + "/" + pkg + "/" + file.Name())
		return err == nil && strings.Contains(string(text), "\nfunc "+name+"(t *testing.T)")
	})
}

// The changed file takes the place of the code's, and of nothing else.
func TestOverlay(t *testing.T) {
	here, err := os.Getwd()
	if err != nil {
		t.Fatal(err)
	}
	m := mutation{name: "x", file: "mutation_test.go", old: "test/mutation has no such " + "text", new: ""}
	if _, err := m.overlay(here, t.TempDir()); err == nil || !strings.Contains(err.Error(), "0 times") {
		t.Errorf("a text that is not there: %v", err)
	}
	m = mutation{name: "x", file: "main.go", old: "package main\n", new: "package no\n"}
	list, err := m.overlay(here, t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	text, err := os.ReadFile(list)
	if err != nil {
		t.Fatal(err)
	}
	var overlay struct{ Replace map[string]string }
	if err := json.Unmarshal(text, &overlay); err != nil {
		t.Fatal(err)
	}
	changed, err := os.ReadFile(overlay.Replace[filepath.Join(here, "main.go")])
	if err != nil || len(overlay.Replace) != 1 || !strings.Contains(string(changed), "\npackage no\n") {
		t.Errorf("%s: %v", text, err)
	}
}

// Only a test that fails is red: not one that waits for ever, and not what does not compile.
func TestJudge(t *testing.T) {
	exit := errors.New("exit status 1")
	for name, c := range map[string]struct {
		text string
		err  error
		want string // empty is red
	}{
		"passes":         {"ok  \tx\t0.1s\n", nil, "is green"},
		"fails":          {"--- FAIL: TestX (0.00s)\n    x_test.go:1: no\nFAIL\n", exit, ""},
		"panics":         {"--- FAIL: TestX (0.00s)\npanic: no [recovered]\nFAIL\n", exit, ""},
		"of a subtest":   {"--- FAIL: TestX (0.00s)\n    --- FAIL: TestX/a (0.00s)\nFAIL\n", exit, ""},
		"does not end":   {"panic: test timed out after 4m0s\n\trunning tests:\n\t\tTestX (4m0s)\n", exit, "did not end"},
		"nor the next":   {"--- FAIL: TestX (0.00s)\npanic: test timed out after 4m0s\n", exit, "did not end"},
		"does not build": {"x.go:1:1: undefined: x\nFAIL\tx [build failed]\n", exit, "something else"},
		"a setting up":   {"starting containerd: no\nFAIL\tx\t0.1s\n", exit, "something else"},
		"an example":     {"--- FAIL: ExampleX (0.00s)\n", exit, "something else"},
	} {
		err := judge(c.text, c.err)
		if c.want == "" && err != nil || c.want != "" && (err == nil || !strings.Contains(err.Error(), c.want)) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A row shows what its test says, and neither what came before nor where goroutines were.
func TestComplaint(t *testing.T) {
	text := "    before\n--- FAIL: TestX (0.00s)\n    x_test.go:1: left:\n        a\npanic: no\n\ngoroutine 7 [running]:\nx.go\n\t/x.go:1 +0x1\n" +
		strings.Repeat("    "+strings.Repeat("x", 300)+"\n", 20)
	lines := strings.Split(strings.TrimSpace(complaint(text)), "\n")
	if len(lines) != 8 || lines[0] != "x_test.go:1: left:" || strings.TrimSpace(lines[1]) != "a" || strings.TrimSpace(lines[2]) != "panic: no" || len(lines[3]) > 250 {
		t.Errorf("%q", lines)
	}
	if told := complaint("    x_test.go:1: a note of a test that passes\nok\n"); told != "" {
		t.Errorf("of one that passes: %q", told)
	}
}

// What is run has a temporary directory that is gone in the end, if it is ended early, too.
func TestTemporary(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("what is run is in a mount namespace of its own: run this test as root")
	}
	place := t.TempDir()
	t.Setenv("TMPDIR", place)
	r := runner{root: root, dir: filepath.Join(place, "x")}
	if text, err := r.command(t.Context(), "", "sh", "-c", "echo $TMPDIR $MSB_TEST_HOSTS"); err != nil || text != r.dir+" "+place+"\n" {
		t.Errorf("a command has %q, %v", text, err)
	}
	ended, end := context.WithCancel(t.Context())
	end()
	for name, c := range map[string]struct {
		ctx    context.Context
		only   string
		output string
		want   string
	}{
		"ended":       {ended, "", "", "context canceled"},
		"no such row": {t.Context(), "no row has this name", "", "no mutation has a name"},
		"no output":   {t.Context(), "", filepath.Join(place, "none"), "copying"},
	} {
		if err := run(c.ctx, c.only, c.output); err == nil || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v", name, err)
		}
		if left, _ := filepath.Glob(filepath.Join(place, "*")); len(left) > 0 {
			t.Errorf("%s: left are %v", name, left)
		}
	}
}

// What a mutation lets outlive its test ends, and nothing else.
func TestKillBelow(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	start := func(below string) *exec.Cmd {
		cmd := exec.Command("sleep", "300")
		cmd.Args[0] = filepath.Join(below, "sleep")
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd
	}
	ours, others := start(dir), start(other)
	killBelow(dir)
	late := time.AfterFunc(time.Minute, func() {
		t.Error("it is not ended")
		_ = ours.Process.Kill()
	})
	_ = ours.Wait()
	late.Stop()
	if err := others.Process.Signal(syscall.SIGTERM); err != nil {
		t.Error(err)
	}
	if err := others.Wait(); err == nil || err.Error() != "signal: terminated" {
		t.Errorf("another ended with %v", err)
	}
}
