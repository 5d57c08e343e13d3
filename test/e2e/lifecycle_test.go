package e2e

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/containerd/cgroups/v3/cgroup2/stats"
	eventsapi "github.com/containerd/containerd/api/events"
	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	taskv2 "github.com/containerd/containerd/api/runtime/task/v2"
	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protojson"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// recorder collects the events of one container.
type recorder struct {
	envelopes <-chan *events.Envelope
	cancel    context.CancelFunc
}

func record(t *testing.T) *recorder {
	ctx, cancel := host.Context()
	t.Cleanup(cancel)
	envelopes, _ := host.Client.Subscribe(ctx, `topic~="/tasks/"`)
	return &recorder{envelopes, cancel}
}

// until returns a container's events up to the first of a topic.
func (r *recorder) until(t *testing.T, id, topic string) (topics []string, all []any) {
	t.Helper()
	for {
		select {
		case envelope := <-r.envelopes:
			event, err := typeurl.UnmarshalAny(envelope.Event)
			if err != nil {
				t.Fatal(err)
			}
			if named, ok := event.(interface{ GetContainerID() string }); !ok || named.GetContainerID() != id {
				continue
			}
			topics, all = append(topics, envelope.Topic), append(all, event)
			if envelope.Topic == topic {
				return topics, all
			}
		case <-time.After(harness.Patience):
			t.Fatalf("no event %s; seen: %v", topic, topics)
		}
	}
}

// As soon as a container is deleted its name and its snapshot are free, whatever its shim still
// does, or if that is killed then: each container finds all that the one before has written.
func TestAgainAtOnce(t *testing.T) {
	nothingLeft(t)
	c := create(t, options{}, "sh", "-c", "echo >>/rounds; exit $(wc -l </rounds)")
	rounds := harness.FewEmulated(3, harness.Many(8, 40)) // with three, one shim is left alone and one killed
	for round := 1; ; round++ {
		if err := c.Start(c.ctx); err != nil {
			t.Fatal(err)
		}
		if code := await(t, c.exit); code != uint32(round) {
			t.Fatalf("container %d finds what %d have written", round, int(code)-1)
		}
		shim, err := os.FindProcess(findShim(c.ID()))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := c.Delete(c.ctx); err != nil {
			t.Fatal(err)
		}
		if round == rounds {
			return
		}
		if round%2 == 0 {
			_ = shim.Kill() // if it is still there
		}
		if c.Task, err = c.container.NewTask(c.ctx, cio.NullIO); err != nil {
			t.Fatal(err)
		}
		if c.exit, err = c.Wait(c.ctx); err != nil {
			t.Fatal(err)
		}
	}
}

