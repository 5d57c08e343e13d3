package spare

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

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
	"github.com/msb-runtime/containerd-shim-msb/shim/config"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
)

// What a request leaves open is the configuration's, which it cannot exceed.
func TestSettle(t *testing.T) {
	const mib = 1 << 20
	two := "spare.count = 2\nvm.memory = \"256MiB\""
	for name, test := range map[string]struct {
		config string
		asked  Request
		size   spec.Size
		count  int
		class  error
		says   string
	}{
		"nothing":        {two, Request{}, spec.Size{CPUs: 1, Memory: 256 * mib}, 2, nil, ""},
		"fewer":          {two, Request{Count: 1}, spec.Size{CPUs: 1, Memory: 256 * mib}, 1, nil, ""},
		"a size":         {two, Request{Size: spec.Size{Memory: 512*mib + 1}}, spec.Size{CPUs: 1, Memory: 513 * mib}, 2, nil, ""},
		"more":           {two, Request{Count: 3}, spec.Size{}, 0, errdefs.ErrInvalidArgument, "3 spares are asked for and spare.count is 2"},
		"off":            {"spare.max = 9", Request{}, spec.Size{}, 0, errdefs.ErrFailedPrecondition, "set spare.count"},
		"off, and a few": {"spare.max = 9", Request{Count: 2}, spec.Size{}, 0, errdefs.ErrFailedPrecondition, "set spare.count"},
		"too large":      {two, Request{Size: spec.Size{Memory: 1 << 50}}, spec.Size{}, 0, errdefs.ErrResourceExhausted, "lower the limit"},
	} {
		t.Run(name, func(t *testing.T) {
			configuration, err := config.Parse([]byte(test.config))
			if err != nil {
				t.Fatal(err)
			}
			size, count, err := test.asked.settle(configuration)
			if test.class != nil {
				if !errors.Is(err, test.class) || !strings.Contains(err.Error(), test.says) {
					t.Errorf("the error is %v", err)
				}
				return
			}
			if err != nil || size != test.size || count != test.count {
				t.Errorf("%d of %+v, %v; want %d of %+v", count, size, err, test.count, test.size)
			}
		})
	}
	// No host has so many CPUs: the VM gets what there are, as a container's.
	configuration := config.Default()
	configuration.Spare.Count = 1
	if size, _, err := (Request{Size: spec.Size{CPUs: 1 << 20}}).settle(configuration); err != nil || size.CPUs >= 1<<20 {
		t.Errorf("%+v, %v", size, err)
	}
}

// A fill waits for those that others have ordered, but not for dead ones.
func TestBoots(t *testing.T) {
	pool := poolAt(t.TempDir())
	boots := func(what string, want bool) {
		t.Helper()
		if got, err := pool.boots(small); got != want || err != nil {
			t.Errorf("%s: %t, %v", what, got, err)
		}
	}
	boots("none", false)
	listen(t, pool, prefix(small)+"1")
	boots("one that waits", false)
	booting, err := newPlace(filepath.Join(pool.dir, prefix(large)+"2"))
	if err != nil {
		t.Fatal(err)
	}
	defer booting.lock.Close()
	boots("one of another size", false)
	if booting, err = newPlace(filepath.Join(pool.dir, prefix(small)+"3")); err != nil {
		t.Fatal(err)
	}
	boots("one that boots", true)
	booting.lock.Close()
	boots("one that has died", false)
}

