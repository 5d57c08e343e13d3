package hook

import (
	"context"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
)

func shell(script string) specs.Hook {
	return specs.Hook{Path: "/bin/sh", Args: []string{"sh", "-c", script}}
}

func TestRun(t *testing.T) {
	dir := t.TempDir()
	file := filepath.Join(dir, "state")
	state := specs.State{ID: "c", Pid: 42, Bundle: dir, Status: specs.StateCreating, Annotations: map[string]string{"a": "b"}}
	hook := shell("cat >" + file + "; echo $MARK >>" + file)
	hook.Env = []string{"MARK=mark"}
	if err := (Runner{}).Run(t.Context(), "createRuntime", []specs.Hook{hook}, state); err != nil {
		t.Fatal(err)
	}
	content, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	text, mark, _ := strings.Cut(string(content), "}mark")
	var got specs.State
	if err := json.Unmarshal([]byte(text+"}"), &got); err != nil || got.Pid != 42 || got.Status != specs.StateCreating || got.Annotations["a"] != "b" || mark != "\n" {
		t.Errorf("the hook got %s: %v", content, err)
	}
}

func TestFails(t *testing.T) {
	second := 1
	zero := 0
	slow := shell("sleep 100")
	slow.Timeout = &second
	never := shell("true")
	never.Timeout = &zero
	for name, c := range map[string]struct {
		hook specs.Hook
		says string
	}{
		"an exit code":       {shell("echo the reason; exit 3"), "createRuntime hook /bin/sh: exit status 3; it printed: the reason"},
		"a lot is printed":   {shell("yes | head -c 100000; exit 3"), "printed: …"},
		"no such program":    {specs.Hook{Path: "/none"}, "no such file"},
		"takes too long":     {slow, "did not end within its 1s"},
		"a timeout of 0":     {never, "timeout of 0 s"},
		"leaves a child":     {shell("sleep 100 & exit 4"), "exit status 4"},
		"killed by a signal": {shell("kill -9 $$"), "killed"},
	} {
		began := time.Now()
		err := Runner{}.Run(t.Context(), "createRuntime", []specs.Hook{c.hook, shell("exit 99")}, specs.State{})
		if err == nil || !strings.Contains(err.Error(), c.says) || len(err.Error()) > 2*quoted {
			t.Errorf("%s: %v", name, err)
		}
		if time.Since(began) > 30*time.Second {
			t.Errorf("%s took %v", name, time.Since(began))
		}
	}
}

// Hooks see the mounts of the namespace they are given, not those of the shim.
func TestMounts(t *testing.T) {
	if os.Geteuid() != 0 {
		t.Fatal("this test mounts: run it as root")
	}
	mounts, err := os.Open("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	defer mounts.Close()
	dir := t.TempDir()
	err = thread.Run(func() error {
		// This thread stands for the shim: with a mount of its own.
		if err := errors.Join(unix.Unshare(unix.CLONE_FS|unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("shim", dir, "tmpfs", 0, "")); err != nil {
			return err
		}
		return Runner{Mounts: mountns.Of(mounts)}.Run(context.Background(), "prestart", []specs.Hook{shell("! grep -q 'shim " + dir + "' /proc/self/mounts && echo x >" + dir + "/made")}, specs.State{})
	})
	if err != nil {
		t.Error(err)
	}
	if _, err := os.Stat(filepath.Join(dir, "made")); err != nil {
		t.Error(err)
	}
}

// container has hooks that write to files.
type container struct{ hooks specs.Hooks }

func (c container) Hooks() specs.Hooks { return c.hooks }

func (container) State(id, bundle string, status specs.ContainerState, pid int) specs.State {
	return specs.State{ID: id, Bundle: bundle, Status: status, Pid: pid}
}

// Poststop hooks run once, all of them, and only after others may have run.
func TestStop(t *testing.T) {
	bundle := t.TempDir()
	file := filepath.Join(bundle, "ran")
	c := container{specs.Hooks{Poststop: []specs.Hook{shell("echo first >>" + file + "; exit 1"), shell("echo second >>" + file)}}}
	if err := (Runner{}).Stop(t.Context(), c, "c", bundle); err != nil {
		t.Errorf("nothing is pending: %v", err)
	}
	if err := SetPending(bundle); err != nil {
		t.Fatal(err)
	}
	if err := (Runner{}).Stop(t.Context(), c, "c", bundle); err == nil {
		t.Error("the first has failed, and nobody says so")
	}
	_ = Runner{}.Stop(t.Context(), c, "c", bundle)
	if content, _ := os.ReadFile(file); string(content) != "first\nsecond\n" {
		t.Errorf("ran: %q", content)
	}
}
