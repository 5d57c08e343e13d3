package cgroup

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
)

func TestPath(t *testing.T) {
	for given, want := range map[string]string{
		"":                   "",
		"/default/a":         "/default/a",
		"default/a":          "/default/a",
		"/../../default":     "/default",
		"system.slice:msb:a": "/system.slice/msb-a.scope",
		":msb:a":             "/system.slice/msb-a.scope",
		"-.slice::a":         "/a.scope",
		"kubepods-burstable-pod1.slice:cri-containerd:a": "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod1.slice/cri-containerd-a.scope",
		"a.slice:x:y.slice": "/a.slice/y.slice",
	} {
		if got, err := Path(given); got != want || err != nil {
			t.Errorf("%q: %q, %v, want %q", given, got, err, want)
		}
	}
	for _, given := range []string{"/", "..", "a:b", "a:b:c:d", "a:b:c", "../a.slice:b:c", "a--b.slice:b:c", "a.slice:b:../c"} {
		if got, err := Path(given); err == nil {
			t.Errorf("%q was taken: %q", given, got)
		}
	}
}

func TestUnifiedResources(t *testing.T) {
	number := func(n int64) *int64 { return &n }
	period := uint64(50_000)
	for name, c := range map[string]struct {
		cpu  specs.LinuxCPU
		want string
	}{
		"both":       {specs.LinuxCPU{Quota: number(20_000), Period: &period}, "20000 50000"},
		"quota only": {specs.LinuxCPU{Quota: number(20_000)}, "20000 100000"},
		"no limit":   {specs.LinuxCPU{Quota: number(-1)}, "max 100000"},
		"neither":    {specs.LinuxCPU{}, ""},
	} {
		if got := unifiedResources(&specs.LinuxResources{CPU: &c.cpu}).CPU.Max; string(got) != c.want {
			t.Errorf("%s: %q, want %q", name, got, c.want)
		}
	}
}

