package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// The VMM is killed: every process in the VM has ended, soon, and is deleted as
// any other.
func TestVMMKilled(t *testing.T) {
	nothingLeft(t)
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "x")
	c := start(t, options{spec: []oci.SpecOpts{oci.WithMounts([]specs.Mount{bind(file, "/file")})}}, sleeper...)
	process, exit := c.startExec(cio.NullIO, nil, "sleep", "1000")

	killed := time.Now()
	if err := unix.Kill(c.vmm(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for name, exit := range map[string]<-chan client.ExitStatus{"init": c.exit, "exec": exit} {
		if code := await(t, exit); code != 137 {
			t.Errorf("%s's exit code is %d", name, code)
		}
	}
	// A second is the promise; a busy machine gets a few more here.
	if took := time.Since(killed); took > 5*time.Second {
		t.Errorf("the exits came after %v", took)
	}
	wantStatus(t, c, client.Stopped)
	if _, err := c.Exec(c.ctx, "late", &specs.Process{Args: []string{"true"}, Cwd: "/"}, cio.NullIO); err == nil || !strings.Contains(err.Error(), "the VM is gone") {
		t.Errorf("exec in a dead VM: %v", err)
	}
	if _, err := process.Delete(c.ctx); err != nil {
		t.Errorf("deleting the exec: %v", err)
	}
	if status, err := c.Delete(c.ctx); err != nil || status.ExitCode() != 137 {
		t.Errorf("deleting the task: %v, %v", status, err)
	}
	wantLinks(t, file)
}

// The guest does not answer any more: the container can be killed and deleted all
// the same, though it takes the shim's patience of half a minute.
func TestGuestFrozen(t *testing.T) {
	nothingLeft(t)
	c := start(t, options{}, sleeper...)
	if err := unix.Kill(c.vmm(), unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	go func() { _ = c.Kill(c.ctx, unix.SIGKILL) }()
	if code := await(t, c.exit); code != 137 {
		t.Errorf("exit code %d", code)
	}
	if _, err := c.Delete(c.ctx); err != nil {
		t.Error(err)
	}
}

// The shim is killed: the VM goes with it, containerd reports the exit, and
// nothing keeps the container's name or files busy.
func TestShimKilled(t *testing.T) {
	nothingLeft(t)
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "x")
	c := start(t, options{spec: []oci.SpecOpts{oci.WithMounts([]specs.Mount{bind(file, "/file")})}}, sleeper...)
	for pid, name := range harness.Processes() {
		if command, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); strings.HasPrefix(name, "containerd-shim") && strings.Contains(string(command), c.ID()) {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
		}
	}
	waitFor(t, "the VMM to be gone", func() bool { return unix.Kill(c.vmm(), 0) != nil })
	if status := <-c.exit; status.ExitCode() != 137 && status.Error() == nil {
		t.Errorf("exit %v", status)
	}
	_, _ = c.Delete(c.ctx)
	waitFor(t, "the bundle to be gone", func() bool { _, err := os.Stat(host.Bundle(c.ID())); return err != nil })
	wantLinks(t, file)
}

// The client is killed while its container is created: nobody will delete it, and
// it goes all the same.
func TestClientKilled(t *testing.T) {
	nothingLeft(t)
	for i, after := range []time.Duration{100 * time.Millisecond, 600 * time.Millisecond, 1700 * time.Millisecond} {
		t.Run(after.String(), func(t *testing.T) {
			id := fmt.Sprintf("abandoned-%d", i)
			host.Abandon(after, append(host.CtrRun(), "--null-io", harness.Image, id, "sleep", "1000")...)
			waitFor(t, "the create to end", func() bool {
				_, _, _ = host.Ctr("task", "rm", "--force", id)
				_, err := os.Stat(host.Bundle(id))
				return err != nil
			})
			// On a slow machine the client had not even made the container.
			if _, stderr, code := host.Ctr("container", "rm", id); code != 0 && !strings.Contains(stderr, "not found") {
				t.Errorf("removing the container: %s", stderr)
			}
		})
	}
}

func wantLinks(t *testing.T, file string) {
	t.Helper()
	var stat unix.Stat_t
	if err := unix.Stat(file, &stat); err != nil || stat.Nlink != 1 {
		t.Errorf("%s has %d links, %v", file, stat.Nlink, err)
	}
}

// Many runs, one after the other and at once, leave nothing: no process, mount,
// directory or socket, and no descriptor in containerd.
func TestManyRuns(t *testing.T) {
	nothingLeft(t)
	run := func(id string) {
		if _, stderr, code := host.Run(id, nil, "true"); code != 0 {
			t.Errorf("%s: code %d: %s", id, code, stderr)
		}
	}
	run("warm-up")
	before := harness.Descriptors(host.Pid())
	for i := range 20 {
		run(fmt.Sprintf("sequential-%d", i))
	}
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() { run(fmt.Sprintf("concurrent-%d", i)) })
	}
	all.Wait()
	waitFor(t, "containerd's descriptors to be closed", func() bool { return harness.Descriptors(host.Pid()) <= before })
}
