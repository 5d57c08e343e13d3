package cgroup

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
)

const guest = 512 << 20

// Whatever the spec says, memory and tasks of a VM are limited; what it says of the
// container's own processes does not bind the VMM.
func TestResources(t *testing.T) {
	limit, unlimited, quota, runtime, pids := int64(1<<20), int64(-1), int64(50_000), int64(1), int64(10)
	for name, c := range map[string]struct {
		spec  *specs.LinuxResources
		asked []string
	}{
		"no resources":    {nil, nil},
		"nothing asked":   {&specs.LinuxResources{CPU: &specs.LinuxCPU{}, Memory: &specs.LinuxMemory{}}, nil},
		"memory":          {&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}, []string{"memory"}},
		"memory, no end":  {&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &unlimited}}, nil},
		"the container's": {&specs.LinuxResources{Pids: &specs.LinuxPids{Limit: &pids}, Devices: []specs.LinuxDeviceCgroup{{Access: "rwm"}}}, nil},
		"CPU":             {&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &quota, Cpus: "0", RealtimeRuntime: &runtime}}, []string{"cpu", "cpuset"}},
	} {
		l := limitsOf(c.spec, guest)
		if got := *l.all.Memory.Limit; got != guest+256<<20 {
			t.Errorf("%s: memory limit %d", name, got)
		}
		if got := *l.all.Pids.Limit; got != maxTasks || got > 1024 {
			t.Errorf("%s: %d tasks", name, got)
		}
		if l.all.Devices != nil {
			t.Errorf("%s: the container's own limits bind the VMM: %+v", name, l.all)
		}
		if !slices.Equal(l.asked, c.asked) {
			t.Errorf("%s: asked for %q, want %q", name, l.asked, c.asked)
		}
	}
	cpu := Resources(&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &quota, Cpus: "0", RealtimeRuntime: &runtime}}, guest).CPU
	if *cpu.Quota != quota || cpu.Cpus != "0" || cpu.RealtimeRuntime != nil {
		t.Errorf("CPU %+v", cpu)
	}
	for file, want := range map[string]any{"pids.max": "1024", "memory.max": int64(guest + 256<<20)} {
		if got := unifiedValue(Resources(nil, guest), file); got != fmt.Sprint(want) {
			t.Errorf("in version 2, %s is %s, want %v", file, got, want)
		}
	}
}

// unifiedValue is what is written for resources into a file of version 2.
func unifiedValue(resources *specs.LinuxResources, file string) string {
	for _, value := range unifiedResources(resources).Values() {
		if text := fmt.Sprint(value); strings.HasPrefix(text, "{"+file+" ") {
			return strings.TrimSuffix(strings.TrimPrefix(text, "{"+file+" "), "}")
		}
	}
	return "nothing"
}

// Without a controller, limits that are always set are missed, those of the spec are
// an error.
func TestSettle(t *testing.T) {
	limit, shares := int64(1<<20), uint64(2)
	memory := &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
	cpu := &specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &shares, Cpus: "0"}}
	for name, c := range map[string]struct {
		spec    *specs.LinuxResources
		active  string
		missing string
		err     string
	}{
		"all there":            {memory, "cpu memory pids", "", ""},
		"no pids":              {memory, "cpu memory", "pids", ""},
		"none":                 {nil, "", "memory pids", ""},
		"memory asked, no":     {memory, "cpu pids", "", "no controller memory here"},
		"CPU asked, no":        {cpu, "memory pids", "", "no controller cpu, cpuset here"},
		"CPU asked, half":      {cpu, "cpu memory pids", "", "no controller cpuset here"},
		"CPU asked, no memory": {cpu, "cpu cpuset", "memory pids", ""},
	} {
		active := strings.Fields(c.active)
		got, missing, err := limitsOf(c.spec, guest).settle(active)
		if c.err != "" {
			if !errors.Is(err, errdefs.ErrFailedPrecondition) || !strings.Contains(err.Error(), c.err) {
				t.Errorf("%s: %v, want %q", name, err, c.err)
			}
			continue
		}
		if err != nil || strings.Join(missing, " ") != c.missing {
			t.Errorf("%s: missing %q, %v, want %q", name, missing, err, c.missing)
			continue
		}
		if (got.Memory != nil) != slices.Contains(active, "memory") || (got.Pids != nil) != slices.Contains(active, "pids") {
			t.Errorf("%s: %+v", name, got)
		}
	}
}