// A whole life: every call of the API, the events in their order, and one
// process id for the host all along.
func TestLifecycle(t *testing.T) {
	nothingLeft(t)
	events := record(t)
	// Its control group's parent is new: there nobody has turned a controller on.
	parent := "/" + harness.Namespace + "/new"
	t.Cleanup(func() { harness.RemoveGroup(parent) })
	c := create(t, options{spec: []oci.SpecOpts{withCgroup, oci.WithCgroup(parent + "/group")}}, sleeper...)
	id := c.ID()

	wantStatus(t, c, client.Created)
	if err := c.Start(c.ctx); err != nil {
		t.Fatal(err)
	}
	wantStatus(t, c, client.Running)
	if name := harness.Processes()[int(c.Pid())]; name != "msb-placeholder" {
		t.Errorf("the task's pid %d is %q, not what stands for the container", c.Pid(), name)
	}

	process, exit := c.startExec(cio.NullIO, nil, "sh", "-c", "exit 23")
	if code := await(t, exit); code != 23 {
		t.Errorf("exec's exit code %d", code)
	}
	if process.Pid() != c.Pid() {
		t.Errorf("the exec's pid is %d, the task's %d", process.Pid(), c.Pid())
	}
	if status, err := process.Status(c.ctx); err != nil || status.Status != client.Stopped || status.ExitStatus != 23 {
		t.Errorf("exec's status %+v, %v", status, err)
	}
	if err := process.Kill(c.ctx, unix.SIGTERM); !errdefs.IsNotFound(err) {
		t.Errorf("killing an exec that has ended: %v", err)
	}
	if _, err := process.Delete(c.ctx); err != nil {
		t.Error(err)
	}
	if _, err := process.Delete(c.ctx); !errdefs.IsNotFound(err) {
		t.Errorf("deleting an exec twice: %v", err)
	}

	if err := c.Pause(c.ctx); err != nil {
		t.Error(err)
	}
	wantStatus(t, c, client.Paused)
	if err := c.Resume(c.ctx); err != nil {
		t.Error(err)
	}
	wantStatus(t, c, client.Running)

	t.Run("pids", func(t *testing.T) {
		pids, err := c.Pids(c.ctx)
		if err != nil || !slices.ContainsFunc(pids, func(p client.ProcessInfo) bool { return p.Pid == c.Pid() }) {
			t.Errorf("%v, %v", pids, err)
		}
	})
	t.Run("metrics", func(t *testing.T) { checkMetrics(t, c) })
	t.Run("update", func(t *testing.T) {
		limit := int64(64 << 20)
		if err := c.Update(c.ctx, client.WithResources(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}})); err != nil {
			t.Error(err)
		}
		if got := c.must("cat /sys/fs/cgroup/memory.max"); got != "67108864" {
			t.Errorf("memory.max is %s", got)
		}
	})
	t.Run("an exec that cannot start", func(t *testing.T) {
		spec, _ := c.container.Spec(c.ctx)
		missing := *spec.Process
		missing.Args = []string{"/no/such/program"}
		process, err := c.Exec(c.ctx, "missing", &missing, cio.NewCreator(cio.WithStreams(strings.NewReader(""), io.Discard, io.Discard)))
		if err != nil {
			t.Fatal(err)
		}
		if err := process.Start(c.ctx); err == nil || !strings.Contains(err.Error(), "/no/such/program") {
			t.Errorf("starting: %v", err)
		}
		if _, err := process.Delete(c.ctx); err != nil {
			t.Errorf("deleting: %v", err)
		}
	})
	t.Run("the shim's own API, both versions", func(t *testing.T) { checkShimAPI(t, c) })

	if err := c.Kill(c.ctx, unix.SIGKILL); err != nil {
		t.Error(err)
	}
	if code := await(t, c.exit); code != 137 {
		t.Errorf("exit code %d", code)
	}
	wantStatus(t, c, client.Stopped)
	if err := c.Kill(c.ctx, unix.SIGTERM); !errdefs.IsNotFound(err) {
		t.Errorf("killing a task that has ended: %v", err)
	}
	if status, err := c.Delete(c.ctx); err != nil || status.ExitCode() != 137 {
		t.Errorf("delete: %v, %v", status, err)
	}
	if _, err := c.Delete(c.ctx); !errdefs.IsNotFound(err) {
		t.Errorf("deleting twice: %v", err)
	}

	topics, all := events.until(t, id, "/tasks/delete")
	topics = slices.DeleteFunc(slices.Clone(topics), func(topic string) bool { return strings.HasPrefix(topic, "/tasks/exec") })
	want := []string{"/tasks/create", "/tasks/start", "/tasks/exit", "/tasks/paused", "/tasks/resumed", "/tasks/exit", "/tasks/delete"}
	// Each of the scripts run by checks above is one exec with one exit.
	var kept []string
	for _, topic := range topics {
		if topic == "/tasks/exit" && len(kept) > 0 && kept[len(kept)-1] == topic {
			continue
		}
		kept = append(kept, topic)
	}
	if !slices.Equal(kept, want) {
		t.Errorf("events %v, want %v", kept, want)
	}
	checkEvents(t, c, all)
}

