package guest_test

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/guest"
	"github.com/msb-runtime/containerd-shim-msb/test/counted"
	"github.com/msb-runtime/containerd-shim-msb/test/fake"
)

// calls are all that have a budget which ends the VM.
var calls = []struct {
	name   string // the agent's; behind its dot is what errors call it
	budget time.Duration
	make   func(context.Context, *guest.Client) error
}{
	{"Guest.CreateBundle", budgets.Lengthy, func(ctx context.Context, c *guest.Client) error {
		return second(c.CreateBundle(ctx, &api.CreateBundleRequest{Container: "c"}))
	}},
	{"Guest.RemoveBundle", budgets.Prompt, func(ctx context.Context, c *guest.Client) error {
		return second(c.RemoveBundle(ctx, &api.RemoveBundleRequest{Container: "c"}))
	}},
	{"Guest.CloseStdio", budgets.Prompt, func(ctx context.Context, c *guest.Client) error { return c.CloseStdio(ctx, []string{"s"}) }},
	{"Guest.SetNetwork", budgets.Lengthy, func(ctx context.Context, c *guest.Client) error {
		return second(c.SetNetwork(ctx, &api.SetNetworkRequest{Host: true}))
	}},
	{"Guest.CreatePod", budgets.Lengthy, func(ctx context.Context, c *guest.Client) error {
		return second(c.CreatePod(ctx, &api.CreatePodRequest{}))
	}},
	{"Task.Create", budgets.Lengthy, func(ctx context.Context, c *guest.Client) error {
		return second(c.Create(ctx, &taskapi.CreateTaskRequest{ID: "c"}))
	}},
	{"Task.Start", budgets.Lengthy, func(ctx context.Context, c *guest.Client) error {
		return c.StartProcess(ctx, &taskapi.StartRequest{ID: "c"})
	}},
	{"Task.Exec", budgets.Lengthy, func(ctx context.Context, c *guest.Client) error {
		return c.Exec(ctx, &taskapi.ExecProcessRequest{ID: "c"})
	}},
	{"Task.Delete", budgets.Prompt, func(ctx context.Context, c *guest.Client) error {
		return second(c.Delete(ctx, &taskapi.DeleteRequest{ID: "c"}))
	}},
	{"Task.Kill", budgets.Prompt, func(ctx context.Context, c *guest.Client) error { return c.Kill(ctx, &taskapi.KillRequest{ID: "c"}) }},
	{"Task.Pause", budgets.Prompt, func(ctx context.Context, c *guest.Client) error { return c.Pause(ctx, &taskapi.PauseRequest{ID: "c"}) }},
	{"Task.Resume", budgets.Prompt, func(ctx context.Context, c *guest.Client) error {
		return c.Resume(ctx, &taskapi.ResumeRequest{ID: "c"})
	}},
	{"Task.ResizePty", budgets.Prompt, func(ctx context.Context, c *guest.Client) error {
		return c.ResizePty(ctx, &taskapi.ResizePtyRequest{ID: "c"})
	}},
	{"Task.CloseIO", budgets.Prompt, func(ctx context.Context, c *guest.Client) error {
		return c.CloseIO(ctx, &taskapi.CloseIORequest{ID: "c"})
	}},
	{"Task.Update", budgets.Prompt, func(ctx context.Context, c *guest.Client) error {
		return c.Update(ctx, &taskapi.UpdateTaskRequest{ID: "c"})
	}},
}

func second[T any](_ T, err error) error { return err }

// An honest guest's answers come through, all of a container's life.
func TestHonest(t *testing.T) {
	h := boot(t)
	ctx, c := t.Context(), h.client
	config, err := json.Marshal(&specs.Spec{Process: &specs.Process{Args: []string{"sleep"}}})
	if err != nil {
		t.Fatal(err)
	}
	path, err := c.CreateBundle(ctx, &api.CreateBundleRequest{Container: "c", Spec: config})
	if err != nil || path != api.BundlePath("c") {
		t.Fatalf("CreateBundle = %q, %v", path, err)
	}
	process := &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: []byte(`{"args":["sleep"]}`)}
	pid, err := c.Create(ctx, &taskapi.CreateTaskRequest{ID: "c", Bundle: path})
	if err != nil || pid == 0 {
		t.Fatalf("Create = %d, %v", pid, err)
	}
	pod, err := c.CreatePod(ctx, &api.CreatePodRequest{Namespaces: &api.PodNamespaces{}})
	if err != nil || pod == 0 || pod == pid {
		t.Errorf("CreatePod = %d, %v", pod, err)
	}
	_, err = c.SetNetwork(ctx, &api.SetNetworkRequest{Host: true})
	err = errors.Join(
		err,
		c.StartProcess(ctx, &taskapi.StartRequest{ID: "c"}),
		c.Exec(ctx, &taskapi.ExecProcessRequest{ID: "c", ExecID: "e", Spec: process}),
		c.StartProcess(ctx, &taskapi.StartRequest{ID: "c", ExecID: "e"}),
		c.ResizePty(ctx, &taskapi.ResizePtyRequest{ID: "c", Width: 80, Height: 25}),
		c.CloseIO(ctx, &taskapi.CloseIORequest{ID: "c", Stdin: true}),
		c.Update(ctx, &taskapi.UpdateTaskRequest{ID: "c"}),
		c.Pause(ctx, &taskapi.PauseRequest{ID: "c"}),
		c.Resume(ctx, &taskapi.ResumeRequest{ID: "c"}),
		c.CloseStdio(ctx, []string{"s"}),
	)
	if err != nil {
		t.Error(err)
	}
	if metrics, err := c.Stats(ctx, "c"); err != nil || metrics.TypeUrl != "io.containerd.cgroups.v2.Metrics" {
		t.Errorf("Stats = %v, %v", metrics, err)
	}
	wantEnd(t, h)
	if size := fake.Requests[*taskapi.ResizePtyRequest](h.agent); len(size) != 1 || size[0].Width != 80 {
		t.Errorf("ResizePty arrived as %v", size)
	}
	if left := h.agent.Left(); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
}

