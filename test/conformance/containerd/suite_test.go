// Package client runs containerd's own tests of its client (integration/client of
// its sources, unchanged) with the runtime under test in runc's place, and compares
// what each came to with a file of expectations.
package client

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

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

var (
	update = flag.Bool("update", false, "write the results into the file of expectations")
	under  = flag.String("runtime", harness.Runtime, "the runtime under test")
	only   = flag.String("only", "", "run only these tests: a regular expression")
	limit  = flag.Duration("limit", 40*time.Minute, "how long the suite may take")
)

// short is what -short runs: the tests of a task's life and of a containerd that
// starts again, all of which pass. Most of the others are not about the runtime, or are
// more of the same.
const short = "^(TestContainer(Start|Output|Wait|Exec|Kill|CloseIO|Pids|Attach|Hostname|Metrics|PTY|NoSTDIN|LargeExecArgs|Hook)|" +
	"TestTask(ForceDelete|Resize|Spec)|TestProcessForceDelete|TestDelete(RunningContainer|ContainerExecCreated)|TestRuntimeInfo|" +
	"TestShimDoesNotLeak(Pipes|Sockets)|TestDaemon(Restart|RestartWithRunningShim|ReconnectsToShimIOPipesOnRestart))$"

func TestMain(m *testing.M) {
	if dir := os.Getenv(worldEnv); dir != "" {
		code, err := live(dir, os.Args[1:])
		if err != nil {
			fmt.Fprintln(os.Stderr, "client:", err)
		}
		os.Exit(code)
	}
	os.Exit(m.Run())
}

func TestSuite(t *testing.T) {
	output := os.Getenv("MSB_OUTPUT")
	if output == "" {
		t.Fatal("MSB_OUTPUT must name the build's output directory: use make conformance-client")
	}
	file := *under + ".txt"
	expected, err := readExpectations(file)
	if err != nil {
		t.Fatal(err)
	}
	tests := "^Test"
	if testing.Short() {
		tests = short
	}
	if *only != "" {
		tests = *only
	}
	s := suite{t: t, output: output, results: filepath.Join(output, "results")}
	results := s.run(tests, expected.omitted())
	if len(results) == 0 {
		t.Fatalf("nothing ran; the end of %s:\n%s", s.daemonLog(), tail(s.daemonLog()))
	}
	selected := regexp.MustCompile(tests)
	ran := func(name string) bool {
		test, _, _ := strings.Cut(name, "/")
		return selected.MatchString(test)
	}
	if *update {
		if err := expected.update(results, ran).write(file); err != nil {
			t.Fatal(err)
		}
		return
	}
	for _, difference := range expected.compare(results, ran) {
		t.Error(difference)
	}
	if !failed(results) {
		for _, process := range s.left() {
			t.Error(process)
		}
	}
	if t.Failed() {
		t.Logf("what the tests said is in %s, what containerd and the shims said in %s", s.log(), s.daemonLog())
	}
}

// A suite runs containerd's tests.
type suite struct {
	t               *testing.T
	output, results string
}

func (s suite) log() string { return filepath.Join(s.results, "client-"+*under+".log") }
func (s suite) daemonLog() string {
	return filepath.Join(s.results, "client-"+*under+".containerd.log")
}

// run runs the tests that match, but for some, and returns each one's result.
func (s suite) run(tests string, omitted []string) map[string]string {
	s.t.Helper()
	dir, err := os.MkdirTemp("", "msb-client-")
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			s.t.Error(err)
		}
	})
	// The world ends with the thread that made it.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	cmd := newWorld(s.output, dir, *under, "-test.v=test2json", "-test.run", tests, "-test.skip", pattern(omitted),
		"-test.parallel", "2", "-test.timeout", limit.String(), "-no-criu", "-test.root")
	log, daemonLog := s.create(s.log()), s.create(s.daemonLog())
	defer log.Close()
	defer daemonLog.Close()
	cmd.Stdout, cmd.Stderr = log, daemonLog
	err = cmd.Run()
	if ended := new(exec.ExitError); err != nil && !errors.As(err, &ended) {
		s.t.Fatal(err)
	}
	sweepControlGroups()
	results, err := read(s.t.Context(), s.log())
	if err != nil {
		s.t.Fatal(err)
	}
	return results
}

// sweepControlGroups removes those of the suite's namespaces in containerd and of
// TestShimInCgroup, as far as they are empty.
func sweepControlGroups() {
	for _, pattern := range []string{"testing*", "nnnn*", "containerd"} {
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

// read has go's own tool make sense of a log.
func read(ctx context.Context, log string) (map[string]string, error) {
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
	results := make(map[string]string)
	for decoder := json.NewDecoder(events); ; {
		var event struct{ Action, Test string }
		if err = decoder.Decode(&event); err != nil {
			break
		}
		if event.Test != "" && (event.Action == pass || event.Action == fail || event.Action == skip) {
			results[event.Test] = event.Action
		}
	}
	if errors.Is(err, io.EOF) {
		err = nil
	}
	return results, errors.Join(err, cmd.Wait())
}

// failed says whether any test failed, expected or not. It may have left its container
// where it was, so that what is left says nothing about the runtime.
func failed(results map[string]string) bool {
	return slices.Contains(slices.Collect(maps.Values(results)), fail)
}

// left are the processes that were there when the tests had ended.
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
