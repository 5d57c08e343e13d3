package rawcall

import (
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
)

// roleVariable names what this program is to do instead of its tests: a filter stays.
const roleVariable = "RAWCALL_TEST"

func TestMain(m *testing.M) {
	if role := os.Getenv(roleVariable); role != "" {
		fmt.Print(filtered(role))
		os.Exit(0)
	}
	os.Exit(m.Run())
}

func needRoot(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test changes users: run it as root")
	}
}

func TestRetry(t *testing.T) {
	for name, c := range map[string]struct {
		errs  []error
		calls int
		want  error
	}{
		"at once":           {[]error{nil}, 1, nil},
		"interrupted":       {[]error{unix.EINTR, os.NewSyscallError("read", unix.EINTR), nil}, 3, nil},
		"then failing":      {[]error{unix.EINTR, unix.EIO}, 2, unix.EIO},
		"not to be retried": {[]error{unix.EAGAIN}, 1, unix.EAGAIN},
	} {
		calls := 0
		result, err := Retry(func() (int, error) { calls++; return calls, c.errs[calls-1] })
		if result != c.calls || calls != c.calls || !errors.Is(err, c.want) {
			t.Errorf("%s: %d calls, result %d, %v; want %d calls, %v", name, calls, result, err, c.calls, c.want)
		}
		calls = 0
		err = Again(func() error { calls++; return c.errs[calls-1] })
		if calls != c.calls || !errors.Is(err, c.want) {
			t.Errorf("%s, without a result: %d calls, %v; want %d calls, %v", name, calls, err, c.calls, c.want)
		}
	}
}

// A request of which golang.org/x/sys/unix has a function, too: both say the same.
func TestIoctl(t *testing.T) {
	master := openMaster(t)
	size := unix.Winsize{Row: 12, Col: 34}
	if err := Ioctl(master, unix.TIOCSWINSZ, unsafe.Pointer(&size)); err != nil {
		t.Fatal(err)
	}
	if got, err := unix.IoctlGetWinsize(master, unix.TIOCGWINSZ); err != nil || *got != size {
		t.Errorf("%+v, %v", got, err)
	}
	if err := Ioctl(-1, unix.TIOCSWINSZ, unsafe.Pointer(&size)); !errors.Is(err, unix.EBADF) {
		t.Errorf("of no file: %v", err)
	}
}

