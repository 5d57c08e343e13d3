package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// Tests that somebody ends by a signal leave nothing, and do not touch what other tests
// have: these here.
func TestInterrupted(t *testing.T) {
	nothingLeft(t)
	c := start(t, options{}, sleeper...)
	dir := t.TempDir()
	cmd := exec.Command("/proc/self/exe", "-test.run", "^TestManyRuns$", "-test.v")
	for _, variable := range os.Environ() {
		if !strings.HasPrefix(variable, harness.Private) {
			cmd.Env = append(cmd.Env, variable)
		}
	}
	cmd.Env = append(cmd.Env, "TMPDIR="+dir)
	var output harness.Buffer
	cmd.Stdout, cmd.Stderr = &output, &output
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	var shims []int
	waitFor(t, "a shim of the other tests", func() bool {
		shims = processesBelow(dir)
		return len(shims) > 0
	})
	if err := cmd.Process.Signal(unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err == nil {
		t.Errorf("tests that were ended have passed:\n%s", &output)
	}
	if left := processesBelow(dir); len(left) > 0 {
		t.Errorf("processes %v are left of them\n%s", left, &output)
	}
	if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 {
		t.Errorf("%v is left of them\n%s", left, &output)
	}
	c.must("true") // ours runs on
}

// processesBelow are those of containerds that have their socket below a directory.
func processesBelow(dir string) (found []int) {
	for pid := range harness.Processes() {
		line, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if strings.Contains(string(line), "\x00"+dir+"/") {
			found = append(found, pid)
		}
	}
	return found
}
