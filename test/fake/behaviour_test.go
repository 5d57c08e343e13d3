package fake

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/protobuf/proto"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/vm"
)

// Every call of both services is served, and can be bent.
func TestEveryCall(t *testing.T) {
	m := newMachine(vm.Config{}, 0, false)
	defer m.end()
	a := m.Agent
	tasks, guest := a.taskService(), a.guestService()
	served := []string{"Stream.Control", "Stream.Stdio", "Stream.Port", "Stream.Shell", "Stream.Transfer", "Stream.Clock"}
	for name := range tasks.Methods {
		served = append(served, "Task."+name)
	}
	for name := range guest.Methods {
		served = append(served, "Guest."+name)
	}
	for name := range guest.Streams {
		served = append(served, "Guest."+name)
	}
	slices.Sort(served)
	if !slices.Equal(served, Names()) {
		t.Errorf("served are %q, there are %q", served, Names())
	}
	for name, want := range map[string]string{
		"Start": "Task.Start", "Guest.Start": "Guest.Start", "CreateBundle": "Guest.CreateBundle", "Stdio": "Stream.Stdio",
	} {
		if got := resolve(name); got != want {
			t.Errorf("%s is %s", name, got)
		}
	}
	defer func() {
		if text, _ := recover().(string); !strings.Contains(text, "Kil") {
			t.Errorf("a wrong name: %q", text)
		}
	}()
	a.On("Kil", Hang)
}

func (h *host) state(ctx context.Context) (*taskapi.StateResponse, error) {
	response, err := h.tasks.State(ctx, &taskapi.StateRequest{ID: "c"})
	return response, errgrpc.ToNative(err)
}

