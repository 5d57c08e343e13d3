package e2e

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
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
	if err := unix.Kill(shimOf(t, c.ID()), unix.SIGKILL); err != nil {
		t.Fatal(err)
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
				select {
				case <-exit:
				case <-time.After(30 * time.Second):
					t.Error("no exit within half a minute")
				}
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
		if command, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); strings.HasPrefix(name, "containerd-shim") && strings.Contains(string(command), "-id\x00"+id+"\x00") {
			return pid
		}
	}
	return 0
}

// findVMM is the VMM among a shim's children, 0 when there is none.
func findVMM(shim int) int {
	processes := harness.Processes()
	for _, pid := range children(shim) {
		if name := processes[pid]; name != "" && name != "virtiofsd" && name != "msb-shield" && !strings.HasPrefix(name, "containerd-shim") {
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

// The shield of the mounted files is killed: the VM ends too, with an exit of its
// task, and nothing is left.
func TestShieldKilled(t *testing.T) {
	nothingLeft(t)
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "content")
	c := start(t, options{spec: []oci.SpecOpts{oci.WithMounts([]specs.Mount{bind(file, "/f")})}}, sleeper...)
	killed := 0
	for pid, name := range harness.Processes() {
		if name == "msb-shield" {
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

// FM-59: a thousand files in one container.
func TestFM59ThousandFiles(t *testing.T) {
	nothingLeft(t)
	const files = 1000
	dir := t.TempDir()
	var mounts []specs.Mount
	for i := range files {
		source := filepath.Join(dir, fmt.Sprint(i))
		write(t, source, fmt.Sprint(i))
		mounts = append(mounts, bind(source, fmt.Sprintf("/f/%d", i)))
	}
	c := start(t, options{spec: []oci.SpecOpts{oci.WithMounts(mounts)}}, sleeper...)
	if got := c.must("cat /f/0 /f/500 /f/999; ls /f | wc -l; ls -d /sys/fs/virtiofs/* 2>/dev/null | wc -l"); !strings.HasPrefix(got, "05009991000") {
		t.Errorf("the container has %q", got)
	}
	c.must("for i in 0 500 999; do echo -n changed >/f/$i; done")
	for _, i := range []int{0, 500, 999} {
		wantContent(t, filepath.Join(dir, fmt.Sprint(i)), "changed")
	}
}

// FM-63, FM-64: started again after the source was replaced, a container has the
// new content; deleted twice, the second time is "not found" and harmless.
func TestFM63FM64StartedAgain(t *testing.T) {
	nothingLeft(t)
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "old")
	c := start(t, options{spec: []oci.SpecOpts{oci.WithMounts([]specs.Mount{bind(file, "/f")})}}, sleeper...)
	if got := c.must("cat /f"); got != "old" {
		t.Errorf("first %q", got)
	}
	if err := c.Kill(c.ctx, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	await(t, c.exit)
	if _, err := c.Delete(c.ctx); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Delete(c.ctx); !errdefs.IsNotFound(err) {
		t.Errorf("deleting again: %v", err)
	}
	write(t, file+".new", "new")
	if err := os.Rename(file+".new", file); err != nil {
		t.Fatal(err)
	}
	again, err := c.container.NewTask(c.ctx, cio.NullIO)
	if err != nil {
		t.Fatal(err)
	}
	exit, err := again.Wait(c.ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := again.Start(c.ctx); err != nil {
		t.Fatal(err)
	}
	c.Task, c.exit = again, exit
	if got := c.must("cat /f"); got != "new" {
		t.Errorf("then %q", got)
	}
	if _, err := again.Delete(c.ctx, client.WithProcessKill); err != nil {
		t.Error(err)
	}
}

// FM-60: sandboxes that mount one file at the same time. Each writes its line and
// waits for those of all others. MSB_SANDBOXES says how many.
func TestFM60ManySandboxes(t *testing.T) {
	nothingLeft(t)
	sandboxes := 8
	if host.Driver == "krun" {
		sandboxes = 4 // what the emulated host has memory and time for
	}
	if text := os.Getenv("MSB_SANDBOXES"); text != "" {
		var err error
		if sandboxes, err = strconv.Atoi(text); err != nil {
			t.Fatalf("MSB_SANDBOXES: %v", err)
		}
	}
	file := filepath.Join(t.TempDir(), "file")
	write(t, file, "")
	lines := func() int {
		content, _ := os.ReadFile(file)
		return strings.Count(string(content), "\n")
	}
	var group sync.WaitGroup
	for i := range sandboxes {
		// Booting all at once takes longer than a boot may.
		waitWithin(t, 5*time.Minute, "those before to be up", func() bool { return lines() > i-4 })
		group.Go(func() {
			arguments := append(host.CtrRun(), "--annotation", "io.containerd.msb.vm.memory=192MiB", harness.Bind(file, "/f", "rbind:rw"),
				harness.Image, fmt.Sprintf("many%d", i), "sh", "-c",
				fmt.Sprintf("echo %d >>/f && chmod 777 /f && for i in $(seq 600); do [ $(wc -l </f) = %d ] && exit 0; sleep 1; done; exit 1", i, sandboxes))
			if output, err := host.CtrCommand(arguments...).CombinedOutput(); err != nil {
				t.Errorf("sandbox %d: %v: %s", i, err, output)
			}
		})
	}
	group.Wait()
	if got := lines(); got != sandboxes {
		t.Errorf("the file has %d lines of %d", got, sandboxes)
	}
	if info, err := os.Stat(file); err != nil || info.Mode().Perm() != 0o644 {
		t.Errorf("the host's mode is %v, %v", info.Mode(), err)
	}
}

// FM-68: what a crash of the host left in a bundle is no hindrance to its removal,
// and a process that has got the VMM's number since is left alone.
func TestFM68LeftoversOfACrash(t *testing.T) {
	nothingLeft(t)
	bundle := t.TempDir()
	write(t, filepath.Join(bundle, "config.json"), "{}")
	write(t, filepath.Join(bundle, "msb/files/fm_0/file"), "")
	write(t, filepath.Join(bundle, "address"), "unix:///run/containerd/s/msb-of-a-host-that-is-gone")
	bystander := exec.Command("sleep", "1000")
	if err := bystander.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = bystander.Process.Kill(); _ = bystander.Wait() }()
	write(t, filepath.Join(bundle, "vmm.pid"), fmt.Sprintf("%d 1\n", bystander.Process.Pid))
	shim := exec.Command(filepath.Join(host.Output, "bin", "containerd-shim-msb-v2"),
		"-namespace", harness.Namespace, "-id", "crashed", "-bundle", bundle, "delete")
	shim.Dir = bundle
	if output, err := shim.CombinedOutput(); err != nil {
		t.Errorf("shim delete: %v: %s", err, output)
	}
	if err := bystander.Process.Signal(unix.Signal(0)); err != nil {
		t.Errorf("the bystander: %v", err)
	}
}

// FM-67: somebody takes the staging directories of a running container away. The
// container is answered, the host's file is whole, and the end is as ever.
func TestFM67StagingRemoved(t *testing.T) {
	nothingLeft(t)
	dir := t.TempDir()
	file := filepath.Join(dir, "file")
	write(t, file, "content")
	c := start(t, options{spec: []oci.SpecOpts{oci.WithMounts([]specs.Mount{bind(file, "/rw", "rw"), bind(file, "/ro", "ro")})}}, sleeper...)
	shim := shimOf(t, c.ID())
	removed := 0
	inMountNamespace(t, shim, func() error {
		mounts, err := os.ReadFile("/proc/thread-self/mountinfo")
		if err != nil {
			return err
		}
		var failed []error
		for line := range strings.Lines(string(mounts)) {
			if point := strings.Fields(line)[4]; strings.Contains(point, "/files/fm_") {
				removed++
				failed = append(failed, unix.Unmount(point, unix.MNT_DETACH), os.RemoveAll(filepath.Dir(point)))
			}
		}
		return errors.Join(failed...)
	})
	if removed != 2 {
		t.Errorf("%d staged files were found, want 2", removed)
	}
	c.must("for f in /rw /ro; do timeout 20 cat $f; echo x >>$f; ls -l $f; done >/dev/null 2>&1; [ $? != 124 ]")
	if got := c.must("echo goes on"); got != "goes on" {
		t.Errorf("then %q", got)
	}
	if content, err := os.ReadFile(file); err != nil || !strings.HasPrefix(string(content), "content") {
		t.Errorf("the host's file has %q, %v", content, err)
	}
	if _, err := c.Delete(c.ctx, client.WithProcessKill); err != nil {
		t.Error(err)
	}
}

// inMountNamespace does something in the mount namespace of a process.
func inMountNamespace(t *testing.T, pid int, do func() error) {
	t.Helper()
	namespace, err := os.Open(fmt.Sprintf("/proc/%d/ns/mnt", pid))
	if err != nil {
		t.Fatal(err)
	}
	defer namespace.Close()
	err = thread.Run(func() error {
		// A thread that shares its root with others cannot go (setns(2)).
		if err := unix.Unshare(unix.CLONE_FS); err != nil {
			return err
		}
		if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNS); err != nil {
			return err
		}
		return do()
	})
	if err != nil {
		t.Error(err)
	}
}
