package e2e

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// An operator has spares made before there is a container. They have what a shim has that
// containerd has started, and the next container gets one. Who ends the command while a spare boots
// leaves that one, and nothing else.
func TestSpareFill(t *testing.T) {
	nothingLeft(t)
	endSpares(t) // those of other tests
	file := config(t, t.TempDir(), fmt.Sprintf("vm.boot_timeout = %q\nspare.count = 1\nspare.max = 2", harness.Patience))[1]
	t.Cleanup(func() { endSpares(t) })
	fill := func(config string, args ...string) []string {
		return append([]string{"spare", "fill", "--address", host.Address(), "--config", config}, args...)
	}
	var listed []struct {
		Pid    int
		State  string
		Memory int64
	}
	fillInterrupted(t, fill(file))
	spare := awaitSpare(t)
	if code := msbctlJSON(t, &listed, fill(file)...); code != 0 || len(listed) != 1 || listed[0].Pid != spare || listed[0].State != "waiting" {
		t.Fatalf("spare fill: code %d, %+v", code, listed)
	}

	plain := start(t, options{}, sleeper...)
	shim := shimOf(t, plain.ID())
	for _, name := range []string{"limits", "oom_score_adj"} {
		if got, want := content(t, fmt.Sprintf("/proc/%d/%s", spare, name)), content(t, fmt.Sprintf("/proc/%d/%s", shim, name)); got != want {
			t.Errorf("%s of the spare:\n%sand of a shim:\n%s", name, got, want)
		}
	}
	if got, want := content(t, fmt.Sprintf("/proc/%d/cgroup", spare)), content(t, fmt.Sprintf("/proc/%d/cgroup", host.Pid())); got != want {
		t.Errorf("control groups of the spare:\n%sand of containerd:\n%s", got, want)
	}
	environment := content(t, fmt.Sprintf("/proc/%d/environ", spare))
	for _, variable := range strings.Split(content(t, fmt.Sprintf("/proc/%d/environ", host.Pid())), "\x00") {
		if !strings.Contains(environment, variable) {
			t.Errorf("the spare does not have containerd's %s", variable)
		}
	}

	used := start(t, spared(file), sleeper...)
	if got := shimOf(t, used.ID()); got != spare {
		t.Errorf("the container has shim %d, and not the spare %d", got, spare)
	}
	next := awaitSpare(t, spare)
	if code := msbctlJSON(t, &listed, fill(file)...); code != 0 || len(listed) != 1 || listed[0].Pid != next {
		t.Errorf("spare fill with one that waits: code %d, %+v", code, listed)
	}
	for range 2 { // the second time there are as many as there may be
		if code := msbctlJSON(t, &listed, fill(file, "--memory", "256MiB")...); code != 0 || len(listed) != 2 || listed[0].Memory+listed[1].Memory != 768<<20 {
			t.Errorf("spare fill of another size: code %d, %+v", code, listed)
		}
	}
	small := start(t, spared(file, oci.WithMemoryLimit(128<<20)), sleeper...)
	if got := shimOf(t, small.ID()); got == next || got != listed[0].Pid && got != listed[1].Pid {
		t.Errorf("a container of that size has shim %d; there were %+v", got, listed)
	}

	for why, args := range map[string][]string{
		"set spare.count":  fill(config(t, t.TempDir(), "spare.count = 0")[1]),
		"spare.count is 1": fill(file, "--count", "2"),
		"lower the limit":  fill(file, "--memory", "1000TiB"),
		"is not there":     {"spare", "fill", "--address", "/no/such"},
		"making a spare: ": fill(config(t, t.TempDir(), fmt.Sprintf("spare.count = 1\nkit = %q", brokenKit(t)))[1]),
	} {
		_, stderr, code := msbctl(t, args...)
		if code != 1 || !strings.Contains(stderr, why) || strings.Count(stderr, "\n") != 1 {
			t.Errorf("%q: code %d, %q, want %q", args, code, stderr, why)
		}
	}
}

// brokenKit is a kit without a kernel.
func brokenKit(t *testing.T) string {
	kit := t.TempDir()
	files, err := filepath.Glob(filepath.Join(host.Output, "lib", "msb", "*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, file := range files {
		if filepath.Base(file) == "vmlinux" {
			continue
		}
		if err := os.Symlink(file, filepath.Join(kit, filepath.Base(file))); err != nil {
			t.Fatal(err)
		}
	}
	return kit
}

// fillInterrupted ends a fill while its spare boots. It may be ready by then.
func fillInterrupted(t *testing.T, args []string) {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), filepath.Join(host.Output, "bin", "msbctl"), args...)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	waitFor(t, "a spare that boots", func() bool {
		dirs, _ := filepath.Glob(host.SpareDir("*"))
		return len(dirs) > 0
	})
	if err := cmd.Process.Signal(unix.SIGINT); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil && cmd.ProcessState.ExitCode() != 1 {
		t.Errorf("the command ended with %v", err)
	}
	for pid, name := range harness.Processes() {
		if strings.HasPrefix(name, "containerd-shim") && strings.Contains(content(t, fmt.Sprintf("/proc/%d/cmdline", pid)), host.Address()+"\x00fill") {
			t.Errorf("%d still makes spares", pid)
		}
	}
}