// withCgroup shows the container its control group. containerd's own default has
// that only where the host has cgroup v2.
func withCgroup(_ context.Context, _ oci.Client, _ *containers.Container, spec *oci.Spec) error {
	spec.Mounts = append(spec.Mounts, specs.Mount{Type: "cgroup", Source: "cgroup", Destination: "/sys/fs/cgroup", Options: []string{"ro"}})
	return oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.CgroupNamespace})(nil, nil, nil, spec)
}

func wantStatus(t *testing.T, c *task, want client.ProcessStatus) {
	t.Helper()
	if status, err := c.Status(c.ctx); err != nil || status.Status != want {
		t.Errorf("status %v, %v; want %v", status.Status, err, want)
	}
}

// checkEvents holds each event to the host's view and each exec's to its order.
func checkEvents(t *testing.T, c *task, all []any) {
	t.Helper()
	exec := make(map[string]int) // by exec id: 1 added, 2 started, 3 exited
	for _, event := range all {
		if withPid, ok := event.(interface{ GetPid() uint32 }); ok && withPid.GetPid() != c.Pid() {
			t.Errorf("%T has pid %d, the task %d", event, withPid.GetPid(), c.Pid())
		}
		switch e := event.(type) {
		case *eventsapi.TaskCreate:
			if e.Bundle != host.Bundle(c.ID()) || len(e.Rootfs) == 0 {
				t.Errorf("the create event has bundle %q and rootfs %v", e.Bundle, e.Rootfs)
			}
		case *eventsapi.TaskExecAdded:
			exec[e.ExecID]++
		case *eventsapi.TaskExecStarted:
			if exec[e.ExecID]++; exec[e.ExecID] != 2 {
				t.Errorf("exec %s started out of order", e.ExecID)
			}
		case *eventsapi.TaskExit:
			if e.ID == c.ID() {
				continue
			}
			if exec[e.ID]++; exec[e.ID] != 3 {
				t.Errorf("exec %s exited out of order", e.ID)
			}
		}
	}
}

// metricsOf are a task's metrics. Of a guest that has none in time containerd's client says that none
// were received. It says so after other errors, too, and containerd logs those.
func metricsOf(c *task) *types.Metric {
	c.t.Helper()
	metric, err := harness.AskAgain(c.t.Logf, "metrics of "+c.ID(), func() (*types.Metric, bool, error) {
		metric, err := c.Metrics(c.ctx)
		late := err != nil && err.Error() == "no metrics received" && !strings.Contains(host.Log(), "collecting metrics for "+c.ID())
		return metric, late, err
	})
	if err != nil {
		c.t.Fatal(err)
	}
	return metric
}

func checkMetrics(t *testing.T, c *task) {
	var metrics stats.Metrics
	if err := typeurl.UnmarshalTo(metricsOf(c).Data, &metrics); err != nil {
		t.Fatal(err)
	}
	if metrics.Memory.GetUsage() == 0 || metrics.CPU.GetUsageUsec() == 0 || metrics.Pids.GetCurrent() == 0 {
		t.Errorf("empty metrics: %v", &metrics)
	}
}

