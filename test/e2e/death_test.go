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

	if err := unix.Kill(c.vmm(), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	for name, exit := range map[string]<-chan client.ExitStatus{"init": c.exit, "exec": exit} {
		if code := await(t, exit); code != 137 {
			t.Errorf("%s's exit code is %d", name, code)
		}
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
// the same, though that takes the guest's budget of 25 seconds.
func guestFrozen(t *testing.T) {
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

// The shim is killed: the VM goes with it, containerd reports the exit by the task's pid,
// and nothing keeps the container's name or files busy. How a task ended before that
// is not forgotten.
func TestShimKilled(t *testing.T) {
	nothingLeft(t)
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "x")
	for name, life := range map[string]struct {
		command []string
		status  uint32
	}{
		"running": {sleeper, 137},
		"exited":  {[]string{"sh", "-c", "exit 42"}, 42},
	} {
		t.Run(name, func(t *testing.T) {
			events := record(t)
			c := start(t, options{spec: []oci.SpecOpts{oci.WithMounts([]specs.Mount{bind(file, "/file")})}}, life.command...)
			if life.status == 42 {
				if code := await(t, c.exit); code != life.status {
					t.Errorf("exit code %d", code)
				}
			}
			vmm := c.vmm()
			if err := unix.Kill(shimOf(t, c.ID()), unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			waitFor(t, "the VMM to be gone", func() bool { return unix.Kill(vmm, 0) != nil })
			_, all := events.until(t, c.ID(), "/tasks/delete")
			checkEvents(t, c, all)
			for _, event := range all {
				if ended, ok := event.(interface{ GetExitStatus() uint32 }); ok && ended.GetExitStatus() != life.status {
					t.Errorf("%T has status %d, want %d", event, ended.GetExitStatus(), life.status)
				}
			}
			_, _ = c.Delete(c.ctx)
			waitFor(t, "the bundle to be gone", func() bool { _, err := os.Stat(host.Bundle(c.ID())); return err != nil })
		})
	}
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

// The VMM, the shim, or both are killed, in each phase of a
// container's life. The client learns of it, the container can be removed, and
// nothing is left.
func TestFM61FM62Killed(t *testing.T) {
	nothingLeft(t)
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "x")
	spec := options{spec: []oci.SpecOpts{oci.WithMounts([]specs.Mount{bind(file, "/file")})}}
	phases := map[string]func(*testing.T, func(id string)){
		"booting": func(t *testing.T, kill func(string)) {
			id := fmt.Sprintf("booting-%d", time.Now().UnixNano())
			ended := make(chan int)
			go func() {
				_, _, code := host.Run(id, []string{harness.Bind(file, "/file", "rbind")}, "sleep", "1000")
				ended <- code
			}()
			waitFor(t, "the VMM to start", func() bool { shim := findShim(id); return shim != 0 && findVMM(shim) != 0 })
			kill(id)
			if code := <-ended; code == 0 {
				t.Error("ctr run succeeded")
			}
		},
		"created": func(t *testing.T, kill func(string)) {
			c := create(t, spec, sleeper...)
			kill(c.ID())
			if err := c.Start(c.ctx); err == nil {
				t.Error("the container started")
			}
		},
		"running": func(t *testing.T, kill func(string)) {
			c := start(t, spec, sleeper...)
			_, exec := c.startExec(cio.NullIO, nil, "sleep", "1000")
			kill(c.ID())
			for _, exit := range []<-chan client.ExitStatus{c.exit, exec} {
				ended(t, exit)
			}
		},
		"deleting": func(t *testing.T, kill func(string)) {
			c := start(t, spec, sleeper...)
			_ = c.Kill(c.ctx, unix.SIGKILL)
			await(t, c.exit)
			deleted := make(chan struct{})
			go func() { defer close(deleted); _, _ = c.Delete(c.ctx) }()
			time.Sleep(5 * time.Millisecond)
			kill(c.ID())
			<-deleted
		},
	}
	for _, victims := range []string{"VMM", "shim", "VMM and shim"} {
		for phase, live := range phases {
			t.Run(victims+" "+phase, func(t *testing.T) {
				live(t, func(id string) {
					shim := findShim(id)
					vmm := findVMM(shim)
					for pid, victim := range map[int]string{vmm: "VMM", shim: "shim"} {
						if strings.Contains(victims, victim) && pid != 0 {
							_ = unix.Kill(pid, unix.SIGKILL) // it may just be ending
						}
					}
				})
				wantLinks(t, file)
			})
		}
	}
}

// shimOf is the process id of a container's shim.
func shimOf(t *testing.T, id string) int {
	t.Helper()
	pid := findShim(id)
	if pid == 0 {
		t.Fatalf("no shim for %s", id)
	}
	return pid
}

// findShim is 0 when there is none.
func findShim(id string) int {
	for pid, name := range harness.Processes() {
		if command, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); strings.HasPrefix(name, "containerd-shim") && strings.Contains(string(command), "-namespace\x00"+harness.Namespace+"\x00-id\x00"+id+"\x00") {
			return pid
		}
	}
	return 0
}

// findVMM is the VMM among a shim's children, 0 when there is none.
func findVMM(shim int) int {
	processes := harness.Processes()
	for _, pid := range children(shim) {
		if processes[pid] == host.VMM() {
			return pid
		}
	}
	return 0
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
	for i := range harness.Many(4, 20) {
		run(fmt.Sprintf("sequential-%d", i))
	}
	var all sync.WaitGroup
	for i := range harness.Many(4, 8) {
		all.Go(func() { run(fmt.Sprintf("concurrent-%d", i)) })
	}
	all.Wait()
	waitFor(t, "containerd's descriptors to be closed", func() bool { return harness.Descriptors(host.Pid()) <= before })
}

// By the task's pid the host finds the container's root file system and network
// namespace, and nothing else of it; who kills that process kills the container.
func TestPlaceholder(t *testing.T) {
	nothingLeft(t)
	c := start(t, options{}, sleeper...)
	proc := fmt.Sprintf("/proc/%d/", c.Pid())
	c.must("echo of the container >/made")
	wantContent(t, proc+"root/made", "of the container\n")
	write(t, proc+"root/copied", "of the host")
	if got := c.must("cat /copied"); got != "of the host" {
		t.Errorf("the container reads %q", got)
	}
	for _, namespace := range []string{"mnt", "pid", "ipc", "uts", "net"} {
		its, _ := os.Readlink(proc + "ns/" + namespace)
		ours, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", host.Pid(), namespace))
		vmms, _ := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", c.vmm(), namespace))
		if its == "" || its == ours || (its == vmms) != (namespace == "net") {
			t.Errorf("its %s namespace is %s, containerd's %s, the VMM's %s", namespace, its, ours, vmms)
		}
	}
	status, err := os.ReadFile(proc + "status")
	if err != nil {
		t.Fatal(err)
	}
	for _, line := range []string{"CapEff:\t0000000000000000", "CapBnd:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"} {
		if !strings.Contains(string(status), line+"\n") {
			t.Errorf("no %q in\n%s", line, status)
		}
	}
	if descriptors := harness.Descriptors(int(c.Pid())); descriptors > 6 {
		t.Errorf("it has %d descriptors", descriptors)
	}
	if err := unix.Kill(int(c.Pid()), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if code := await(t, c.exit); code != 137 {
		t.Errorf("exit code %d", code)
	}
	if _, err := c.Delete(c.ctx); err != nil {
		t.Error(err)
	}
}

// The shield of the mounted files is killed: the VM ends too, with an exit of its
// task, and nothing is left.
func TestShieldKilled(t *testing.T) {
	nothingLeft(t)
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "content")
	c := start(t, options{spec: []oci.SpecOpts{oci.WithMounts([]specs.Mount{bind(file, "/f")})}}, sleeper...)
	killed, names := 0, harness.Processes()
	for _, pid := range children(shimOf(t, c.ID())) {
		if names[pid] == "msb-shield" {
			if err := unix.Kill(pid, unix.SIGKILL); err != nil {
				t.Fatal(err)
			}
			killed++
		}
	}
	if killed != 1 {
		t.Errorf("%d shields were running", killed)
	}
	if code := await(t, c.exit); code != 137 {
		t.Errorf("exit code %d", code)
	}
	if _, err := c.Delete(c.ctx); err != nil {
		t.Error(err)
	}
	wantContent(t, file, "content")
}
