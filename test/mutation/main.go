// Mutation takes a measure out of the code, has the test run that is to miss it, and fails
// where that test stays green. What is taken out is a table (table.go, vm.go): the bounds of
// docs/security.md above all, and what was once broken by hand to see its test turn red.
//
// The tree is not touched: the changed file is laid over it (go help build, -overlay). What is
// built and what tests leave is in a directory that goes in the end.
package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// A mutation is one change of the code that a test has to notice.
type mutation struct {
	name string
	file string // below the module's root
	old  string // is in the file once
	new  string
	pkg  string // of the test; empty for that of the file
	run  string // the name of the test, or several: a|b
}

// test is the package that has the test, as go test takes it.
func (m mutation) test() string {
	return "./" + cmp.Or(m.pkg, filepath.Dir(m.file))
}

// apply is the file with the change.
func (m mutation) apply(root string) ([]byte, error) {
	text, err := os.ReadFile(filepath.Join(root, m.file))
	if err != nil {
		return nil, err
	}
	if n := bytes.Count(text, []byte(m.old)); n != 1 {
		return nil, fmt.Errorf("%s has the text %d times that %q changes: it has to be there once", m.file, n, m.name)
	}
	return bytes.Replace(text, []byte(m.old), []byte(m.new), 1), nil
}

// overlay writes the changed file into a directory, and returns what -overlay takes.
func (m mutation) overlay(root, dir string) (string, error) {
	text, err := m.apply(root)
	if err != nil {
		return "", err
	}
	changed := filepath.Join(dir, "changed.go")
	if err := os.WriteFile(changed, text, 0o644); err != nil {
		return "", err
	}
	list, err := json.Marshal(map[string]map[string]string{"Replace": {filepath.Join(root, m.file): changed}})
	if err != nil {
		return "", err
	}
	path := filepath.Join(dir, "overlay.json")
	return path, os.WriteFile(path, list, 0o644)
}

// A runner has tests run.
type runner struct {
	root   string
	dir    string // the temporary directory of all that is run; removed in the end
	output string // the built tree that tests with a VM take; empty for the others
	spare  string // a copy of it, for what is built with a change
}

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM, syscall.SIGHUP, syscall.SIGPIPE)
	defer stop()
	only := flag.String("only", "", "a regular expression: the mutations whose names it matches")
	output := flag.String("vm", "", "the mutations that a real VM shows, with what was built into this directory")
	flag.Parse()
	if err := run(ctx, *only, *output); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func run(ctx context.Context, only, output string) (err error) {
	pattern, err := regexp.Compile(only)
	if err != nil {
		return err
	}
	root, err := os.Getwd()
	if err != nil {
		return err
	}
	table := mutations
	if output != "" {
		table = vmMutations
	}
	table = slices.DeleteFunc(slices.Clone(table), func(m mutation) bool { return !pattern.MatchString(m.name) })
	if len(table) == 0 {
		return fmt.Errorf("no mutation has a name that %q matches: see test/mutation/table.go and vm.go", only)
	}
	r := runner{root: root, output: output}
	if r.dir, err = os.MkdirTemp("", "msb-mut-"); err != nil { // a short name: sockets are below it
		return err
	}
	defer func() {
		killBelow(r.dir)
		err = errors.Join(err, os.RemoveAll(r.dir))
	}()
	if output != "" {
		r.spare = filepath.Join(r.dir, "output")
		if text, err := exec.CommandContext(ctx, "cp", "-a", "--reflink=auto", output, r.spare).CombinedOutput(); err != nil {
			return fmt.Errorf("copying %s: %w: %s", output, err, text)
		}
	}
	var failed []string
	green := make(map[string]error) // by package: whether its tests pass as the code is
	for _, m := range table {
		start := time.Now()
		if _, known := green[m.test()]; !known {
			green[m.test()] = r.passes(ctx, m.test(), table)
		}
		verdict, said := green[m.test()], ""
		if verdict == nil {
			said, verdict = r.try(ctx, m)
		}
		if ctx.Err() != nil {
			break // it was ended by that
		}
		fmt.Printf("%-5s %5.1fs  %s (%s)\n", word(verdict), time.Since(start).Seconds(), m.name, m.run)
		if verdict != nil {
			fmt.Printf("       %v\n", verdict)
			failed = append(failed, m.name)
		}
		fmt.Print(complaint(said))
	}
	switch {
	case ctx.Err() != nil:
		return context.Cause(ctx)
	case len(failed) > 0:
		return fmt.Errorf("%d of %d mutations did not turn their test red: %s", len(failed), len(table), strings.Join(failed, "; "))
	}
	fmt.Printf("all of %d mutations turn their test red\n", len(table))
	return nil
}

func word(err error) string {
	if err != nil {
		return "WRONG"
	}
	return "red"
}