// checkShimAPI calls the shim as containerd does, without containerd between.
func checkShimAPI(t *testing.T, c *task) {
	data, err := os.ReadFile(filepath.Join(host.Bundle(c.ID()), "bootstrap.json"))
	if err != nil {
		t.Fatal(err)
	}
	var bootstrap bootapi.BootstrapResult
	if err := (protojson.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(data, &bootstrap); err != nil {
		t.Fatalf("%v: %s", err, data)
	}
	conn, err := net.Dial("unix", strings.TrimPrefix(bootstrap.Address, "unix://"))
	if err != nil {
		t.Fatal(err)
	}
	rpc := ttrpc.NewClient(conn)
	defer rpc.Close()
	v2, v3 := taskv2.NewTTRPCTaskClient(rpc), taskv3.NewTTRPCTaskClient(rpc)
	ctx := namespaces.WithNamespace(c.ctx, harness.Namespace)

	state2, err2 := v2.State(ctx, &taskv2.StateRequest{ID: c.ID()})
	state3, err3 := v3.State(ctx, &taskv3.StateRequest{ID: c.ID()})
	if err := errors.Join(err2, err3); err != nil {
		t.Fatal(err)
	}
	if state2.Pid != c.Pid() || state3.Pid != c.Pid() || state3.Bundle != host.Bundle(c.ID()) {
		t.Errorf("v2 %v, v3 %v", state2, state3)
	}
	connected, err := v3.Connect(ctx, &taskv3.ConnectRequest{ID: c.ID()})
	if err != nil || connected.TaskPid != c.Pid() || !strings.HasPrefix(harness.Processes()[int(connected.ShimPid)], "containerd-shim") {
		t.Errorf("connect: %v, %v", connected, err)
	}

	const other = "no-such-task"
	for name, call := range map[string]func() error{
		"State":     func() error { _, err := v3.State(ctx, &taskv3.StateRequest{ID: other}); return err },
		"Start":     func() error { _, err := v3.Start(ctx, &taskv3.StartRequest{ID: other}); return err },
		"Delete":    func() error { _, err := v3.Delete(ctx, &taskv3.DeleteRequest{ID: other}); return err },
		"Pids":      func() error { _, err := v3.Pids(ctx, &taskv3.PidsRequest{ID: other}); return err },
		"Pause":     func() error { _, err := v3.Pause(ctx, &taskv3.PauseRequest{ID: other}); return err },
		"Resume":    func() error { _, err := v3.Resume(ctx, &taskv3.ResumeRequest{ID: other}); return err },
		"Kill":      func() error { _, err := v3.Kill(ctx, &taskv3.KillRequest{ID: other}); return err },
		"Exec":      func() error { _, err := v3.Exec(ctx, &taskv3.ExecProcessRequest{ID: other, ExecID: "x"}); return err },
		"ResizePty": func() error { _, err := v3.ResizePty(ctx, &taskv3.ResizePtyRequest{ID: other}); return err },
		"CloseIO":   func() error { _, err := v3.CloseIO(ctx, &taskv3.CloseIORequest{ID: other}); return err },
		"Update":    func() error { _, err := v3.Update(ctx, &taskv3.UpdateTaskRequest{ID: other}); return err },
		"Wait":      func() error { _, err := v3.Wait(ctx, &taskv3.WaitRequest{ID: other}); return err },
		"Stats":     func() error { _, err := v3.Stats(ctx, &taskv3.StatsRequest{ID: other}); return err },
		"Checkpoint": func() error {
			_, err := v3.Checkpoint(ctx, &taskv3.CheckpointTaskRequest{ID: other})
			return err
		},
		"Start of an exec": func() error {
			_, err := v3.Start(ctx, &taskv3.StartRequest{ID: c.ID(), ExecID: other})
			return err
		},
	} {
		if err := errgrpc.ToNative(call()); !errdefs.IsNotFound(err) {
			t.Errorf("%s of a task that is not there: %v", name, err)
		}
	}
	if _, err := v3.Create(ctx, &taskv3.CreateTaskRequest{ID: c.ID(), Bundle: host.Bundle(c.ID())}); !errdefs.IsAlreadyExists(errgrpc.ToNative(err)) {
		t.Errorf("a second Create: %v", err)
	}
	if _, err := v3.Checkpoint(ctx, &taskv3.CheckpointTaskRequest{ID: c.ID()}); !errdefs.IsNotImplemented(errgrpc.ToNative(err)) {
		t.Errorf("Checkpoint: %v", err)
	}
	if _, err := v3.Create(ctx, &taskv3.CreateTaskRequest{ID: "restored", Checkpoint: "/x"}); !errdefs.IsNotImplemented(errgrpc.ToNative(err)) {
		t.Errorf("Create from a checkpoint: %v", err)
	}
	if _, err := v3.Exec(ctx, &taskv3.ExecProcessRequest{ID: c.ID(), ExecID: "bad"}); !errdefs.IsInvalidArgument(errgrpc.ToNative(err)) {
		t.Errorf("Exec without a process: %v", err)
	}
	if _, err := v3.Shutdown(ctx, &taskv3.ShutdownRequest{ID: c.ID()}); err != nil {
		t.Errorf("Shutdown of a busy shim: %v", err)
	}
	wantStatus(t, c, client.Running)
}

// An OOM kill in the container is reported and ends only the container.
func TestOOM(t *testing.T) {
	nothingLeft(t)
	events := record(t)
	c := start(t, options{spec: []oci.SpecOpts{oci.WithMemoryLimit(32 << 20)}},
		"sh", "-c", "dd if=/dev/zero of=/dev/null bs=100M count=1")
	if code := await(t, c.exit); code != 137 {
		t.Errorf("exit code %d", code)
	}
	events.until(t, c.ID(), "/tasks/oom")
}

// The VM is as big as the container's limits ask, and the container can use all
// of its own.
func TestSize(t *testing.T) {
	nothingLeft(t)
	c := start(t, options{spec: []oci.SpecOpts{
		withCgroup, oci.WithMemoryLimit(300 << 20), oci.WithCPUCFS(150_000, 100_000), oci.WithCPUs("0"),
	}}, sleeper...)
	if want := strconv.Itoa(min(2, runtime.NumCPU())); c.must("nproc") != want {
		t.Errorf("not %s CPUs for a quota of 1.5", want)
	}
	if got := c.must("cat /sys/fs/cgroup/memory.max"); got != "314572800" {
		t.Errorf("memory.max is %s", got)
	}
	// 280 MiB in one process: the limit less what the shell takes.
	c.must("dd if=/dev/zero of=/dev/null bs=280M count=1 2>/dev/null")
	// x86-64-v2, which images of today are built for.
	for _, flag := range []string{"cx16", "lahf_lm", "popcnt", "sse4_1", "sse4_2", "ssse3"} {
		c.must("grep -qw " + flag + " /proc/cpuinfo")
	}
	// The guest's clock is the host's.
	before := time.Now()
	shown := parseTime(t, c.must("date +%s"))
	if after := time.Now(); shown.Before(before.Add(-time.Minute)) || shown.After(after.Add(time.Minute)) {
		t.Errorf("the guest's clock shows %v between %v and %v", shown, before, after)
	}
}

func parseTime(t *testing.T, seconds string) time.Time {
	t.Helper()
	parsed, err := time.ParseDuration(seconds + "s")
	if err != nil {
		t.Fatal(err)
	}
	return time.Unix(0, 0).Add(parsed)
}

// A container in a user namespace, as ctr makes it. Its runtime has no options: with those
// of another than runc, containerd starts no such container. To a server of the host it is
// who its root is mapped to.
func TestUserNamespace(t *testing.T) {
	nothingLeft(t)
	sockets := t.TempDir()
	for name, mode := range map[string]os.FileMode{"all": 0o666, "roots": 0o600} {
		path := filepath.Join(sockets, name)
		greet(t, path, name)
		if err := os.Chmod(path, mode); err != nil {
			t.Fatal(err)
		}
	}
	stdout, stderr, code := host.Ctr("run", "--rm", "--runtime", harness.Runtime, "--uidmap", "0:100000:65536", "--gidmap", "0:100000:65536",
		harness.Bind(sockets, "/sockets", "rbind:rw"), harness.Bind(filepath.Join(host.Output, "tools"), "/tools", "rbind:ro"),
		harness.Image, "users", "sh", "-c", "echo $(cat /proc/self/uid_map) $(id -u); touch /x && stat -c %u:%g /x /bin;"+
			"for s in all roots; do echo $(/tools/probe connect /sockets/$s x); done; mount -t virtiofs msbpool /mnt 2>&1")
	if want := "0 100000 65536 0\n0:0\n0:0\nall 100000:100000 <nil>\nEACCES\nmount: permission denied"; code == 0 || !strings.HasPrefix(stdout, want) {
		t.Errorf("exit code %d: %s%s", code, stdout, stderr)
	}
}
