package e2e

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// withHooks gives a container hooks that note in a directory what they got, each in
// a file of its kind; what is in the file "script" of the directory is run by each. The last
// that each does is to make its file "ended".
func withHooks(dir string) oci.SpecOpts {
	note := func(kind string) []specs.Hook {
		script := fmt.Sprintf("cat >%s/%s; readlink /proc/$(sed 's/.*\"pid\":\\([0-9]*\\).*/\\1/' %[1]s/%[2]s)/ns/net >%[1]s/%[2]s.netns; cat /proc/self/cgroup >%[1]s/%[2]s.cgroup; kind=%[2]s; . %[1]s/script; : >%[1]s/%[2]s.ended", dir, kind)
		return []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", script}}}
	}
	return func(_ context.Context, _ oci.Client, _ *containers.Container, s *specs.Spec) error {
		s.Hooks = &specs.Hooks{CreateRuntime: note("createRuntime"), Poststart: note("poststart"), Poststop: note("poststop")}
		//lint:ignore SA1019 clients still set prestart hooks
		s.Hooks.Prestart = note("prestart")
		s.Annotations = map[string]string{"org.example.key": "value"}
		return nil
	}
}

// Hooks run when and where the runtime specification says, with the state that
// nerdctl's needs; a failed one ends the create, and poststop hooks run once after
// whatever end.
func TestHooks(t *testing.T) {
	nothingLeft(t)
	setUp := func(t *testing.T, script string) (string, options) {
		dir := t.TempDir()
		write(t, filepath.Join(dir, "script"), script)
		return dir, options{spec: []oci.SpecOpts{withHooks(dir)}}
	}
	read := func(t *testing.T, dir, kind string) (state specs.State) {
		t.Helper()
		data, err := os.ReadFile(filepath.Join(dir, kind))
		if err == nil {
			err = json.Unmarshal(data, &state)
		}
		if err != nil {
			t.Errorf("%s: %v: %s", kind, err, data)
		}
		return state
	}
	ran := func(dir, kind string) bool {
		_, err := os.Stat(filepath.Join(dir, kind))
		return err == nil
	}
	t.Run("in a life without trouble", func(t *testing.T) {
		dir, o := setUp(t, ":")
		c := create(t, o, sleeper...)
		own, _ := os.Readlink("/proc/self/ns/net")
		cgroup, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", host.Pid()))
		for _, kind := range []string{"prestart", "createRuntime"} {
			state := read(t, dir, kind)
			if state.ID != c.ID() || state.Status != specs.StateCreating || state.Pid != int(c.Pid()) || state.Bundle != host.Bundle(c.ID()) || state.Annotations["org.example.key"] != "value" {
				t.Errorf("%s got %+v", kind, state)
			}
			if netns, _ := os.ReadFile(filepath.Join(dir, kind+".netns")); !strings.HasPrefix(string(netns), "net:") || strings.TrimSpace(string(netns)) == own {
				t.Errorf("%s finds the network namespace %q by the pid", kind, netns)
			}
			if got, _ := os.ReadFile(filepath.Join(dir, kind+".cgroup")); string(got) != string(cgroup) {
				t.Errorf("%s is in the control group\n%s, containerd in\n%s", kind, got, cgroup)
			}
		}
		if ran(dir, "poststart") {
			t.Error("poststart has run before the start")
		}
		if err := c.Start(c.ctx); err != nil {
			t.Fatal(err)
		}
		if state := read(t, dir, "poststart"); state.Status != specs.StateRunning {
			t.Errorf("poststart got %+v", state)
		}
		if ran(dir, "poststop") {
			t.Error("poststop has run before the end")
		}
		if _, err := c.Delete(c.ctx, client.WithProcessKill); err != nil {
			t.Error(err)
		}
		if state := read(t, dir, "poststop"); state.Status != specs.StateStopped {
			t.Errorf("poststop got %+v", state)
		}
	})
	t.Run("one that fails", func(t *testing.T) {
		dir, o := setUp(t, "[ $kind = poststop ] || { echo the reason; exit 3; }")
		ctx, cancel := host.Context()
		defer cancel()
		image, err := host.Client.GetImage(ctx, harness.Image)
		if err != nil {
			t.Fatal(err)
		}
		container, err := host.Client.NewContainer(ctx, "hook-fails", client.WithNewSnapshot("hook-fails", image),
			client.WithNewSpec(append(o.spec, oci.WithImageConfig(image))...), host.WithRuntime())
		if err != nil {
			t.Fatal(err)
		}
		if _, err := container.NewTask(ctx, cio.NullIO); err == nil || !strings.Contains(err.Error(), "prestart hook /bin/sh: exit status 3; it printed: the reason") {
			t.Errorf("the create: %v", err)
		}
		if ran(dir, "createRuntime") || !ran(dir, "poststop") {
			t.Error("createRuntime has run, or poststop has not")
		}
		if err := container.Delete(ctx, client.WithSnapshotCleanup); err != nil {
			t.Error(err)
		}
	})
	t.Run("after the shim was killed", func(t *testing.T) {
		dir, o := setUp(t, ":")
		c := start(t, o, sleeper...)
		if err := unix.Kill(shimOf(t, c.ID()), unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		_, _ = c.Delete(c.ctx, client.WithProcessKill)
		waitFor(t, "poststop to end", func() bool { return ran(dir, "poststop.ended") })
	})
}
