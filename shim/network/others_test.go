package network

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
)

// dwell starts a process in a network namespace, with more namespaces of its own.
func dwell(t *testing.T, path string, flags uintptr) int {
	t.Helper()
	cmd := exec.Command("sleep", "infinity")
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: flags}
	in(t, path, cmd.Start)
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
	})
	return cmd.Process.Pid
}

// Where containers of others live no VM comes in, nor where any process does that the
// namespace was named by; and the host's network is never taken.
func TestOthers(t *testing.T) {
	empty, contained, served := namespace(t), namespace(t), namespace(t)
	ofContained := dwell(t, contained, unix.CLONE_NEWPID)
	ofServed := dwell(t, served, 0)
	for path, says := range map[string]string{
		empty:                                    "",
		contained:                                fmt.Sprintf("(%d is one)", ofContained),
		served:                                   "",
		fmt.Sprintf("/proc/%d/ns/net", ofServed): fmt.Sprintf("(%d is one)", ofServed),
		fmt.Sprintf("/proc/%d/ns/net", ofContained): fmt.Sprintf("(%d is one)", ofContained),
		"/proc/self/ns/net":                         "processes of others",
	} {
		before := namesAt(t, path)
		n, err := Open(mountns.Namespace{}, path)
		if err == nil {
			if err := n.Close(); err != nil {
				t.Error(err)
			}
			if says != "" {
				t.Errorf("%s was opened", path)
			}
		} else if says == "" || !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", path, err)
		}
		if after := namesAt(t, path); after != before {
			t.Errorf("%s had %s and has %s", path, before, after)
		}
	}
}

// A process that ends while it is looked at is in no namespace.
func TestProcessThatEnds(t *testing.T) {
	file, err := newNamespace()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	proc := t.TempDir()
	for process, names := range map[string][]string{"7": {"net"}, "8": {"net", "pid"}, "9": nil} {
		if err := os.MkdirAll(filepath.Join(proc, process, "ns"), 0o755); err != nil {
			t.Fatal(err)
		}
		for _, name := range names {
			target := map[string]string{"net": fmt.Sprintf("/proc/self/fd/%d", file.Fd()), "pid": "/proc/self/ns/pid"}[name]
			if err := os.Symlink(target, filepath.Join(proc, process, "ns", name)); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, want := range []int{8, 0} {
		if pid, contained, err := findOther(proc, file); pid != want || contained || err != nil {
			t.Errorf("process %d, contained %v, %v: want %d", pid, contained, err, want)
		}
		if err := os.RemoveAll(filepath.Join(proc, "8")); err != nil {
			t.Fatal(err)
		}
	}
}

func BenchmarkOthers(b *testing.B) {
	file, err := newNamespace()
	if err != nil {
		b.Fatal(err)
	}
	defer file.Close()
	processes, _ := os.ReadDir("/proc")
	for b.Loop() {
		if pid, _, err := findOther("/proc", file); pid != 0 || err != nil {
			b.Fatal(pid, err)
		}
	}
	b.ReportMetric(float64(len(processes)), "entries")
}
