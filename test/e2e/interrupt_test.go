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

// Tests that somebody ends by a signal leave nothing; what tests leave that were killed, the
// next ones take away. Neither touches what other tests have: these here.
func TestInterrupted(t *testing.T) {
	nothingLeft(t)
	c := start(t, options{}, sleeper...)
	dir := t.TempDir()
	other := func(t *testing.T, pattern string) (cmd *exec.Cmd, output *harness.Buffer) {
		cmd, output = exec.Command("/proc/self/exe", "-test.v", "-test.run", pattern), &harness.Buffer{}
		for _, variable := range os.Environ() {
			if !strings.HasPrefix(variable, harness.Private) {
				cmd.Env = append(cmd.Env, variable)
			}
		}
		cmd.Env = append(cmd.Env, "TMPDIR="+dir)
		cmd.Stdout, cmd.Stderr = output, output
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		return cmd, output
	}
	running := func(t *testing.T) (cmd *exec.Cmd, output *harness.Buffer) {
		cmd, output = other(t, "^TestManyRuns$")
		waitFor(t, "a shim of the other tests", func() bool { return len(processesBelow(dir)) > 0 })
		return cmd, output
	}
	nothing := func(t *testing.T, output *harness.Buffer) {
		if !harness.Eventually(func() bool { return len(processesBelow(dir)) == 0 }) {
			t.Errorf("processes %v are left of them\n%s", processesBelow(dir), output)
		}
		if left, _ := filepath.Glob(filepath.Join(dir, "*")); len(left) > 0 {
			t.Errorf("%v is left of them\n%s", left, output)
		}
	}
	t.Run("by a signal", func(t *testing.T) {
		cmd, output := running(t)
		if err := cmd.Process.Signal(unix.SIGINT); err != nil {
			t.Fatal(err)
		}
		if err := cmd.Wait(); err == nil {
			t.Errorf("tests that were ended have passed:\n%s", output)
		}
		nothing(t, output)
	})
	t.Run("killed", func(t *testing.T) {
		cmd, _ := running(t)
		for _, child := range children(cmd.Process.Pid) { // which runs the tests
			if err := unix.Kill(child, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
		_ = cmd.Wait()
		alive := lockedDir(t, filepath.Join(dir, "msb-test-alive"))
		next, output := other(t, "^$")
		if err := next.Wait(); err != nil || !strings.Contains(output.String(), "tests that were killed had left "+dir) {
			t.Errorf("the next tests: %v\n%s", err, output)
		}
		if err := os.Remove(filepath.Join(alive, "lock")); err != nil {
			t.Errorf("what belongs to a process that lives was swept: %v\n%s", err, output)
		}
		_ = os.Remove(alive)
		nothing(t, output)
	})
	c.must("true") // ours runs on
}

// lockedDir makes a directory as tests have one, which belongs to this process.
func lockedDir(t *testing.T, dir string) string {
	t.Helper()
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	file, err := os.Create(filepath.Join(dir, "lock"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	if err := unix.Flock(int(file.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	return dir
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