func TestAddEntropy(t *testing.T) {
	needRoot(t)
	device, err := os.OpenFile("/dev/urandom", os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer device.Close()
	seed := make([]byte, 32)
	rand.Read(seed)
	if err := AddEntropy(int(device.Fd()), seed); err != nil {
		t.Error(err)
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if err := AddEntropy(int(null.Fd()), seed); !errors.Is(err, unix.ENOTTY) {
		t.Errorf("to another device: %v", err)
	}
}

func openMaster(t *testing.T) int {
	t.Helper()
	master, err := unix.Open("/dev/ptmx", unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { unix.Close(master) })
	return master
}

func TestOpenPeer(t *testing.T) {
	master := openMaster(t)
	const flags = unix.O_RDWR | unix.O_NOCTTY | unix.O_CLOEXEC
	if peer, err := OpenPeer(master, flags); !errors.Is(err, unix.EIO) {
		t.Errorf("of a locked terminal: %d, %v", peer, err)
	}
	if err := unix.IoctlSetPointerInt(master, unix.TIOCSPTLCK, 0); err != nil {
		t.Fatal(err)
	}
	peer, err := OpenPeer(master, flags)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close(peer)
	if got, err := unix.FcntlInt(uintptr(peer), unix.F_GETFD, 0); err != nil || got != unix.FD_CLOEXEC {
		t.Errorf("flags of the descriptor: %#x, %v", got, err)
	}
	if got, err := unix.FcntlInt(uintptr(peer), unix.F_GETFL, 0); err != nil || got&unix.O_ACCMODE != unix.O_RDWR {
		t.Errorf("flags of the file: %#x, %v", got, err)
	}
	if _, err := unix.Write(master, []byte("typed\n")); err != nil {
		t.Fatal(err)
	}
	text := make([]byte, 16)
	if n, err := unix.Read(peer, text); err != nil || string(text[:n]) != "typed\n" {
		t.Errorf("read %q, %v", text[:max(n, 0)], err)
	}
}

// What is set is this thread's, and what a socket says of who made it.
func TestThread(t *testing.T) {
	needRoot(t)
	before := ids(t, "self")
	for name, groups := range map[string][]uint32{"some groups": {56, 78}, "no groups": nil} {
		err := thread.Run(func() error {
			for _, err := range []error{SetThreadGroups(groups), SetThreadGroup(34), SetThreadUser(12)} {
				if err != nil {
					return err
				}
			}
			want := "0 12 0 12, 0 34 0 34, " + strings.Trim(fmt.Sprint(groups), "[]")
			if got := ids(t, "thread-self"); got != want {
				t.Errorf("%s: the thread is %s, want %s", name, got, want)
			}
			if err := SetThreadGroups(nil); !errors.Is(err, unix.EPERM) {
				t.Errorf("%s: groups set by nobody: %v", name, err)
			}
			return peers(t, groups)
		})
		if err != nil {
			t.Errorf("%s: %v", name, err)
		}
	}
	if after := ids(t, "self"); after != before {
		t.Errorf("the process was %s and is %s", before, after)
	}
}

func peers(t *testing.T, groups []uint32) error {
	pair, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(pair[0])
	defer unix.Close(pair[1])
	for most := range 4 {
		got, err := PeerGroups(pair[0], most)
		switch {
		case most < len(groups) && !errors.Is(err, unix.ERANGE), most >= len(groups) && (err != nil || !slices.Equal(got, groups)):
			t.Errorf("of %v, %d at most: %v, %v", groups, most, got, err)
		}
	}
	return nil
}

// ids are the users and groups of a process or a thread.
func ids(t *testing.T, of string) string {
	status, err := os.ReadFile("/proc/" + of + "/status")
	if err != nil {
		t.Error(err)
	}
	var all []string
	for line := range strings.Lines(string(status)) {
		if name, value, _ := strings.Cut(line, ":"); slices.Contains([]string{"Uid", "Gid", "Groups"}, name) {
			all = append(all, strings.Join(strings.Fields(value), " "))
		}
	}
	return strings.Join(all, ", ")
}

func TestFilterAllThreads(t *testing.T) {
	for role, want := range map[string]string{
		"all":         "0 <nil>, before <nil>, here owner died, there owner died",
		"no program":  "0 invalid argument, before <nil>, here <nil>, there <nil>",
		"one has one": "the other's, before <nil>, here <nil>, there exchange full",
	} {
		self := exec.Command("/proc/self/exe")
		self.Env = append(os.Environ(), roleVariable+"="+role)
		if output, err := self.Output(); err != nil || string(output) != want {
			t.Errorf("%s: %q, %v; want %q", role, output, err, want)
		}
	}
}

// filtered puts a filter on all threads of this process, and says what becomes of a call on this one,
// and on one that was there before.
func filtered(role string) string {
	runtime.LockOSThread()
	work, results := make(chan func() error), make(chan error)
	other := make(chan int)
	go func() {
		runtime.LockOSThread()
		other <- unix.Gettid()
		for f := range work {
			results <- f()
		}
	}()
	there := <-other
	elsewhere := func(f func() error) error { work <- f; return <-results }
	call := func() error { return unix.Uname(new(unix.Utsname)) }

	before := errors.Join(call(), elsewhere(call))
	if err := errors.Join(noNewPrivileges(), elsewhere(noNewPrivileges)); err != nil {
		return err.Error()
	}
	program := refuse(unix.SYS_UNAME, unix.EOWNERDEAD)
	switch role {
	case "no program":
		program = nil
	case "one has one":
		own := refuse(unix.SYS_UNAME, unix.EXFULL)
		if err := elsewhere(func() error { return filterThread(own) }); err != nil {
			return err.Error()
		}
	}
	thread, err := FilterAllThreads(program)
	said := fmt.Sprint(thread, " ", err)
	if thread == there && err == nil {
		said = "the other's"
	}
	return fmt.Sprintf("%s, before %v, here %v, there %v", said, before, call(), elsewhere(call))
}

// noNewPrivileges are what the kernel wants of a thread before its filter.
func noNewPrivileges() error { return unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) }

// refuse is a filter that has a system call fail.
func refuse(call uint32, errno unix.Errno) []unix.SockFilter {
	const allow, fail = 0x7fff0000, 0x00050000 // SECCOMP_RET_ALLOW and SECCOMP_RET_ERRNO
	return []unix.SockFilter{
		{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS}, // the number
		{Code: unix.BPF_JMP | unix.BPF_JEQ | unix.BPF_K, Jf: 1, K: call},
		{Code: unix.BPF_RET | unix.BPF_K, K: fail | uint32(errno)},
		{Code: unix.BPF_RET | unix.BPF_K, K: allow},
	}
}

// filterThread puts a filter on this thread alone.
func filterThread(program []unix.SockFilter) error {
	p := unix.SockFprog{Len: uint16(len(program)), Filter: &program[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&p)))
	return failure(errno)
}
