package jail

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/vm/jail/entry"
)

// The test's own program, started again with one of these, is the jailed process.
var roles = map[string]func(){
	"enter": func() { fmt.Println(entry.Enter()); list("/"); list("/" + descriptorsDir) },
	"fail":  func() { entry.Fail(errors.New("no such library")) },
	"end":   func() {},
	"try": func() {
		fmt.Println(entry.Enter())
		fmt.Println(os.WriteFile("/made", nil, 0o600))
		_, err := os.Open("/nodes/null")
		fmt.Println(err)
		_, err = unix.FcntlInt(inherited, unix.F_GETFD, 0)
		fmt.Println(err)
	},
	"forever": func() { time.Sleep(time.Hour) }, // with nobody else, select {} is a deadlock, at which Go ends
	"server": func() {
		fmt.Println(entry.Enter())
		runtime.LockOSThread()
		fmt.Println("root has", effective())
		// As file servers do, for one thread (setresuid(2)).
		_, _, errno := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 1000, ^uintptr(0))
		fmt.Println("user 1000 has", effective(), errno)
		err := unix.Prctl(unix.PR_SET_SECUREBITS, 0, 0, 0, 0)
		_, _, errno = unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 0, ^uintptr(0))
		fmt.Println("root has", effective(), errno, err)
	},
	"late": func() {
		fmt.Println(entry.Enter())
		for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
			if _, err := os.Stat("/tree/late/file"); err == nil {
				fmt.Println("seen")
				return
			}
		}
	},
}

func TestMain(m *testing.M) {
	if len(os.Args) == 2 && roles[os.Args[1]] != nil {
		roles[os.Args[1]]()
		return
	}
	os.Exit(m.Run())
}

// effective are this thread's capabilities.
func effective() string {
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var sets [2]unix.CapUserData
	if err := unix.Capget(&header, &sets[0]); err != nil {
		return err.Error()
	}
	return fmt.Sprintf("%x", sets[0].Effective)
}

func list(dir string) {
	entries, err := os.ReadDir(dir)
	var names []string
	for _, entry := range entries {
		names = append(names, entry.Name())
	}
	fmt.Println(dir, names, err)
}

func spec(t *testing.T, role string, output io.Writer) Spec {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test mounts: run it as root")
	}
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	return Spec{
		Program: self, Args: []string{role}, Output: output,
		Root:       &Root{Dir: t.TempDir(), Descriptors: true},
		Namespaces: Isolated, Capabilities: []uintptr{}, NoNewPrivileges: true, Cooperates: true, Filter: true,
	}
}

// ended waits for a process and checks that the host is as before.
func ended(t *testing.T, p *Process) {
	t.Helper()
	select {
	case <-p.Exited():
	case <-time.After(30 * time.Second):
		t.Fatal("the process does not end")
	}
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(filepath.Dir(t.TempDir())))
	if err != nil {
		t.Error(err)
	}
	for _, left := range mounts {
		if left.Source == "jail" {
			t.Errorf("the jail's root is left at %s", left.Mountpoint)
		}
	}
	if root, err := os.Readlink("/proc/self/root"); root != "/" || err != nil {
		t.Errorf("the root of this process is %s, %v", root, err)
	}
}

// The root holds the binds and nothing else; descriptors are the process's own.
func TestRoot(t *testing.T) {
	var output bytes.Buffer
	s := spec(t, "enter", &output)
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s.Root.Binds = []Bind{{Source: file, Target: "/a/b/file"}, {Source: t.TempDir(), Target: "/dir"}}
	before := tasks(t)
	p, err := Start(s)
	if err != nil {
		t.Fatal(err, output.String())
	}
	ended(t, p)
	// 0 to 2, then what the Go runtime opened to list the directory.
	want := "<nil>\n/ [a dir proc] <nil>\n/proc/self/fd [0 1 2 "
	if got := output.String(); !strings.HasPrefix(got, want) {
		t.Errorf("printed %q, want %q…", got, want)
	}
	for deadline := time.Now().Add(5 * time.Second); tasks(t) > before+2; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%d threads, and there were %d: the jail's thread stays", tasks(t), before)
		}
	}
}

// inherited is a descriptor that this process has not marked to be closed (open(2), O_CLOEXEC).
const inherited = 100

// Nothing can be made in the root, device nodes are not opened, and whatever this process has open is
// not there.
func TestNothingBesides(t *testing.T) {
	var output bytes.Buffer
	s := spec(t, "try", &output)
	nodes := t.TempDir()
	if err := unix.Mknod(filepath.Join(nodes, "null"), unix.S_IFCHR|0o666, int(unix.Mkdev(1, 3))); err != nil {
		t.Fatal(err)
	}
	s.Root.Binds = []Bind{{Source: nodes, Target: "/nodes"}}
	if err := unix.Dup3(2, inherited, 0); err != nil {
		t.Fatal(err)
	}
	defer unix.Close(inherited)
	p, err := Start(s)
	if err != nil {
		t.Fatal(err, output.String())
	}
	ended(t, p)
	const want = "<nil>\nopen /made: read-only file system\nopen /nodes/null: permission denied\nbad file descriptor\n"
	if got := output.String(); got != want {
		t.Errorf("printed %q, want %q", got, want)
	}
}