// wantEnd kills the container and takes it away.
func wantEnd(t *testing.T, h *host) {
	t.Helper()
	events, err := h.client.Events(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if err := h.client.Kill(t.Context(), &taskapi.KillRequest{ID: "c", Signal: 9}); err != nil {
		t.Error(err)
	}
	for exits := 0; exits < 2; {
		event, err := events.Recv()
		if err != nil {
			t.Fatal(err)
		}
		if event.Topic == "/tasks/exit" {
			exits++
		}
	}
	for _, exec := range []string{"e", ""} {
		if status, err := h.client.Delete(t.Context(), &taskapi.DeleteRequest{ID: "c", ExecID: exec}); err != nil || status != 137 {
			t.Errorf("Delete = %d, %v", status, err)
		}
	}
	removed, err := h.client.RemoveBundle(t.Context(), &api.RemoveBundleRequest{Container: "c"})
	if err != nil || removed.AgentResident == 0 {
		t.Errorf("RemoveBundle = %v, %v", removed, err)
	}
}

// The budgets are those of docs/security.md: the tests take them as they are.
func TestDefaultBudgets(t *testing.T) {
	if want := (guest.Budgets{Prompt: 25 * time.Second, Lengthy: 2 * time.Minute, Stats: time.Second}); guest.DefaultBudgets != want {
		t.Errorf("%+v, want %+v", guest.DefaultBudgets, want)
	}
}

// A guest that does not answer loses its VM when the call's budget is used up, and the
// reason says which call and how long.
func TestBudgets(t *testing.T) {
	for _, call := range calls {
		t.Run(call.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := boot(t)
				h.agent.On(call.name, fake.Hang)
				wantOverrun(t, h, call.name, call.budget, func() error { return call.make(t.Context(), h.client) })
			})
		})
	}
}

// It makes no difference that the request cannot even be written.
func TestBudgetsWithoutReader(t *testing.T) {
	for _, call := range calls {
		t.Run(call.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := connect(t)
				wantOverrun(t, p, call.name, call.budget, func() error { return call.make(t.Context(), p.client) })
			})
		})
	}
}

func wantOverrun(t *testing.T, machine guest.Machine, name string, budget time.Duration, call func() error) {
	t.Helper()
	began, counts := time.Now(), counted.Begin(t)
	err := call()
	if took := time.Since(began); took != budget {
		t.Errorf("it took %v, and its budget is %v", took, budget)
	}
	<-machine.Done()
	_, name, _ = strings.Cut(name, ".")
	want := fmt.Sprintf("the guest did not answer %s within %v", name, budget)
	if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "the VM is gone: "+want) {
		t.Errorf("the call: %v", err)
	}
	if why := machine.Err(); why == nil || !strings.Contains(why.Error(), want) {
		t.Errorf("the VM: %v", why)
	}
	synctest.Wait()
	if got := counts(); got != "overruns 1" {
		t.Errorf("counted: %s", got)
	}
}

var errLeft = errors.New("containerd has lost interest")

// leave is a context that ends after d, with errLeft.
func leave(t *testing.T, d time.Duration) context.Context {
	ctx, cancel := context.WithTimeoutCause(t.Context(), d, errLeft)
	t.Cleanup(cancel)
	return ctx
}

// A caller may leave before. The budget runs on, and ends the VM unless the guest answers.
func TestLeave(t *testing.T) {
	const soon = 5 * time.Second
	for _, call := range calls {
		for answer, behaviour := range map[string]fake.Behaviour{"none": fake.Hang, "late": fake.LateAnswer(2 * soon)} {
			t.Run(call.name+" "+answer, func(t *testing.T) {
				synctest.Test(t, func(t *testing.T) {
					h := boot(t)
					h.agent.On(call.name, behaviour)
					began := time.Now()
					err := call.make(leave(t, soon), h.client)
					if took := time.Since(began); took != soon || !errors.Is(err, errLeft) {
						t.Errorf("after %v: %v", took, err)
					}
					h.wantAlive()
					if answer == "late" {
						time.Sleep(2 * call.budget)
						h.wantAlive()
						return
					}
					<-h.Done()
					if took := time.Since(began); took != call.budget {
						t.Errorf("the VM was ended after %v, and the budget is %v", took, call.budget)
					}
				})
			})
		}
	}
}

// The first call has no budget but its caller's.
func TestStart(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := boot(t)
		if err := h.client.Start(t.Context(), &api.StartRequest{}); err != nil {
			t.Error(err)
		}
		h.agent.On("Guest.Start", fake.Hang)
		if err := h.client.Start(leave(t, time.Hour), &api.StartRequest{}); !errors.Is(err, errLeft) {
			t.Errorf("Start = %v", err)
		}
		h.wantAlive()
	})
}
