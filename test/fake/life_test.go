package fake

import (
	"fmt"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"golang.org/x/sys/unix"

	eventsapi "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
)

// A container lives its life: everything is answered, told of in order, and gone.
func TestLife(t *testing.T) {
	h := boot(t, &Driver{})
	if _, err := h.guest.Start(t.Context(), &api.StartRequest{}); err != nil {
		t.Fatal(err)
	}
	stdout, path := h.open("out", api.StdioStream_OUTPUT)
	if err := h.create(&taskapi.CreateTaskRequest{ID: "c", Stdout: path}, "echo", "hello", "world"); err != nil {
		t.Fatal(err)
	}
	if err := h.start("c", ""); err != nil {
		t.Fatal(err)
	}
	if text := read(t, stdout); text != "hello world\n" {
		t.Errorf("the output is %q", text)
	}
	stdout.Close()
	if status := h.wait("c", ""); status != 0 {
		t.Errorf("exit status %d", status)
	}
	h.remove("c")
	h.expectEvents("TaskCreate", "TaskStart", "TaskExit", "TaskDelete")
	if left := h.agent.Left(); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
}

// expectEvents takes as many events as there are names and compares them.
func (h *host) expectEvents(names ...string) {
	h.t.Helper()
	var got []string
	for range names {
		got = append(got, strings.TrimPrefix(fmt.Sprintf("%T", h.event()), "*events."))
	}
	if !slices.Equal(got, names) {
		h.t.Errorf("events %q, want %q", got, names)
	}
}

// Signals end what they should, with the status that a shell shows.
func TestKill(t *testing.T) {
	h := boot(t, &Driver{})
	for name, c := range map[string]struct {
		program string
		signals []uint32
		status  uint32
	}{
		"KILL":              {"sleep", []uint32{9}, 137},
		"TERM":              {"pause", []uint32{15}, 143},
		"TERM ignored":      {"ignores-term", []uint32{15, 9}, 137},
		"WINCH, then a HUP": {"sleep", []uint32{uint32(unix.SIGWINCH), 1}, 129},
	} {
		id := strings.ReplaceAll(name, " ", "")
		h.run(id, c.program)
		for _, signal := range c.signals {
			if err := h.kill(id, "", signal); err != nil {
				t.Errorf("%s: %v", name, err)
			}
		}
		if status := h.wait(id, ""); status != c.status {
			t.Errorf("%s: exit status %d", name, status)
		}
		if err := h.kill(id, "", 9); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "process already finished") {
			t.Errorf("%s: killed again: %v", name, err)
		}
		h.remove(id)
		h.expectEvents("TaskCreate", "TaskStart", "TaskExit", "TaskDelete")
	}
}