// Where those of other sizes are as many as there may be, a fill has not done what it is for. One
// that has died is in nobody's place.
func TestFull(t *testing.T) {
	for name, test := range map[string]struct {
		limits config.Spare
		dead   bool
		says   string
	}{
		"max reached":              {config.Spare{Count: 1, Max: 1}, false, "0 of 1 spares of this size wait, and there are 1 of all sizes"},
		"one that died":            {config.Spare{Count: 1, Max: 1}, true, ""},
		"fewer, but of others":     {config.Spare{Count: 1, Max: 2}, false, ""},
		"none is ever to be there": {config.Spare{Count: 1}, true, "0 of 1 spares of this size wait, and there are 0 of all sizes"},
	} {
		t.Run(name, func(t *testing.T) {
			pool := poolAt(t.TempDir())
			pool.limits = test.limits
			other := listen(t, pool, prefix(large)+"1")
			if test.dead {
				other.place.lock.Close()
			}
			err := pool.full(small)
			if test.says == "" && err != nil {
				t.Errorf("the error is %v", err)
			}
			if test.says != "" && (!errors.Is(err, errdefs.ErrResourceExhausted) || !strings.Contains(err.Error(), test.says)) {
				t.Errorf("the error is %v, want %q", err, test.says)
			}
			// Those of the size itself that wait are what is asked for.
			if err := pool.full(large); !test.dead && err != nil {
				t.Errorf("of the size that waits: %v", err)
			}
		})
	}
}

// inheritEnv makes this program a process that inherits from the one that it names, and tells what
// it has.
const inheritEnv = "MSB_TEST_INHERIT"

func tellInherited(pid string) {
	number, _ := strconv.Atoi(pid)
	unix.Umask(0o077) // an operator's
	if err := inherit(number); err != nil {
		fmt.Println(err)
		return
	}
	limits, _ := os.ReadFile("/proc/self/limits")
	score, _ := os.ReadFile("/proc/self/oom_score_adj")
	fmt.Printf("%s%s%#o\n", limits, score, unix.Umask(0))
}

// Who makes spares for a containerd has its limits, its umask and, but for one more, its score,
// whatever it had itself; it refuses to where it cannot have its namespaces.
func TestInherit(t *testing.T) {
	run := func(t *testing.T, attributes *syscall.SysProcAttr) int {
		cmd := exec.Command("sh", "-c", "umask 027; echo; exec sleep 1000")
		cmd.SysProcAttr = attributes
		output, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			_ = cmd.Process.Kill()
			_ = cmd.Wait()
		})
		if _, err := output.Read(make([]byte, 1)); err != nil { // until it has its umask
			t.Fatal(err)
		}
		return cmd.Process.Pid
	}
	inherited := func(t *testing.T, pid int) string {
		cmd := exec.Command("/proc/self/exe")
		cmd.Env = append(os.Environ(), fmt.Sprint(inheritEnv, "=", pid), "GORACE=atexit_sleep_ms=0")
		output, err := cmd.Output()
		if err != nil {
			t.Fatal(err)
		}
		return string(output)
	}
	pid := run(t, nil)
	for limit, value := range map[int]uint64{unix.RLIMIT_NOFILE: 1234, unix.RLIMIT_NPROC: 54321, unix.RLIMIT_MEMLOCK: 65536, unix.RLIMIT_RTTIME: 7654321} {
		if err := unix.Prlimit(pid, limit, &unix.Rlimit{Cur: value, Max: value}, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte("500"), 0); err != nil {
		t.Fatal(err)
	}
	limits, err := os.ReadFile(fmt.Sprintf("/proc/%d/limits", pid))
	if err != nil {
		t.Fatal(err)
	}
	if got, want := inherited(t, pid), string(limits)+"501\n027\n"; got != want {
		t.Errorf("it has\n%swant\n%s", got, want)
	}

	elsewhere := run(t, &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWUTS})
	if got := inherited(t, elsewhere); !strings.Contains(got, "another namespace (uts)") {
		t.Errorf("from a process in another namespace: %s", got)
	}

	confined := 0
	err = thread.Run(func() error {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return err
		}
		confined = run(t, nil)
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	if got := inherited(t, confined); !strings.Contains(got, "confined in another way (NoNewPrivs 1) than this process (0)") {
		t.Errorf("from a process that is confined: %s", got)
	}
}
