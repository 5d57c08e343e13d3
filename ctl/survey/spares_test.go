package survey

import (
	"bufio"
	"context"
	"fmt"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/spare"
)

// spareEnv makes this program a spare whose directory is below a root; stubbornEnv one that
// does not end.
const spareEnv, stubbornEnv = "MSB_TEST_SPARE", "MSB_TEST_STUBBORN"

func TestMain(m *testing.M) {
	if root := os.Getenv(spareEnv); root != "" {
		if err := beSpare(root); err != nil {
			fmt.Println(err)
		}
		return
	}
	os.Exit(m.Run())
}

func beSpare(root string) error {
	if os.Getenv(stubbornEnv) != "" {
		signal.Ignore(unix.SIGTERM)
	}
	dir := filepath.Join(root, "key", fmt.Sprintf("2x%d-%d", 64<<20, os.Getpid()))
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, name := range []string{"waiting", "socket", "lock"} {
		if err := os.WriteFile(filepath.Join(dir, name), nil, 0o600); err != nil {
			return err
		}
	}
	lock, err := os.Open(filepath.Join(dir, "lock"))
	if err != nil {
		return err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	fmt.Println("waits")
	_, err = os.Stdin.Read(make([]byte, 1))
	return err
}

// newSpare starts one, whose input ends it.
func newSpare(t *testing.T, root, address string, env ...string) (pid int, end func()) {
	t.Helper()
	cmd := exec.Command("/proc/self/exe", "-address", address, "spare")
	cmd.Env = append(append(os.Environ(), spareEnv+"="+root, "GORACE=atexit_sleep_ms=0"), env...)
	input, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	output, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if said, err := bufio.NewReader(output).ReadString('\n'); said != "waits\n" {
		t.Fatalf("a spare says %q, %v", said, err)
	}
	end = func() { input.Close(); _ = cmd.Wait() }
	t.Cleanup(end)
	return cmd.Process.Pid, end
}

func TestSpares(t *testing.T) {
	host, root := Host{Proc: "/proc"}, t.TempDir()
	find := func(address string, want ...int) []Spare {
		t.Helper()
		found, err := host.Spares(root, address)
		if err != nil || len(found) != len(want) {
			t.Fatalf("%+v, %v", found, err)
		}
		for _, pid := range want {
			known := false
			for _, s := range found {
				known = known || s.Pid == pid
			}
			if !known {
				t.Errorf("%d is not among %+v", pid, found)
			}
		}
		return found
	}
	find("")
	one, _ := newSpare(t, root, "/a")
	s := find("/a", one)[0]
	age := time.Since(*s.Started)
	if s.State != spare.Waiting || s.CPUs != 2 || s.Memory != 64<<20 || s.Resident <= 0 || s.Containerd != "/a" || age < -time.Second || age > time.Hour {
		t.Errorf("%+v", s)
	}
	find("/b")
	other, _ := newSpare(t, root, "/b")
	dead, kill := newSpare(t, root, "/c")
	kill()
	find("", one, other, dead)
	for _, s := range find("/b", other, dead) {
		if s.Pid == dead && (s.State != spare.Dead || s.Started != nil || s.Resident != 0 || s.Containerd != "") {
			t.Errorf("a dead one: %+v", s)
		}
	}
}

func TestDrainSpares(t *testing.T) {
	host, root := Host{Proc: "/proc"}, t.TempDir()
	ends, _ := newSpare(t, root, "/a")
	stays, _ := newSpare(t, root, "/a", stubbornEnv+"=1")
	others, _ := newSpare(t, root, "/b")
	dead, kill := newSpare(t, root, "/a")
	kill()
	used, _ := newSpare(t, root, "/a")
	spares, err := host.Spares(root, "/a")
	if err != nil {
		t.Fatal(err)
	}
	waiting := filepath.Join(root, "key", fmt.Sprintf("2x%d-%d", 64<<20, used), "waiting")
	if err := os.Remove(waiting); err != nil {
		t.Fatal(err)
	}
	// The stubborn one is waited for alone, for no time.
	isStubborn := func(s Spare) bool { return s.Pid == stays }
	d, err := DrainSpares(t.Context(), root, slices.DeleteFunc(slices.Clone(spares), isStubborn))
	if err != nil {
		t.Error(err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	last, err := DrainSpares(over, root, slices.DeleteFunc(spares, func(s Spare) bool { return !isStubborn(s) }))
	if err != nil {
		t.Error(err)
	}
	d.Left = append(d.Left, last.Left...)
	for what, c := range map[string]struct {
		got  []Spare
		want int
	}{"ended": {d.Ended, ends}, "left": {d.Left, stays}, "removed": {d.Removed, dead}, "used": {d.Used, used}} {
		if len(c.got) != 1 || c.got[0].Pid != c.want {
			t.Errorf("%s: %+v, want %d", what, c.got, c.want)
		}
	}
	left, err := host.Spares(root, "")
	if err != nil || len(left) != 3 { // the stubborn one, the used one whose title is a spare's, the other's
		t.Errorf("left: %+v, %v", left, err)
	}
	for _, s := range left {
		if s.Pid == stays && s.State != spare.Ending || s.Pid == others && s.State != spare.Waiting {
			t.Errorf("left: %+v", s)
		}
	}
}
