package hostile

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/cgroup"
	"github.com/msb-runtime/containerd-shim-msb/vm/jail"
)

// An intruder in any of a VM's processes starts 4,000 threads: the VM's control group
// stops it, although the spec asked for no limit.
func TestThreads(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("needs root")
	}
	for name, limited := range map[string]bool{"all measures on": true, "without the control group": false} {
		t.Run(name, func(t *testing.T) {
			if limited {
				group, err := cgroup.Enter(fmt.Sprintf("/msb-hostile-%d", os.Getpid()), nil, 256<<20)
				if err != nil {
					t.Fatal(err)
				}
				defer func() {
					if err := group.Close(); err != nil {
						t.Error(err)
					}
				}()
			}
			switch status := threads(t); {
			case limited && status != int(unix.EAGAIN):
				t.Errorf("4,000 threads: exit status %d, want that of EAGAIN", status)
			case !limited && status != 0:
				t.Errorf("4,000 threads are refused, so something else stops them, or the attack is none: exit status %d", status)
			}
		})
	}
}

// threads runs the program in a jail and tells its exit status.
func threads(t *testing.T) int {
	t.Helper()
	var output bytes.Buffer
	process, err := jail.Start(jail.Spec{
		Program: made(t, filepath.Join(t.TempDir(), "threads"), string(threadsProgram), 0o755), Output: &output,
		Namespaces: jail.Isolated, Capabilities: []uintptr{}, NoNewPrivileges: true,
		Limits: jail.FileServerLimits(jail.DescriptorLimit()),
	})
	if err != nil {
		t.Fatal(err)
	}
	select {
	case <-process.Exited():
	case <-time.After(2 * time.Minute):
		process.Kill()
		t.Fatal("the payload does not end")
	}
	status := process.State().Sys().(syscall.WaitStatus)
	if !status.Exited() {
		t.Fatalf("the payload: %v: %s", process.State(), output.String())
	}
	return status.ExitStatus()
}