// What is not possible in a state fails with containerd's text, and the class it has there.
func TestErrors(t *testing.T) {
	h := boot(t, &Driver{})
	ctx := t.Context()
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	check := func(err error, is func(error) bool, text string) {
		t.Helper()
		if err == nil || !is(err) || !strings.Contains(err.Error(), text) {
			t.Errorf("%v, want %q", err, text)
		}
	}
	_, err := h.tasks.State(ctx, &taskapi.StateRequest{ID: "c"})
	check(errgrpc.ToNative(err), errdefs.IsNotFound, "container not created")
	check(h.create(&taskapi.CreateTaskRequest{ID: "c"}, "nosuch"), errdefs.IsUnknown, `exec: "nosuch": executable file not found in $PATH`)
	check(h.create(&taskapi.CreateTaskRequest{ID: "c"}, "sleep"), errdefs.IsAlreadyExists, "has a bundle")
	_, err = h.tasks.Create(ctx, &taskapi.CreateTaskRequest{ID: "d", Bundle: "/nowhere"})
	check(errgrpc.ToNative(err), errdefs.IsUnknown, "no such file")
	_, err = h.guest.RemoveBundle(ctx, &api.RemoveBundleRequest{Container: "c"})
	must(err)
	check(h.create(&taskapi.CreateTaskRequest{ID: "c", Stdout: api.StdioPath("nosuch")}, "sleep"), errdefs.IsUnknown, "no such file")
	_, err = h.guest.RemoveBundle(ctx, &api.RemoveBundleRequest{Container: "c"})
	must(err)
	must(h.create(&taskapi.CreateTaskRequest{ID: "c"}, "sleep"))
	_, err = h.tasks.Create(ctx, &taskapi.CreateTaskRequest{ID: "c", Bundle: api.BundlePath("c")})
	check(errgrpc.ToNative(err), errdefs.IsUnknown, "already exists")
	_, err = h.tasks.Pause(ctx, &taskapi.PauseRequest{ID: "c"})
	check(errgrpc.ToNative(err), errdefs.IsUnknown, "created state")
	must(h.start("c", ""))
	check(h.start("c", ""), errdefs.IsUnknown, "cannot start a running process")
	check(h.kill("c", "e", 9), errdefs.IsNotFound, "process does not exist e")
	_, err = h.delete("c", "")
	check(err, errdefs.IsUnknown, "cannot delete a running process")
	_, err = h.tasks.Resume(ctx, &taskapi.ResumeRequest{ID: "c"})
	check(errgrpc.ToNative(err), errdefs.IsUnknown, "cannot resume a running process")
	must(h.exec(&taskapi.ExecProcessRequest{ID: "c", ExecID: "e"}, "missing"))
	check(h.exec(&taskapi.ExecProcessRequest{ID: "c", ExecID: "e"}, "sleep"), errdefs.IsAlreadyExists, "id e")
	check(h.kill("c", "e", 9), errdefs.IsFailedPrecondition, "process not created")
	check(h.start("c", "e"), errdefs.IsUnknown, "executable file not found")
	if status := h.wait("c", "e"); status != 0 {
		t.Errorf("an exec that did not start has exit status %d", status)
	}
	must(h.exec(&taskapi.ExecProcessRequest{ID: "c", ExecID: "f"}, "sleep"))
	_, err = h.tasks.Pause(ctx, &taskapi.PauseRequest{ID: "c"})
	must(err)
	_, err = h.delete("c", "")
	check(err, errdefs.IsUnknown, "cannot delete a paused process")
	check(h.start("c", "f"), errdefs.IsUnknown, "cannot start a paused process")
	_, err = h.tasks.Checkpoint(ctx, &taskapi.CheckpointTaskRequest{ID: "c"})
	check(errgrpc.ToNative(err), errdefs.IsUnknown, "criu")
	must(h.kill("c", "", 9))
	h.wait("c", "")
	check(h.start("c", "f"), errdefs.IsFailedPrecondition, "init process is not running")
	check(h.exec(&taskapi.ExecProcessRequest{ID: "c", ExecID: "g"}, "sleep"), errdefs.IsUnknown, "stopped")
	_, err = h.tasks.Update(ctx, &taskapi.UpdateTaskRequest{ID: "c"})
	check(errgrpc.ToNative(err), errdefs.IsUnknown, "stopped")
	_, err = h.delete("c", "e")
	must(err)
	h.remove("c")
	_, err = h.delete("c", "")
	check(err, errdefs.IsNotFound, "container not created")
}

// The end of init is that of its execs, and is told last.
func TestExecs(t *testing.T) {
	h := boot(t, &Driver{})
	h.run("c", "sleep")
	for _, id := range []string{"a", "b"} {
		if err := h.exec(&taskapi.ExecProcessRequest{ID: "c", ExecID: id}, "sleep"); err != nil {
			t.Fatal(err)
		}
		if err := h.start("c", id); err != nil {
			t.Fatal(err)
		}
	}
	pids, err := h.tasks.Pids(t.Context(), &taskapi.PidsRequest{ID: "c"})
	if err != nil || len(pids.Processes) != 3 {
		t.Errorf("Pids = %v, %v", pids, err)
	}
	if err := h.agent.Exit("c", "a", 7); err != nil {
		t.Fatal(err)
	}
	if status := h.wait("c", "a"); status != 7 {
		t.Errorf("exit status %d of an exec", status)
	}
	if response, err := h.delete("c", "a"); err != nil || response.ExitStatus != 7 {
		t.Errorf("Delete = %v, %v", response, err)
	}
	if err := h.agent.Exit("c", "", 3); err != nil {
		t.Fatal(err)
	}
	if status := h.wait("c", "b"); status != 137 {
		t.Errorf("exit status %d of an exec whose container ended", status)
	}
	h.wait("c", "")
	response, err := h.delete("c", "")
	if err != nil || response.ExitStatus != 3 || response.Pid != pids.Processes[0].Pid {
		t.Errorf("Delete = %v, %v", response, err)
	}
	h.expectEvents(
		"TaskCreate", "TaskStart", "TaskExecAdded", "TaskExecStarted", "TaskExecAdded", "TaskExecStarted",
		"TaskExit", "TaskExit")
	if last, ok := h.event().(*eventsapi.TaskExit); !ok || last.ID != "c" || last.ExitStatus != 3 {
		t.Errorf("the last exit is %v", last)
	}
	h.expectEvents("TaskDelete")
}

