// Package containerd runs containerd's own tests, unchanged from its sources, with the
// runtime under test in runc's place, and compares what each came to with a file of
// expectations. There are two suites: of its client (integration/client), and of its
// CRI plugin (integration).
package containerd

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/msb-runtime/containerd-shim-msb/test/conformance/expect"
)

var (
	update    = flag.Bool("update", false, "write the results into the file of expectations")
	handler   = flag.String("handler", "msb", "the runtime under test: msb or runc")
	sandboxer = flag.String("sandboxer", "podsandbox", "how containerd runs the sandboxes of the CRI plugin's suite: podsandbox or shim")
	only      = flag.String("only", "", "run only these tests: a regular expression")
)

func TestMain(m *testing.M) {
	if dir := os.Getenv(worldEnv); dir != "" {
		code, err := live(dir, os.Args[1:])
		if err != nil {
			fmt.Fprintln(os.Stderr, "world:", err)
		}
		os.Exit(code)
	}
	os.Exit(m.Run())
}

// runtimeType is containerd's name of the runtime under test.
func runtimeType() string { return "io.containerd." + *handler + ".v2" }

// A suite is a program with some of containerd's tests.
type suite struct {
	name      string // of the program and the files
	short     string // what -short runs: a regular expression
	variant   string // the expectations'
	variants  []string
	arguments []string
	config    string        // of the containerd that it needs; if empty it starts one itself
	limit     time.Duration // how long it may take

	t               *testing.T
	output, results string
}

// test runs the suite and holds its results against those that are expected.
func (s suite) test(t *testing.T) {
	s.t, s.output = t, os.Getenv("MSB_OUTPUT")
	if s.output == "" {
		t.Fatal("MSB_OUTPUT must name the build's output directory: use make conformance")
	}
	s.results = filepath.Join(s.output, "results")
	file := s.name + ".txt"
	if *handler != "msb" {
		file = s.name + "-" + *handler + ".txt"
	}
	expected, err := expect.Read(file, s.variants)
	if err != nil {
		t.Fatal(err)
	}
	tests := "^Test"
	if testing.Short() {
		tests = s.short
	}
	if *only != "" {
		tests = *only
	}
	begin := time.Now()
	results := s.run(tests, expected.Omitted(s.variant))
	if len(results) == 0 {
		t.Fatalf("nothing ran; the end of %s:\n%s", s.daemonLog(), tail(s.daemonLog()))
	}
	s.compare(expected, results, regexp.MustCompile(tests), time.Since(begin))
	if *update && !t.Failed() {
		if err := expected.Write(file); err != nil {
			t.Fatal(err)
		}
		return
	}
	if !slices.Contains(slices.Collect(maps.Values(results)), expect.Failed) {
		for _, process := range s.left() {
			t.Error(process)
		}
	}
	if t.Failed() {
		t.Logf("what the tests said is in %s, what containerd and the shims said in %s", s.log(), s.daemonLog())
	}
}

// compare compares the results, or takes them over.
func (s suite) compare(expected *expect.Expectations, results map[string]expect.Result, selected *regexp.Regexp, took time.Duration) {
	s.t.Helper()
	count := make(map[expect.Result]int)
	for _, result := range results {
		count[result]++
	}
	s.t.Logf("%s, %s: %d passed, %d failed, %d skipped, in %v", s.title(), *handler,
		count[expect.Passed], count[expect.Failed], count[expect.Skipped], took.Round(time.Second))
	missing := expected.Missing(s.variant, results, func(name string) bool {
		test, _, _ := strings.Cut(name, "/")
		return selected.MatchString(test)
	})
	if *update {
		expected.Update(s.variant, results, missing)
		return
	}
	for _, name := range slices.Sorted(maps.Keys(results)) {
		if err := expected.Compare(s.variant, name, results[name]); err != nil {
			s.t.Errorf("%s: %v", name, err)
		}
	}
	for _, name := range missing {
		s.t.Errorf("%s is expected and has no result", name)
	}
}

// title names a run of the suite, also for its files.
func (s suite) title() string { return strings.Trim(s.name+"-"+s.variant, "-") }

func (s suite) log() string {
	return filepath.Join(s.results, s.title()+"-"+*handler+".log")
}

func (s suite) daemonLog() string {
	return filepath.Join(s.results, s.title()+"-"+*handler+".containerd.log")
}