// passes returns nil if the tests that a package has for the mutations pass as the code is.
func (r runner) passes(ctx context.Context, pkg string, table []mutation) error {
	var tests []string
	for _, m := range table {
		if m.test() == pkg {
			tests = append(tests, m.run)
		}
	}
	if text, err := r.test(ctx, pkg, strings.Join(tests, "|"), "", r.output); err != nil {
		return fmt.Errorf("the tests of %s do not pass as the code is: %w\n%s", pkg, err, last(text))
	}
	return nil
}

// try returns nil if a test fails with the mutation, and what that says.
func (r runner) try(ctx context.Context, m mutation) (said string, err error) {
	dir, err := os.MkdirTemp(r.dir, "row-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(dir)
	overlay, err := m.overlay(r.root, dir)
	if err != nil {
		return "", err
	}
	built := r.output
	if r.spare != "" {
		built = r.spare
		if text, err := r.command(ctx, overlay, "make", "shim", "ctl", "kit", "probe", "OUTPUT="+built); err != nil {
			return "", fmt.Errorf("it cannot be built: %v\n%s", err, last(text))
		}
	}
	text, err := r.test(ctx, m.test(), m.run, overlay, built)
	return text, judge(text, err)
}

// judge returns nil if a test has failed, of what a run with a mutation printed and ended with. One
// that waits for ever has not: whatever else hangs looks the same, and nobody reads what did not come.
func judge(text string, err error) error {
	switch {
	case err == nil:
		return errors.New("the test is green: it does not miss what was taken out")
	case strings.Contains(text, "panic: test timed out"):
		return fmt.Errorf("the test did not end: give it a limit of its own, and have it say what did not come\n%s", last(text))
	case !strings.Contains(text, "--- FAIL: Test"):
		return fmt.Errorf("no test has failed, but something else: %v\n%s", err, last(text))
	}
	return nil
}

// complaint is the beginning of what the tests said that failed, for who looks whether they are red
// for what was taken out.
func complaint(text string) string {
	const most, width = 8, 200
	var told strings.Builder
	failed, lines := false, 0
	for line := range strings.Lines(text) {
		line = strings.TrimRight(line, "\n")
		failed = failed || strings.HasPrefix(line, "--- FAIL: Test")
		isSaid := strings.HasPrefix(line, "    ") || strings.HasPrefix(line, "panic: ")
		if !failed || !isSaid {
			continue
		}
		if lines++; lines > most {
			break
		}
		fmt.Fprintf(&told, "       %s\n", line[:min(len(line), width)])
	}
	return told.String()
}

// limit is how long the tests of one package may take, all of them as the code is, or some with a
// mutation.
const limit = 4 * time.Minute

// patience is how long a test with a VM waits for one thing when there is a mutation, instead of
// harness.Patience: what was taken out never comes.
const patience = 90 * time.Second

// test runs tests of a package.
func (r runner) test(ctx context.Context, pkg, tests, overlay, output string) (string, error) {
	within := limit
	if output != "" {
		within *= 5
		if err := os.Setenv("MSB_OUTPUT", output); err != nil {
			return "", err
		}
	}
	return r.command(ctx, overlay, "go", "test", "-count=1", "-vet=off", "-failfast", fmt.Sprint("-timeout=", within), "-run", "^("+tests+")$", pkg)
}

// command runs a program at the module's root. What it builds, and what tests build, has the
// overlay.
func (r runner) command(ctx context.Context, overlay, name string, args ...string) (string, error) {
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Dir = r.root
	// The tests' containerds stay where all others see them (test/harness).
	cmd.Env = append(os.Environ(), "TMPDIR="+r.dir, "MSB_TEST_HOSTS="+os.TempDir())
	if overlay != "" {
		cmd.Env = append(cmd.Env, strings.TrimSpace("GOFLAGS="+os.Getenv("GOFLAGS")+" -overlay="+overlay), fmt.Sprint("MSB_PATIENCE=", patience))
	}
	// What it has started is to end, too, and what a test has mounted that ended for its time goes
	// with the mount namespace. Tests with a VM make one, and know others' processes by the host's.
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if r.output == "" {
		cmd.SysProcAttr.Unshareflags = syscall.CLONE_NEWNS
	}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGINT) }
	cmd.WaitDelay = 30 * time.Second
	text, err := cmd.CombinedOutput()
	return string(text), err
}

// killBelow kills the processes of programs below a directory: a measure that was taken out may
// be what ends them.
func killBelow(dir string) {
	lines, _ := filepath.Glob("/proc/[0-9]*/cmdline")
	for _, name := range lines {
		line, _ := os.ReadFile(name)
		if pid, err := strconv.Atoi(filepath.Base(filepath.Dir(name))); err == nil && strings.HasPrefix(string(line), dir+"/") {
			_ = syscall.Kill(pid, syscall.SIGKILL)
		}
	}
}

// last is the end of a long text.
func last(text string) string {
	const most = 2000
	return text[max(0, len(text)-most):]
}
