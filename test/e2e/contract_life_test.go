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

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// FM-59: a thousand files in one container. In an emulated host they are so many that the VMM's
// file server has more open than a process may have that asks for no more (RLIMIT_NOFILE).
func TestFM59ThousandFiles(t *testing.T) {
	nothingLeft(t)
	files := harness.FewEmulated(600, 1000)
	dir := t.TempDir()
	var mounts []specs.Mount
	for i := range files {
		source := filepath.Join(dir, fmt.Sprint(i))
		write(t, source, fmt.Sprint(i))
		mounts = append(mounts, bind(source, fmt.Sprintf("/f/%d", i)))
	}
	c := start(t, options{spec: []oci.SpecOpts{oci.WithMounts(mounts)}}, sleeper...)
	if got := c.must(fmt.Sprintf("cat /f/0 /f/500 /f/%d; ls /f | wc -l; ls -d /sys/fs/virtiofs/* 2>/dev/null | wc -l", files-1)); !strings.HasPrefix(got, fmt.Sprintf("0500%d%d", files-1, files)) {
		t.Errorf("the container has %q", got)
	}
	c.must(fmt.Sprintf("for i in 0 500 %d; do echo -n changed >/f/$i; done", files-1))
	for _, i := range []int{0, 500, files - 1} {
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
	sandboxes := harness.Many(4, 8)
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
		waitFor(t, "those before to be up", func() bool { return lines() > i-4 })
		group.Go(func() {
			arguments := append(host.CtrRun(), "--annotation", "io.containerd.msb.vm.memory=192MiB", harness.Bind(file, "/f", "rbind:rw"),
				harness.Image, fmt.Sprintf("many%d", i), "sh", "-c",
				fmt.Sprintf("echo %d >>/f && chmod 777 /f && for i in $(seq 600); do [ $(wc -l </f) -ge %d ] && exit 0; sleep 1; done; exit 1", i, sandboxes))
			if output, err := host.CtrCommand(arguments...).CombinedOutput(); err != nil {
				t.Errorf("sandbox %d: %v: %s", i, err, output)
				if err := os.WriteFile(file, []byte(strings.Repeat("ended\n", sandboxes)), 0o644); err != nil { // the others wait for no more
					t.Error(err)
				}
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
	write(t, filepath.Join(bundle, "sandbox.json"), fmt.Sprintf(`{"Pid": %d, "Start": "1"}`, bystander.Process.Pid))
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
		mounts, err := mountinfo.GetMounts(func(m *mountinfo.Info) (skip, stop bool) {
			return !host.Has(m.Mountpoint) || !strings.Contains(m.Mountpoint, "/files/fm_"), false
		})
		if err != nil {
			return err
		}
		var failed []error
		for _, m := range mounts {
			removed++
			failed = append(failed, unix.Unmount(m.Mountpoint, unix.MNT_DETACH), os.RemoveAll(filepath.Dir(m.Mountpoint)))
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