// A call that hangs gets no answer, whatever the host does with its deadline, and holds
// up no other.
func TestHang(t *testing.T) {
	driver := &Driver{Prepare: func(m *Machine) { m.Agent.On("Guest.Start", Hang) }}
	h := boot(t, driver)
	bounded, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := h.guest.Start(bounded, &api.StartRequest{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Start = %v", err)
	}
	h.agent.On("Guest.Start", nil)
	if _, err := h.guest.Start(t.Context(), &api.StartRequest{}); err != nil {
		t.Error(err)
	}
}

// What is done without an answer is done.
func TestMute(t *testing.T) {
	h := boot(t, &Driver{})
	if err := h.create(&taskapi.CreateTaskRequest{ID: "c"}, "sleep"); err != nil {
		t.Fatal(err)
	}
	h.agent.On("Delete", Times(1, Mute))
	bounded, cancel := context.WithCancel(t.Context())
	gone := make(chan error, 1)
	go func() {
		_, err := h.tasks.Delete(bounded, &taskapi.DeleteRequest{ID: "c"})
		gone <- err
	}()
	h.expectEvents("TaskCreate", "TaskExit", "TaskDelete")
	cancel()
	if err := within(t, func() error { return <-gone }); err == nil {
		t.Error("a mute agent has answered")
	}
	if _, err := h.delete("c", ""); !errdefs.IsNotFound(err) {
		t.Errorf("Delete = %v", err)
	}
}

// Late is late with all of it, LateAnswer with the answer.
func TestLate(t *testing.T) {
	h := boot(t, &Driver{})
	h.run("c", "sleep")
	h.agent.On("Kill", Late(time.Millisecond))
	h.agent.On("State", LateAnswer(time.Millisecond))
	began := time.Now()
	if _, err := h.state(t.Context()); err != nil {
		t.Error(err)
	}
	if err := h.kill("c", "", 15); err != nil {
		t.Error(err)
	}
	if h.wait("c", "") != 143 || time.Since(began) < 2*time.Millisecond {
		t.Error("too early")
	}
}

// Errors keep their class, whatever their size.
func TestFail(t *testing.T) {
	h := boot(t, &Driver{})
	h.agent.On("State", Fail(errdefs.ErrResourceExhausted))
	if _, err := h.state(t.Context()); !errdefs.IsResourceExhausted(err) {
		t.Errorf("State = %v", err)
	}
	h.agent.On("State", HugeError(1<<20))
	if _, err := h.state(t.Context()); !errdefs.IsInternal(err) || len(err.Error()) < 1<<20 {
		t.Errorf("an error of %d bytes", len(err.Error()))
	}
}

// Answers may be huge, of another type, no message, or a lie.
func TestAnswers(t *testing.T) {
	const size = 1 << 20
	h := boot(t, &Driver{})
	h.run("c", "sleep")
	ctx := t.Context()
	stats := func() (*taskapi.StatsResponse, error) {
		return h.tasks.Stats(ctx, &taskapi.StatsRequest{ID: "c"})
	}
	update := func() (proto.Message, error) { return h.tasks.Update(ctx, &taskapi.UpdateTaskRequest{ID: "c"}) }

	h.agent.On("State", Huge(size))
	h.agent.On("Stats", Huge(size))
	h.agent.On("Update", Huge(size))
	if r, err := h.state(ctx); err != nil || proto.Size(r) < size*9/10 || len(r.Bundle) != len(r.ID) {
		t.Errorf("State: %v", err)
	}
	if r, err := stats(); err != nil || len(r.Stats.TypeUrl) != size {
		t.Errorf("Stats: %v", err)
	}
	if r, err := update(); err != nil || proto.Size(r) < size {
		t.Errorf("Update: %v", err)
	}
	for _, name := range []string{"State", "Stats", "Update"} {
		h.agent.On(name, WrongType)
	}
	if r, err := h.state(ctx); err != nil || r.ID != "" || r.Pid != 0 {
		t.Errorf("State = %v, %v", r, err)
	}
	if r, err := stats(); err != nil || strings.Contains(r.Stats.TypeUrl, "Metrics") {
		t.Errorf("Stats = %v, %v", r, err)
	}
	h.agent.On("State", Garbage)
	if r, err := h.state(ctx); err == nil {
		t.Errorf("State = %v", r)
	}
	h.agent.On("State", Answer(&taskapi.StateResponse{Pid: 1}))
	if r, err := h.state(ctx); err != nil || r.Pid != 1 {
		t.Errorf("State = %v, %v", r, err)
	}
	h.agent.On("Kill", Pretend)
	if err := h.kill("c", "", 9); err != nil {
		t.Error(err)
	}
	h.agent.On("State", nil)
	if r, err := h.state(ctx); err != nil || r.Status.String() != "RUNNING" {
		t.Errorf("State = %v, %v", r, err)
	}
}

// The machine can die of a call, before or after it is done.
func TestDieOfACall(t *testing.T) {
	for name, die := range map[string]Behaviour{"before": Die, "after": DieDone} {
		t.Run(name, func(t *testing.T) {
			h := boot(t, &Driver{})
			h.run("c", "sleep")
			h.agent.On("Kill", die)
			if err := within(t, func() error { return h.kill("c", "", 9) }); err == nil {
				t.Error("a dead machine has answered")
			}
			<-h.machine.Done()
			if h.machine.Err() == nil {
				t.Error("it did not crash")
			}
		})
	}
}

// The header of a stream is a call too.
func TestStreamHeaders(t *testing.T) {
	h := boot(t, &Driver{})
	open := func(id string) error {
		_, err := h.tryDial(&api.StreamHeader{Purpose: &api.StreamHeader_Stdio{Stdio: &api.StdioStream{Id: id}}})
		return err
	}
	h.agent.On("Stdio", Fail(errors.New("no room")))
	if err := open("a"); err == nil || !strings.Contains(err.Error(), "no room") {
		t.Errorf("the reply is %v", err)
	}
	h.agent.On("Stdio", Huge(1<<20))
	if err := open("b"); err == nil || len(err.Error()) > 8<<10 {
		t.Error("the reply was taken")
	}
	h.agent.On("Stdio", Pretend)
	if err := open("c"); err != nil {
		t.Error(err)
	}
	if left := h.agent.Left(); len(left) != 1 {
		t.Errorf("open are %q", left)
	}
	if _, err := h.tryDial(&api.StreamHeader{}); err == nil {
		t.Error("a stream for nothing")
	}
	h.agent.On("Control", Hang)
	bounded, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	conn, err := h.machine.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	context.AfterFunc(bounded, func() { conn.SetDeadline(time.Unix(1, 0)) })
	if err := api.OpenStream(conn, &api.StreamHeader{Purpose: &api.StreamHeader_Control{}}); err == nil {
		t.Error("a reply that hangs has come")
	}
}

// A gate holds calls until the test lets them go, one or all.
func TestGate(t *testing.T) {
	h := boot(t, &Driver{})
	h.run("c", "sleep")
	gate := h.agent.Gate("Kill")
	killed := make(chan error, 2)
	for range 2 {
		go func() { killed <- h.kill("c", "", 0) }()
	}
	for range 2 {
		call, err := gate.Wait(t.Context())
		if err != nil || call.Request.(*taskapi.KillRequest).ID != "c" {
			t.Fatalf("%v, %v", call, err)
		}
	}
	select {
	case err := <-killed:
		t.Errorf("a call passed a closed gate: %v", err)
	case <-gate.Arrived():
		t.Error("a third call")
	case <-time.After(time.Millisecond):
	}
	gate.Pass()
	if err := within(t, func() error { return <-killed }); err != nil {
		t.Error(err)
	}
	gate.Open()
	if err := within(t, func() error { return <-killed }); err != nil {
		t.Error(err)
	}
	if err := h.kill("c", "", 0); err != nil {
		t.Error(err)
	}

	after := h.agent.GateAfter("Delete")
	if err := errors.Join(h.kill("c", "", 9)); err != nil {
		t.Error(err)
	}
	h.wait("c", "")
	deleted := make(chan error, 1)
	go func() {
		_, err := h.delete("c", "")
		deleted <- err
	}()
	if _, err := after.Wait(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := h.state(t.Context()); !errdefs.IsNotFound(err) {
		t.Errorf("a gate behind the deletion holds up the deletion: %v", err)
	}
	h.machine.Die(nil)
	if err := within(t, func() error { return <-deleted }); err == nil {
		t.Error("an answer of a dead machine")
	}
	if _, err := gate.Wait(t.Context()); !errdefs.IsUnavailable(err) {
		t.Errorf("Wait = %v", err)
	}
}