// A process that enters a group has its children in it, leaves it, and takes it
// away; what it leaves when it is killed, Remove takes away.
func TestGroup(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("needs root")
	}
	path := fmt.Sprintf("/msb-test/%d", os.Getpid())
	quota, period := int64(50_000), uint64(100_000)
	before := membership(t)
	group, err := Enter(path, &specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &quota, Period: &period}}, 0)
	if err != nil {
		t.Fatal(err)
	}
	child := exec.Command("cat", "/proc/self/cgroup")
	output, err := child.Output()
	if err != nil || !strings.Contains(string(output), path) {
		t.Errorf("a child is in %s, %v", output, err)
	}
	err = thread.Run(func() error {
		return group.Outside(func(attributes *syscall.SysProcAttr) error {
			child := exec.Command("cat", "/proc/self/cgroup")
			child.SysProcAttr = attributes
			output, err = child.Output()
			return err
		})
	})
	if err != nil || string(output) != before {
		t.Errorf("a child outside is in %s, %v, want\n%s", output, err, before)
	}
	outside := exec.Command("sleep", "100")
	if err := thread.Run(func() error {
		return group.Outside(func(attributes *syscall.SysProcAttr) error {
			outside.SysProcAttr = attributes
			return outside.Start()
		})
	}); err != nil {
		t.Fatal(err)
	}
	if err := Join(outside.Process.Pid); err != nil || membership(t) != before {
		t.Errorf("joining a process outside: %v, in\n%s", err, membership(t))
	}
	if err := errors.Join(outside.Process.Kill(), group.enter(os.Getpid())); err != nil {
		t.Fatal(err)
	}
	_ = outside.Wait()
	if err := Join(outside.Process.Pid); err == nil {
		t.Error("joining a process that has ended succeeds")
	}
	if value := quotaOf(t, path); value != "50000" {
		t.Errorf("quota %s", value)
	}
	quota = 70_000
	if err := group.Update(&specs.LinuxResources{CPU: &specs.LinuxCPU{Quota: &quota, Period: &period}}, 0); err != nil {
		t.Error(err)
	}
	if value := quotaOf(t, path); value != "70000" {
		t.Errorf("quota after the update %s", value)
	}
	for range 2 {
		if err := group.Leave(); err != nil {
			t.Error(err)
		}
	}
	if after := membership(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if left := groups(path); len(left) == 0 {
		t.Error("the group goes when it is left")
	}
	if err := group.Close(); err != nil {
		t.Error(err)
	}
	if after := membership(t); after != before {
		t.Errorf("closed, before:\n%s\nafter:\n%s", before, after)
	}
	if left := groups(path); len(left) > 0 {
		t.Errorf("left: %v", left)
	}

	sleeper := exec.Command("sleep", "100")
	group, err = Enter(path, nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := sleeper.Start(); err != nil {
		t.Fatal(err)
	}
	if err := group.leave(os.Getpid()); err != nil {
		t.Fatal(err)
	}
	_ = sleeper.Process.Kill()
	_ = sleeper.Wait()
	if err := Remove(path); err != nil {
		t.Error(err)
	}
	if err := Remove(path); err != nil {
		t.Errorf("a second time: %v", err)
	}
	if left := groups(path); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	removeParents()
}

// removeParents takes away what the groups of tests are in, if it is empty.
func removeParents() {
	for _, dir := range groups("/msb-test") {
		_ = os.Remove(dir)
	}
}

// Processes that run already are moved with the one that enters. One that has ended meanwhile
// keeps nobody out, and when entering fails they are all where they were.
func TestEnterWithOthers(t *testing.T) {
	if os.Getuid() != 0 {
		t.Fatal("needs root")
	}
	path := fmt.Sprintf("/msb-test/others-%d", os.Getpid())
	start := func() *exec.Cmd {
		t.Helper()
		sleeper := exec.Command("sleep", "1000")
		if err := sleeper.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = sleeper.Process.Kill()
			_ = sleeper.Wait()
		})
		return sleeper
	}
	one, two, ended := start(), start(), exec.Command("true")
	if err := ended.Run(); err != nil {
		t.Fatal(err)
	}
	before := membership(t)
	where := func(what string, inside bool) {
		t.Helper()
		for _, sleeper := range []*exec.Cmd{one, two} {
			got := membershipOf(t, fmt.Sprint(sleeper.Process.Pid))
			if inside != strings.Contains(got, path) || !inside && got != before {
				t.Errorf("%s: a process is in\n%s", what, got)
			}
		}
		if got := membership(t); inside != strings.Contains(got, path) || !inside && got != before {
			t.Errorf("%s: this process is in\n%s", what, got)
		}
	}
	// No process has a negative number.
	if _, err := Enter(path, nil, 0, one.Process.Pid, two.Process.Pid, -1); err == nil {
		t.Error("what is no process is moved")
	}
	where("entering has failed", false)
	if left := groups(path); len(left) > 0 {
		t.Errorf("left: %v", left)
	}

	group, err := Enter(path, nil, 0, one.Process.Pid, ended.Process.Pid, two.Process.Pid)
	if err != nil {
		t.Fatal(err)
	}
	where("entered", true)
	for _, sleeper := range []*exec.Cmd{one, two} {
		_ = sleeper.Process.Kill()
		_ = sleeper.Wait()
	}
	if err := group.Close(); err != nil {
		t.Error(err)
	}
	if after := membership(t); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	if left := groups(path); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
	removeParents()
}

// Where both versions are mounted, this process joins another in that of version 2, too.
func TestJoinBeside(t *testing.T) {
	root := t.TempDir()
	file := filepath.Join(root, "cgroup")
	group := filepath.Join(root, "system.slice", "containerd.service")
	procs := filepath.Join(group, "cgroup.procs")
	err := errors.Join(
		os.WriteFile(file, []byte("4:memory:/elsewhere\n1:name=systemd:/elsewhere\n0::/system.slice/containerd.service\n"), 0o600),
		os.MkdirAll(group, 0o700),
	)
	if err != nil {
		t.Fatal(err)
	}
	if err := joinBeside(root, file); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("where there is no such group: %v", err)
	}
	if err := os.WriteFile(procs, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := joinBeside(root, file); err != nil {
		t.Fatal(err)
	}
	if data, err := os.ReadFile(procs); err != nil || string(data) != strconv.Itoa(os.Getpid()) {
		t.Errorf("in the group: %q, %v", data, err)
	}
}

func membership(t *testing.T) string {
	t.Helper()
	return membershipOf(t, "self")
}

func membershipOf(t *testing.T, pid string) string {
	t.Helper()
	data, err := os.ReadFile("/proc/" + pid + "/cgroup")
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

func groups(path string) []string {
	found, _ := filepath.Glob(unifiedRoot + path)
	more, _ := filepath.Glob(unifiedRoot + "/*" + path)
	return append(found, more...)
}

func quotaOf(t *testing.T, path string) string {
	t.Helper()
	for _, file := range []string{unifiedRoot + path + "/cpu.max", unifiedRoot + "/cpu" + path + "/cpu.cfs_quota_us"} {
		if data, err := os.ReadFile(file); err == nil {
			return strings.Fields(string(data))[0]
		}
	}
	t.Fatal("no quota")
	return ""
}