// tasks is the number of threads in another mount namespace than the process.
func tasks(t *testing.T) (n int) {
	t.Helper()
	own, err := os.Readlink("/proc/self/ns/mnt")
	if err != nil {
		t.Fatal(err)
	}
	links, _ := filepath.Glob("/proc/self/task/*/ns/mnt")
	for _, link := range links {
		if namespace, err := os.Readlink(link); err == nil && namespace != own {
			n++
		}
	}
	return n
}

// What is mounted below a tree later arrives in the jail: a share for a container
// that joins a running VM.
func TestTreeReceivesMounts(t *testing.T) {
	var output bytes.Buffer
	s := spec(t, "late", &output)
	tree := t.TempDir()
	mount := func(target string, flags uintptr) {
		t.Helper()
		if err := unix.Mount("late", target, "tmpfs", 0, ""); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = unix.Unmount(target, unix.MNT_DETACH) })
		if err := unix.Mount("", target, "", flags, ""); err != nil {
			t.Fatal(err)
		}
	}
	mount(tree, unix.MS_SHARED)
	late := filepath.Join(tree, "late")
	if err := os.Mkdir(late, 0o755); err != nil {
		t.Fatal(err)
	}
	s.Root.Binds = []Bind{{Source: tree, Target: "/tree", Tree: true}}
	p, err := Start(s)
	if err != nil {
		t.Fatal(err)
	}
	mount(late, unix.MS_SHARED)
	if err := os.WriteFile(filepath.Join(late, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	ended(t, p)
	if output.String() != "<nil>\nseen\n" {
		t.Errorf("printed %q", output.String())
	}
}

func TestStartFails(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*Spec)
		class  error
		want   string
	}{
		"no program":          {func(s *Spec) { s.Program = "/no/program" }, unix.ENOENT, "starting /no/program"},
		"no source":           {func(s *Spec) { s.Root.Binds = []Bind{{Source: "/no/source", Target: "/x"}} }, unix.ENOENT, "/no/source"},
		"no directory":        {func(s *Spec) { s.Root.Dir = "/no/dir" }, unix.ENOENT, "/no/dir"},
		"it cannot load":      {func(s *Spec) { s.Args = []string{"fail"} }, errdefs.ErrFailedPrecondition, "no such library"},
		"it ends":             {func(s *Spec) { s.Args = []string{"end"} }, errdefs.ErrUnavailable, "did not get as far as its jail"},
		"a limit is too high": {func(s *Spec) { s.Limits = []Limit{{unix.RLIMIT_NOFILE, 1 << 40}} }, unix.EPERM, "limiting resource"},
	} {
		t.Run(name, func(t *testing.T) {
			s := spec(t, "enter", io.Discard)
			c.change(&s)
			_, err := Start(s)
			if !errors.Is(err, c.class) || !strings.Contains(fmt.Sprint(err), c.want) {
				t.Errorf("%v, want %v with %q", err, c.class, c.want)
			}
			if children, _ := os.ReadFile(fmt.Sprintf("/proc/self/task/%d/children", os.Getpid())); len(children) > 0 {
				t.Errorf("processes are left: %s", children)
			}
		})
	}
}

// A process that does not cooperate is confined from its first instruction.
func TestUncooperative(t *testing.T) {
	s := spec(t, "forever", io.Discard)
	s.Root, s.Cooperates = nil, false
	p, err := Start(s)
	if err != nil {
		t.Fatal(err)
	}
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.Pid()))
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"CapBnd:\t0000000000000000", "CapPrm:\t0000000000000000", "NoNewPrivs:\t1"} {
		if !strings.Contains(string(status), want) {
			t.Errorf("no %q in\n%s", want, status)
		}
	}
	p.End(0)
	ended(t, p)
}

// A file server that acts as a user has what it has as root, and no more; what it has it
// cannot change. Without the measure it has nothing then.
func TestNoSetuidFixup(t *testing.T) {
	const all, none = 1<<unix.CAP_DAC_OVERRIDE | 1<<unix.CAP_SETUID, 0
	for without, asUser := range map[bool]int{false: all, true: none} {
		var output bytes.Buffer
		s := spec(t, "server", &output)
		s.Capabilities, s.NoSetuidFixup = []uintptr{unix.CAP_DAC_OVERRIDE, unix.CAP_SETUID}, !without
		p, err := Start(s)
		if err != nil {
			t.Fatal(err)
		}
		ended(t, p)
		want := fmt.Sprintf("<nil>\nroot has %x\nuser 1000 has %x errno 0\nroot has %x errno 0 operation not permitted\n", all, asUser, all)
		if got := output.String(); got != want {
			t.Errorf("without the measure %v: printed\n%s\nwant\n%s", without, got, want)
		}
	}
}

// The limit of descriptors is this process's, and at most 1 Mi: a test cannot raise
// its own beyond fs.nr_open, which is often the same.
func TestDescriptorLimit(t *testing.T) {
	for hard, want := range map[uint64]uint64{4096: 4096, 1 << 20: 1 << 20, 1<<20 + 1: 1 << 20, 1 << 30: 1 << 20, unix.RLIM_INFINITY: 1 << 20} {
		if got := atMost(hard); got != want {
			t.Errorf("of %d: %d, want %d", hard, got, want)
		}
	}
	var own unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_NOFILE, &own); err != nil {
		t.Fatal(err)
	}
	if got := DescriptorLimit(); got == 0 || got > own.Max || got > 1<<20 {
		t.Errorf("%d descriptors for a process of one that may have %d", got, own.Max)
	}
}
