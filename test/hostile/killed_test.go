package hostile

import (
	"bufio"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
	"github.com/msb-runtime/containerd-shim-msb/test/itself"
)

// heldVariable has TestHeld wait to be killed.
const heldVariable = "MSB_HOSTILE_HELD"

// TestHeld is no test, but what TestKilled kills: a run with a mount, files, and a process that would
// outlive it.
func TestHeld(t *testing.T) {
	if os.Getenv(heldVariable) == "" {
		return
	}
	dir := shortDir(t)
	procfs(t, filepath.Join(dir, "proc"))
	attackable(t, dir, made(t, filepath.Join(dir, "host/secret"), "secret", 0o600))
	os.Stdout.WriteString("held\n")
	time.Sleep(24 * time.Hour)
}

// A run that a signal ends leaves no mount, no file and no shared memory. What one leaves that was killed the next one
// removes, and nothing of a run that lives or of others.
func TestKilled(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test mounts: run it as root")
	}
	tmp := t.TempDir()
	for _, other := range []string{"msb-other", "h-1", "msb-h"} {
		made(t, filepath.Join(tmp, other, "file"), "", 0o600)
	}
	others := harness.Names(t, tmp)
	run := func(filter string, environment ...string) *exec.Cmd {
		cmd := exec.Command("/proc/self/exe", "-test.run", filter)
		cmd.Env = slices.DeleteFunc(os.Environ(), func(e string) bool { return strings.HasPrefix(e, insideVariable+"=") })
		cmd.Env = append(append(cmd.Env, "TMPDIR="+tmp), environment...)
		return cmd
	}
	// held starts a run, and returns when it has mounted. end waits until all that it has started is gone.
	held := func() (cmd *exec.Cmd, end func()) {
		cmd = run("^TestHeld$", heldVariable+"=1")
		cmd.Stderr = os.Stderr
		reader, writer, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		cmd.Stdout = writer
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = cmd.Process.Kill() })
		writer.Close()
		output := bufio.NewScanner(reader)
		for output.Scan() && output.Text() != "held" {
		}
		if output.Err() != nil || output.Text() != "held" {
			t.Fatalf("it does not mount: %q, %v", output.Text(), output.Err())
		}
		return cmd, func() {
			_ = cmd.Wait()
			for output.Scan() { // to its end: who holds the other end is gone
			}
			reader.Close()
		}
	}
	living, end := held()
	livingDirs, memory := harness.Names(t, tmp), segments(t)
	for _, s := range []unix.Signal{unix.SIGINT, unix.SIGTERM, unix.SIGHUP, unix.SIGKILL} {
		cmd, end := held()
		if err := cmd.Process.Signal(s); err != nil {
			t.Fatal(err)
		}
		end()
		if mounts := itself.MountsBelow(t, tmp); len(mounts) > 0 {
			t.Errorf("%v: it left mounts: %q", s, mounts)
		}
		if now := segments(t); now != memory {
			t.Errorf("%v: it left shared memory:\n%s", s, now)
		}
		if s == unix.SIGKILL {
			if got := harness.Names(t, tmp); len(got) != len(livingDirs)+1 {
				t.Errorf("%v: there are %q: nothing is there to be swept", s, got)
			}
			if said, err := run("^$").CombinedOutput(); err != nil || !strings.Contains(string(said), "had left") {
				t.Errorf("the next run said %q, %v", said, err)
			}
		}
		if got := harness.Names(t, tmp); !slices.Equal(got, livingDirs) {
			t.Errorf("%v: there are %q, and should be %q", s, got, livingDirs)
		}
	}
	if err := living.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	end()
	if got := harness.Names(t, tmp); !slices.Equal(got, others) {
		t.Errorf("in the end there are %q, and should be %q", got, others)
	}
}

// segments lists the shared memory of this process's namespace (sysvipc(7)).
func segments(t *testing.T) string {
	t.Helper()
	list, err := os.ReadFile("/proc/sysvipc/shm")
	if err != nil {
		t.Fatal(err)
	}
	return string(list)
}