// A created container that nobody starts is killed and deleted all the same.
func TestNeverStarted(t *testing.T) {
	h := boot(t, &Driver{})
	for _, end := range []func(){
		func() {
			if err := h.kill("c", "", 9); err != nil {
				t.Error(err)
			}
			if status := h.wait("c", ""); status != 137 {
				t.Errorf("exit status %d", status)
			}
		},
		func() {},
	} {
		if err := h.create(&taskapi.CreateTaskRequest{ID: "c"}, "sleep"); err != nil {
			t.Fatal(err)
		}
		end()
		h.remove("c")
		h.expectEvents("TaskCreate", "TaskExit", "TaskDelete")
	}
}

// The rest of the calls.
func TestCalls(t *testing.T) {
	h := boot(t, &Driver{})
	ctx := t.Context()
	h.run("c", "sleep")
	state := func() tasktypes.Status {
		response, err := h.tasks.State(ctx, &taskapi.StateRequest{ID: "c"})
		if err != nil || response.ID != "c" || response.Pid != firstPid || response.Bundle != api.BundlePath("c") {
			t.Errorf("State = %v, %v", response, err)
		}
		return response.GetStatus()
	}
	if s := state(); s != tasktypes.Status_RUNNING {
		t.Error(s)
	}
	_, err := h.tasks.Pause(ctx, &taskapi.PauseRequest{ID: "c"})
	if s := state(); s != tasktypes.Status_PAUSED || err != nil {
		t.Error(s, err)
	}
	if _, err := h.tasks.Resume(ctx, &taskapi.ResumeRequest{ID: "c"}); err != nil {
		t.Error(err)
	}
	stats, err := h.tasks.Stats(ctx, &taskapi.StatsRequest{ID: "c"})
	if err != nil || stats.Stats.GetTypeUrl() != "io.containerd.cgroups.v2.Metrics" {
		t.Errorf("Stats = %v, %v", stats, err)
	}
	connect, err := h.tasks.Connect(ctx, &taskapi.ConnectRequest{ID: "c"})
	if err != nil || connect.TaskPid != firstPid {
		t.Errorf("Connect = %v, %v", connect, err)
	}
	_, updateErr := h.tasks.Update(ctx, &taskapi.UpdateTaskRequest{ID: "c"})
	_, resizeErr := h.tasks.ResizePty(ctx, &taskapi.ResizePtyRequest{ID: "c", Width: 80, Height: 25})
	_, shutdownErr := h.tasks.Shutdown(ctx, &taskapi.ShutdownRequest{})
	if updateErr != nil || resizeErr != nil || shutdownErr != nil {
		t.Error(updateErr, resizeErr, shutdownErr)
	}
	h.agent.OOM("c")
	h.expectEvents("TaskCreate", "TaskStart", "TaskPaused", "TaskResumed", "TaskOOM")
}

// What the agent's own service was given can be asked for.
func TestRequests(t *testing.T) {
	h := boot(t, &Driver{})
	ctx := t.Context()
	_, err := h.guest.SetNetwork(ctx, &api.SetNetworkRequest{Host: true})
	if err != nil {
		t.Fatal(err)
	}
	pod, err := h.guest.CreatePod(ctx, &api.CreatePodRequest{Namespaces: &api.PodNamespaces{Hostname: "h"}})
	if err != nil || pod.Pid == 0 {
		t.Errorf("CreatePod = %v, %v", pod, err)
	}
	if r := Requests[*api.SetNetworkRequest](h.agent); len(r) != 1 || !r[0].Host {
		t.Errorf("SetNetwork was called with %v", r)
	}
	if r := Requests[*api.CreatePodRequest](h.agent); len(r) != 1 || r[0].Namespaces.Hostname != "h" {
		t.Errorf("CreatePod was called with %v", r)
	}
	if calls := h.agent.Calls("CreatePod", "SetNetwork"); len(calls) != 2 || calls[1].Name != "Guest.CreatePod" {
		t.Errorf("calls %v", calls)
	}
}