// A group has both limits from the start and after an update, although no spec asks for
// them, and what exceeds them is stopped.
func TestLimitsHold(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("needs root")
	}
	path := fmt.Sprintf("/msb-test/limits-%d", os.Getpid())
	group, err := Enter(path, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer removeParents()
	defer func() {
		if err := group.Close(); err != nil {
			t.Error(err)
		}
	}()
	has := func(when string, memory int64) {
		t.Helper()
		if got := setting(t, path, "memory", "memory.limit_in_bytes", "memory.max"); got != strconv.FormatInt(memory, 10) {
			t.Errorf("%s: memory limit %s, want %d", when, got, memory)
		}
		if got := setting(t, path, "pids", "pids.max", "pids.max"); got != strconv.Itoa(maxTasks) {
			t.Errorf("%s: %s tasks, want %d", when, got, maxTasks)
		}
	}
	has("at the start", 256<<20)
	shares := uint64(512)
	if err := group.Update(&specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &shares}}, 64<<20); err != nil {
		t.Error(err)
	}
	has("after an update", 320<<20)
	if err := group.Update(nil, 0); err != nil {
		t.Error(err)
	}
	has("after an update that asks for nothing", 256<<20)

	// tail keeps the one endless line in memory. It is the kernel's first victim.
	hog := func() error {
		return exec.Command("sh", "-c", "echo 1000 >/proc/self/oom_score_adj; head -c 400M /dev/zero | tail -n 1 | wc -c | grep -q 419430400").Run()
	}
	if err := hog(); err == nil {
		t.Error("a process used more memory than the limit")
	}
	if err := group.Update(nil, 1<<30); err != nil {
		t.Error(err)
	}
	if err := hog(); err != nil {
		t.Errorf("with the memory that it uses: %v", err)
	}
}

// setting reads a file of a group in either version.
func setting(t *testing.T, path, controller, legacyFile, unifiedFile string) string {
	t.Helper()
	for _, file := range []string{unifiedRoot + path + "/" + unifiedFile, filepath.Join(unifiedRoot, controller+path, legacyFile)} {
		if data, err := os.ReadFile(file); err == nil {
			return strings.TrimSpace(string(data))
		}
	}
	t.Fatalf("no %s or %s of %s", legacyFile, unifiedFile, path)
	return ""
}

// Where the host has not mounted a controller, the group goes without the limit and says
// so once; what the spec asks for is refused, and nothing is left.
func TestControllerNotMounted(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("needs root")
	}
	if _, err := os.Stat("/sys/fs/cgroup/pids/cgroup.procs"); err != nil {
		t.Logf("version 2, where TestSettle has to do: %v", err)
		return
	}
	var lines bytes.Buffer
	log.L.Logger.SetOutput(&lines)
	defer log.L.Logger.SetOutput(os.Stderr)
	path := fmt.Sprintf("/msb-test/bare-%d", os.Getpid())
	defer removeParents()
	err := thread.Run(func() error {
		if err := errors.Join(unix.Unshare(unix.CLONE_NEWNS), unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Unmount("/sys/fs/cgroup/pids", unix.MNT_DETACH), unix.Unmount("/sys/fs/cgroup/memory", unix.MNT_DETACH)); err != nil {
			return err
		}
		group, err := Enter(path, nil, guest)
		if err != nil {
			return err
		}
		if _, err := os.Stat("/sys/fs/cgroup/pids" + path); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("a group was made where no controller is: %v", err)
		}
		if err := errors.Join(group.Update(nil, guest), group.Close()); err != nil {
			return err
		}
		limit := int64(guest)
		_, err = Enter(path, &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}, guest)
		if !errdefs.IsFailedPrecondition(err) || !strings.Contains(fmt.Sprint(err), "no controller memory here") {
			t.Errorf("with a memory limit in the spec: %v", err)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := lines.String(); strings.Count(got, "no controller memory, pids here") != 1 {
		t.Errorf("logged %q", got)
	}
	if left := groups(path); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}
