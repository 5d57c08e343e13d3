package metrics

import (
	"context"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/ttrpc"

	"github.com/msb-runtime/containerd-shim-msb/ctl/survey"
	"github.com/msb-runtime/containerd-shim-msb/shim/record"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/spare"
)

// A world is a host's directories, with what a test puts there.
type world struct {
	t      testing.TB
	source Source
}

func newWorld(t testing.TB) world {
	w := world{t, Source{survey.Host{State: t.TempDir(), Proc: t.TempDir(), Patience: time.Minute}, func() ([]spare.Listed, error) { return nil, nil }, t.TempDir()}}
	w.write(filepath.Join(w.source.Proc, "stat"), "cpu 1 2\nbtime 1700000000\n")
	return w
}

func (w world) must(err error) {
	w.t.Helper()
	if err != nil {
		w.t.Fatal(err)
	}
}

// write writes a file, and makes its directory.
func (w world) write(path, content string) {
	w.t.Helper()
	w.must(os.MkdirAll(filepath.Dir(path), 0o700))
	w.must(os.WriteFile(path, []byte(content), 0o600))
}

// startTicks is when all processes of a test were started, ten seconds after the host.
const startTicks = 1000

// process makes one of the host's. It has used ticks of a processor, and has KiB of anonymous
// memory, files and shared memory.
func (w world) process(pid, parent int, name string, ticks, anonymous, file, shared int, children ...int) {
	w.t.Helper()
	dir := filepath.Join(w.source.Proc, strconv.Itoa(pid))
	w.write(filepath.Join(dir, "stat"), fmt.Sprintf("%d (%s) S %d 7 7 0 -1 4194560 1 2 3 4 %d 0 7 8 20 0 1 0 %d 1000 3 1", pid, name, parent, ticks, startTicks))
	w.write(filepath.Join(dir, "status"), fmt.Sprintf("Name:\t%s\nVmRSS:\t 1 kB\nRssAnon:\t%8d kB\nRssFile:\t%8d kB\nRssShmem:\t%8d kB\n", name, anonymous, file, shared))
	w.write(filepath.Join(dir, "cmdline"), "/bin/"+name+"\x00")
	w.must(os.Symlink("/bin/"+name, filepath.Join(dir, "exe")))
	w.write(filepath.Join(dir, "task", strconv.Itoa(pid), "children"), strings.Trim(fmt.Sprint(children), "[]")+" ")
}

// tasks answers as a shim does: all of its tasks are running.
type tasks struct{ taskapi.TTRPCTaskService }

func (tasks) State(_ context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	return &taskapi.StateResponse{ID: r.ID, Status: tasktypes.Status_RUNNING}, nil
}

func (tasks) Connect(context.Context, *taskapi.ConnectRequest) (*taskapi.ConnectResponse, error) {
	return new(taskapi.ConnectResponse), nil
}

func (w world) listen() (net.Listener, string) {
	w.t.Helper()
	dir, err := os.MkdirTemp("", "s") // t.TempDir is too long for a socket
	w.must(err)
	l, err := net.Listen("unix", filepath.Join(dir, "s"))
	w.must(err)
	w.t.Cleanup(func() { l.Close(); os.RemoveAll(dir) })
	return l, "unix://" + filepath.Join(dir, "s")
}

// shim is the address of one that answers.
func (w world) shim() string {
	w.t.Helper()
	l, address := w.listen()
	server, err := ttrpc.NewServer()
	w.must(err)
	taskapi.RegisterTTRPCTaskService(server, tasks{})
	ctx, cancel := context.WithCancel(context.Background())
	go func() { _ = server.Serve(ctx, l) }()
	w.t.Cleanup(func() { cancel(); server.Close() })
	return address
}

// hung is the address of one that does not, and counts those who come.
func (w world) hung() (address string, came *atomic.Int64) {
	w.t.Helper()
	l, address := w.listen()
	came = new(atomic.Int64)
	go func() {
		for {
			conn, err := l.Accept()
			if err != nil {
				return
			}
			came.Add(1)
			w.t.Cleanup(func() { conn.Close() })
		}
	}()
	return address, came
}

const (
	taskDir    = "io.containerd.runtime.v2.task"
	sandboxDir = "io.containerd.sandbox.controller.v1.shim"
)

// bundle makes a bundle of containerd's; a nil record is not written.
func (w world) bundle(plugin, namespace, id, address string, r *sandbox.Record) string {
	w.t.Helper()
	dir := filepath.Join(w.source.State, plugin, namespace, id)
	w.write(filepath.Join(dir, "runtime-options"), "")
	w.write(filepath.Join(dir, "address"), address)
	if r != nil {
		w.must(record.Write(dir, "sandbox.json", r))
	}
	return dir
}

// recorded is a record of a VMM and a shim.
func recorded(vmm, shim int, driver string) *sandbox.Record {
	return &sandbox.Record{Pid: vmm, Start: strconv.Itoa(startTicks), Shim: shim, Driver: driver, CPUs: 2, Memory: 512 << 20}
}

// many makes some running sandboxes with QEMU, each with the processes that one has.
func (w world) many(count int) {
	w.t.Helper()
	for i := range count {
		id, first := fmt.Sprintf("vm-%02d", i), 1000+10*i
		w.qemu(first)
		w.bundle(taskDir, "default", id, w.shim(), recorded(first+1, first, "qemu"))
	}
}

// qemu makes the processes of a shim with QEMU: its VMM's is the next number.
func (w world) qemu(shim int) {
	w.t.Helper()
	w.process(shim, 1, "containerd-shim", 10, 6000, 16000, 0, shim+1, shim+2, shim+4, shim+5)
	w.process(shim+1, shim, "qemu-system-x86", 200, 99000, 39000, 232000)
	w.process(shim+2, shim, "virtiofsd", 1, 340, 3600, 0, shim+3)
	w.process(shim+3, shim+2, "virtiofsd", 30, 1000, 3700, 50000)
	w.process(shim+4, shim, "msb-placeholder", 5, 800, 1700, 0)
	// A spare that it has made.
	w.process(shim+5, shim, "containerd-shim", 5, 800, 1700, 0, shim+6)
	w.process(shim+6, shim+5, "qemu-system-x86", 5, 800, 1700, 500000)
}
