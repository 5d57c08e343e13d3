package survey

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/record"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
)

// A world is containerd's state directory, with bundles that a test makes.
type world struct {
	t    *testing.T
	host Host
}

func newWorld(t *testing.T) world {
	return world{t, Host{State: t.TempDir(), Proc: "/proc", Patience: time.Minute}}
}

func (w world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// bundle makes one. A record is written if it is not nil; the shim was started for a bundle
// that has one.
func (w world) bundle(plugin, namespace, id, address string, r *sandbox.Record) string {
	w.t.Helper()
	dir := filepath.Join(w.host.State, plugin, namespace, id)
	w.must(os.MkdirAll(dir, 0o700))
	if address != "" {
		w.must(os.WriteFile(filepath.Join(dir, "bootstrap.json"), fmt.Appendf(nil, `{"version":3,"address":%q,"protocol":"ttrpc"}`, address), 0o600))
	}
	if r != nil {
		w.must(record.Write(dir, "sandbox.json", r))
		w.must(os.WriteFile(filepath.Join(dir, "address"), []byte(address), 0o600))
	}
	return dir
}

// tasks answers as a shim does, for the tasks that it knows.
type tasks struct {
	taskapi.TTRPCTaskService
	states map[string]tasktypes.Status
}

func (s tasks) State(_ context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	state, known := s.states[r.ID]
	if !known {
		return nil, errgrpc.ToGRPC(fmt.Errorf("task %s: %w", r.ID, errdefs.ErrNotFound))
	}
	return &taskapi.StateResponse{ID: r.ID, Status: state}, nil
}

func (s tasks) Connect(context.Context, *taskapi.ConnectRequest) (*taskapi.ConnectResponse, error) {
	return nil, errgrpc.ToGRPC(errdefs.ErrNotFound)
}

// listen makes a shim's socket. Nobody answers there.
func (w world) listen() (net.Listener, string) {
	w.t.Helper()
	dir, err := os.MkdirTemp("", "s") // t.TempDir is too long for a socket
	w.must(err)
	path := filepath.Join(dir, "s")
	l, err := net.Listen("unix", path)
	w.must(err)
	w.t.Cleanup(func() { l.Close(); os.RemoveAll(dir) })
	return l, "unix://" + path
}

// shim serves tasks.
func (w world) shim(states map[string]tasktypes.Status) string {
	w.t.Helper()
	l, address := w.listen()
	server, err := ttrpc.NewServer()
	w.must(err)
	taskapi.RegisterTTRPCTaskService(server, tasks{states: states})
	ctx, cancel := context.WithCancel(context.Background())
	go func() { _ = server.Serve(ctx, l) }()
	w.t.Cleanup(func() { cancel(); server.Close() })
	return address
}

// self is a record whose VMM is this process.
func (w world) self() *sandbox.Record {
	w.t.Helper()
	p := w.host.process(os.Getpid())
	return &sandbox.Record{Pid: os.Getpid(), Start: strconv.FormatInt(p.start, 10), Shim: os.Getpid(), Driver: "qemu", CPUs: 2, Memory: 1 << 29, Spare: "/s", CgroupsPath: "/a/b"}
}

// lines are sandboxes in short.
func lines(all []Sandbox) (lines []string) {
	for _, s := range all {
		line := fmt.Sprintf("%s/%s %s", s.Namespace, s.ID, s.State)
		for _, c := range s.Containers {
			line += " " + c.ID + "=" + c.State
		}
		lines = append(lines, line)
	}
	return lines
}

func TestFind(t *testing.T) {
	w := newWorld(t)
	running, stopped := tasktypes.Status_RUNNING, tasktypes.Status_STOPPED
	w.bundle(taskDir, "default", "one", w.shim(map[string]tasktypes.Status{"one": running}), w.self())
	// A pod of a pause container, and one of the Sandbox API that has no container yet.
	pod := w.shim(map[string]tasktypes.Status{"pause": running, "app": stopped})
	w.bundle(taskDir, "k8s.io", "app", pod, nil)
	w.bundle(taskDir, "k8s.io", "pause", pod, w.self())
	w.bundle(sandboxDir, "k8s.io", "empty", w.shim(nil), w.self())
	// A pod of the Sandbox API with a container.
	pod = w.shim(map[string]tasktypes.Status{"member": running})
	w.bundle(sandboxDir, "k8s.io", "pod", pod, w.self())
	w.bundle(taskDir, "k8s.io", "member", pod, nil)
	// A VM that has yet to start, one that has ended, whose record is gone, and one whose
	// process id another process has now.
	booting := w.self()
	booting.Pid, booting.Start = 0, ""
	w.bundle(taskDir, "default", "boots", w.shim(map[string]tasktypes.Status{}), booting)
	gone := w.bundle(taskDir, "default", "ended", w.shim(map[string]tasktypes.Status{"ended": stopped}), nil)
	w.must(os.WriteFile(filepath.Join(gone, "task.json"), []byte("{}"), 0o600))
	other := w.self()
	other.Start = "1"
	w.bundle(taskDir, "default", "recycled", w.shim(map[string]tasktypes.Status{"recycled": stopped}), other)
	// Shims that are not there.
	w.bundle(taskDir, "default", "lost", "unix:///no/such/socket", w.self())
	w.bundle(taskDir, "default", "odd", "vsock://1", w.self())
	// A damaged record, a bundle of another runtime, a file where none is expected.
	damaged := w.bundle(taskDir, "default", "damaged", w.shim(map[string]tasktypes.Status{"damaged": running}), w.self())
	w.must(os.WriteFile(filepath.Join(damaged, "sandbox.json"), []byte("{"), 0o600))
	w.must(os.WriteFile(filepath.Join(damaged, "task.json"), []byte("{}"), 0o600))
	w.bundle(taskDir, "default", "of-runc", w.shim(nil), nil)
	w.must(os.WriteFile(filepath.Join(w.host.State, taskDir, "default", "file"), nil, 0o600))

	found, err := w.host.Find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := []string{
		"default/boots starting boots=",
		"default/damaged running damaged=running",
		"default/ended stopped ended=stopped",
		"default/lost lost lost=",
		"default/odd lost odd=",
		"default/one running one=running",
		"default/recycled stopped recycled=stopped",
		"k8s.io/empty running",
		"k8s.io/pause running app=stopped pause=running",
		"k8s.io/pod running member=running",
	}
	if got := lines(found); !slices.Equal(got, want) {
		t.Errorf("found\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
	one := found[5]
	if one.Driver != "qemu" || one.CPUs != 2 || one.Memory != 1<<29 || one.Cgroup != "/a/b" || one.Spare != "/s" || one.VMM.Pid != os.Getpid() ||
		one.VMM.Resident <= 0 || one.Shim.Pid != os.Getpid() {
		t.Errorf("%+v", one)
	}
	if age := time.Since(*one.Started); age < -time.Second || age > time.Hour {
		t.Errorf("this process is %v old", age)
	}
}

// A shim that does not answer is shown as hung, and those beside it are not waited for any
// longer: all of them are asked at the same time.
func TestHung(t *testing.T) {
	w := newWorld(t)
	w.host.Patience = 100 * time.Millisecond
	want := []string{}
	for i := range 20 {
		id := fmt.Sprintf("h%02d", i)
		_, address := w.listen()
		w.bundle(taskDir, "default", id, address, w.self())
		want = append(want, fmt.Sprintf("default/%s hung %s=", id, id))
	}
	found, err := w.host.Find(t.Context())
	if err != nil || !slices.Equal(lines(found), want) {
		t.Errorf("%q, %v", lines(found), err)
	}
	if found[0].VMM == nil || found[0].Driver == "" {
		t.Errorf("what is known without the shim is not told: %+v", found[0])
	}
}

// So is one whose socket takes no more connections, and one that is known to hang is not asked.
func TestHungUnasked(t *testing.T) {
	w := newWorld(t)
	path := filepath.Join(t.TempDir(), "s")
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	w.must(err)
	t.Cleanup(func() { unix.Close(fd) })
	w.must(unix.Bind(fd, &unix.SockaddrUnix{Name: path}))
	w.must(unix.Listen(fd, 1))
	for {
		conn, err := net.Dial("unix", path)
		if err != nil {
			break
		}
		t.Cleanup(func() { conn.Close() })
	}
	w.bundle(taskDir, "default", "full", "unix://"+path, w.self())
	known := w.shim(map[string]tasktypes.Status{"known": tasktypes.Status_RUNNING})
	w.bundle(taskDir, "default", "known", known, w.self())
	w.host.Hung = func(address string) bool { return address == known }
	found, err := w.host.Find(t.Context())
	if want := []string{"default/full hung full=", "default/known hung known="}; err != nil || !slices.Equal(lines(found), want) {
		t.Errorf("%q, %v", lines(found), err)
	}
}

func TestNothing(t *testing.T) {
	w := newWorld(t)
	if found, err := w.host.Find(t.Context()); err != nil || len(found) != 0 {
		t.Errorf("%v, %v", found, err)
	}
	w.host.State = filepath.Join(w.host.State, "none")
	if _, err := w.host.Find(t.Context()); err == nil || !strings.Contains(err.Error(), "state directory") {
		t.Errorf("no state directory: %v", err)
	}
}

func TestPick(t *testing.T) {
	all := []Sandbox{
		{Namespace: "a", ID: "web", Bundle: "1", Containers: []Container{{ID: "web"}}},
		{Namespace: "a", ID: "web-2", Bundle: "2", Containers: []Container{{ID: "web-2"}}},
		{Namespace: "b", ID: "pod", Bundle: "3", Containers: []Container{{ID: "pod-app"}, {ID: "db"}}},
		{Namespace: "b", ID: "web", Bundle: "4", Containers: []Container{{ID: "web"}}},
	}
	for _, c := range []struct{ namespace, id, bundle, err string }{
		{"a", "web", "1", ""},
		{"a", "web-", "2", ""},
		{"", "web-", "2", ""},
		{"", "d", "3", ""},
		{"", "po", "3", ""}, // of the pod and of its container
		{"a", "we", "", `"we" is the beginning of several ids, a/web and a/web-2: `},
		{"", "web", "", `a/web and b/web: `},
		{"", "x", "", `begins with "x"`},
		{"b", "web-", "", `begins with "web-"`},
	} {
		got, err := Pick(all, c.namespace, c.id)
		if got.Bundle != c.bundle || (err == nil) != (c.err == "") || err != nil && !strings.Contains(err.Error(), c.err) {
			t.Errorf("%+v: %q, %v", c, got.Bundle, err)
		}
	}
}

func TestParseStat(t *testing.T) {
	const stat = "7 (a (b) c) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 1000 3 18446744073709551615 1"
	p := parseStat(7, stat)
	if p == nil || p.Name != "a (b) c" || p.start != 4711 || p.Resident != 3*int64(os.Getpagesize()) ||
		p.Parent != 1 || p.CPU != 110*time.Millisecond {
		t.Errorf("%+v", p)
	}
	for _, bad := range []string{"", "7 (x", "7 (x) S 1", ") (", strings.Replace(stat, " S ", " Z ", 1)} {
		if p := parseStat(7, bad); p != nil {
			t.Errorf("%q: %+v", bad, p)
		}
	}
}

// What a VM is given is read from the shim's mounts, as they are in a real one.
func TestSharesAndProcesses(t *testing.T) {
	w := newWorld(t)
	w.host.Proc = t.TempDir()
	shim := filepath.Join(w.host.Proc, "42")
	w.must(os.MkdirAll(filepath.Join(shim, "task", "43"), 0o700))
	w.must(os.WriteFile(filepath.Join(shim, "task", "43", "children"), []byte("50 51 "), 0o600))
	w.must(os.MkdirAll(filepath.Join(w.host.Proc, "50", "task", "50"), 0o700))
	w.must(os.MkdirAll(filepath.Join(w.host.Proc, "52"), 0o700))
	w.must(os.WriteFile(filepath.Join(w.host.Proc, "50", "task", "50", "children"), []byte("52 "), 0o600))
	for _, pid := range []string{"50", "52"} {
		stat := pid + " (virtiofsd) S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 1000 3 1"
		w.must(os.WriteFile(filepath.Join(w.host.Proc, pid, "stat"), []byte(stat), 0o600))
	}
	w.must(os.WriteFile(filepath.Join(shim, "mountinfo"), []byte(`1 1 0:1 / / rw - ext4 /dev/vda rw
64 63 0:40 / /b/msb/pool rw,nosuid shared:1 - tmpfs msb rw
92 64 0:42 / /b/msb/pool/rf_1 rw,nodev shared:5 - overlay overlay rw
68 65 0:42 / /b/msb/pool.served/rf_1 rw,nodev shared:6 master:5 - overlay overlay rw
74 64 254:0 /srv /b/msb/pool/dm_2 ro,nodev shared:9 - ext4 /dev/vda rw
75 64 254:0 /srv/x /b/msb/pool/dm_2/x rw,nodev shared:9 - ext4 /dev/vda rw
72 66 0:44 /fm_9 /b/msb/files/fm_3/hostname rw,nodev shared:7 - fuse.msb msb rw
73 66 254:0 /etc/passwd /b/msb/files/fm_4/passwd ro,nodev shared:7 - ext4 /dev/vda rw
80 66 254:0 /srv /b2/msb/pool/dm_5 rw,nodev shared:7 - ext4 /dev/vda rw
`), 0o600))
	s := Sandbox{Bundle: "/b", Shim: &Process{Pid: 42}}
	want := []Share{
		{"rf_1", "root file system", "overlay", "/", false},
		{"dm_2", "directory", "ext4", "/srv", true},
		{"fm_3", "file", "fuse.msb", "hostname", false},
		{"fm_4", "file", "ext4", "/etc/passwd", true},
	}
	if got := w.host.Shares(s); !slices.Equal(got, want) {
		t.Errorf("shares: %+v", got)
	}
	// The trees of a VM that was a spare stay where they were.
	was := Sandbox{Bundle: "/b", Spare: "/b2", Shim: &Process{Pid: 42}}
	if got := w.host.Shares(was); !slices.Equal(got, []Share{{"dm_5", "directory", "ext4", "/srv", false}}) {
		t.Errorf("shares of a VM that was a spare: %+v", got)
	}
	if got := w.host.Processes(s); len(got) != 2 || got[0].Name != "virtiofsd" || got[1].Pid != 52 {
		t.Errorf("processes: %+v", got)
	}
	if w.host.Shares(Sandbox{}) != nil || w.host.Processes(Sandbox{}) != nil {
		t.Error("something of a sandbox without a shim")
	}
}

// A spare that a shim has started is no process of its VM. A process of the VM that has given itself
// the shim's name is.
func TestDescendants(t *testing.T) {
	w := newWorld(t)
	w.host.Proc = t.TempDir()
	process := func(pid, name, program, children string) {
		dir := filepath.Join(w.host.Proc, pid)
		w.must(os.MkdirAll(filepath.Join(dir, "task", pid), 0o700))
		w.must(os.WriteFile(filepath.Join(dir, "stat"), []byte(pid+" ("+name+") S 1 7 7 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 1000 3 1"), 0o600))
		w.must(os.WriteFile(filepath.Join(dir, "task", pid, "children"), []byte(children), 0o600))
		if program != "" {
			w.must(os.Symlink(program, filepath.Join(dir, "exe")))
		}
	}
	const name = "containerd-shim"
	process("42", name, "/usr/bin/containerd-shim-msb-v2 (deleted)", "43 44 45 ")
	process("43", name, "/usr/bin/containerd-shim-msb-v2", "46 ") // a spare, of the new build
	process("44", name, "/usr/lib/msb/virtiofsd", "47 ")          // what somebody else owns
	process("45", "ends", "", "")
	process("46", "qemu", "/usr/bin/qemu", "")
	process("47", name, "/usr/lib/msb/virtiofsd", "")
	var pids []int
	for _, p := range w.host.Descendants(42) {
		pids = append(pids, p.Pid)
	}
	if !slices.Equal(pids, []int{44, 45, 47}) {
		t.Errorf("descendants %v", pids)
	}
}