// run runs the tests that match, but for some, and returns each one's result.
func (s suite) run(tests string, omitted []string) map[string]expect.Result {
	s.t.Helper()
	dir, err := os.MkdirTemp("", "msb-conformance-")
	if err == nil {
		err = os.Chmod(dir, 0o755) // pods' user namespaces have to get through
	}
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			s.t.Error(err)
		}
	})
	if s.config != "" {
		if err := os.WriteFile(daemonConfig(dir), []byte(s.config), 0o600); err != nil {
			s.t.Fatal(err)
		}
	}
	// The world ends with the thread that made it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := newWorld(s.output, dir, filepath.Join(s.output, "tools", s.name+".test"), append(s.arguments,
		"-test.v=test2json", "-test.run", tests, "-test.skip", pattern(omitted), "-test.parallel", "2", "-test.timeout", s.limit.String()))
	log, daemonLog := s.create(s.log()), s.create(s.daemonLog())
	defer log.Close()
	defer daemonLog.Close()
	cmd.Stdout, cmd.Stderr = log, daemonLog
	err = cmd.Run()
	ended := new(exec.ExitError)
	if err != nil && !errors.As(err, &ended) {
		s.t.Fatal(err)
	}
	if err != nil && ended.ExitCode() != 1 { // 1 is that a test failed
		s.t.Errorf("the suite did not come to its end (%v): what ran last, at the end of %s, is to be omitted", err, s.log())
	}
	sweepControlGroups()
	results, err := read(s.t.Context(), s.log())
	if err != nil {
		s.t.Fatal(err)
	}
	return results
}

// sweepControlGroups removes those of the suites' namespaces in containerd, of pods and
// of TestShimInCgroup, as far as they are empty.
func sweepControlGroups() {
	for _, pattern := range []string{"testing*", "nnnn*", "containerd", "k8s.io", "containerd-test"} {
		for _, root := range []string{"/sys/fs/cgroup", "/sys/fs/cgroup/*"} {
			tops, _ := filepath.Glob(filepath.Join(root, pattern))
			for _, top := range tops {
				var groups []string
				_ = filepath.WalkDir(top, func(path string, entry fs.DirEntry, err error) error {
					if err == nil && entry.IsDir() {
						groups = append(groups, path)
					}
					return nil
				})
				for _, group := range slices.Backward(groups) {
					_ = os.Remove(group)
				}
			}
		}
	}
}

func (s suite) create(name string) *os.File {
	s.t.Helper()
	err := os.MkdirAll(s.results, 0o755)
	if err != nil {
		s.t.Fatal(err)
	}
	file, err := os.Create(name)
	if err != nil {
		s.t.Fatal(err)
	}
	return file
}

// pattern is the regular expression, for -test.skip, of these tests and no others.
func pattern(names []string) string {
	var patterns []string
	for _, name := range names {
		elements := strings.Split(name, "/")
		for i, element := range elements {
			elements[i] = "^" + regexp.QuoteMeta(element) + "$"
		}
		patterns = append(patterns, strings.Join(elements, "/"))
	}
	return strings.Join(patterns, "|")
}

// actions are the results by go's names of them.
var actions = map[string]expect.Result{"pass": expect.Passed, "fail": expect.Failed, "skip": expect.Skipped}

// read has go's own tool make sense of a log.
func read(ctx context.Context, log string) (map[string]expect.Result, error) {
	input, err := os.Open(log)
	if err != nil {
		return nil, err
	}
	defer input.Close()
	cmd := exec.CommandContext(ctx, "go", "tool", "test2json")
	cmd.Stdin = input
	events, err := cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	results := make(map[string]expect.Result)
	for decoder := json.NewDecoder(events); ; {
		var event struct{ Action, Test string }
		if err = decoder.Decode(&event); err != nil {
			break
		}
		if result, ok := actions[event.Action]; ok && event.Test != "" {
			results[event.Test] = result
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return results, errors.Join(err, cmd.Wait())
}

// left are the processes that were there when the tests had ended. One that failed may
// have left its container where it was, so that they say nothing about the runtime then.
func (s suite) left() (processes []string) {
	log, _ := os.ReadFile(s.daemonLog())
	for line := range strings.Lines(string(log)) {
		if strings.HasPrefix(line, leftMark) {
			processes = append(processes, strings.TrimSpace(line))
		}
	}
	return processes
}

// tail is the end of a file.
func tail(name string) string {
	data, _ := os.ReadFile(name)
	return string(data[max(0, len(data)-4000):])
}
