package task_test

import (
	"context"
	"os"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/msb-runtime/containerd-shim-msb/shim/task"
	"github.com/msb-runtime/containerd-shim-msb/test/fake"
	"github.com/msb-runtime/containerd-shim-msb/test/rig"
)

// What only the guest can do it is asked for.
func TestAsk(t *testing.T) {
	c := open(t)
	c.Run("c", "sleep")
	_, err := c.Tasks.ResizePty(c.ctx, &taskapi.ResizePtyRequest{ID: "c", Width: 80, Height: 25})
	c.must(err)
	if resized := fake.Requests[*taskapi.ResizePtyRequest](c.Agent()); len(resized) != 1 || resized[0].Width != 80 || resized[0].Height != 25 {
		t.Errorf("%v", resized)
	}
	_, err = c.Tasks.CloseIO(c.ctx, &taskapi.CloseIORequest{ID: "c", Stdin: true})
	c.must(err)
	if closed := fake.Requests[*taskapi.CloseIORequest](c.Agent()); len(closed) != 1 || !closed[0].Stdin {
		t.Errorf("%v", closed)
	}
	c.Agent().On("ResizePty", fake.Fail(errdefs.ErrFailedPrecondition))
	if _, err := c.Tasks.ResizePty(c.ctx, &taskapi.ResizePtyRequest{ID: "c"}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("ResizePty that the guest refuses: %v", err)
	}
	for _, call := range []string{"Pause", "Resume"} {
		c.Agent().On(call, fake.Fail(errdefs.ErrFailedPrecondition))
	}
	if _, err := c.Tasks.Pause(c.ctx, &taskapi.PauseRequest{ID: "c"}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Pause that the guest refuses: %v", err)
	}
	if _, err := c.Tasks.Resume(c.ctx, &taskapi.ResumeRequest{ID: "c"}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Resume that the guest refuses: %v", err)
	}
	c.expectTopics("create start")
}

func resources(t testing.TB, memory int64) *anypb.Any {
	t.Helper()
	value, err := typeurl.MarshalAnyToProto(&specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &memory}})
	if err != nil {
		t.Fatal(err)
	}
	return value
}

// Limits change within the VM's size.
func TestUpdate(t *testing.T) {
	c := open(t)
	c.Run("c", "sleep")
	update := func(resources *anypb.Any) error {
		_, err := c.Tasks.Update(c.ctx, &taskapi.UpdateTaskRequest{ID: "c", Resources: resources})
		return err
	}
	c.must(update(resources(t, 16<<20)))
	if updates := fake.Requests[*taskapi.UpdateTaskRequest](c.Agent()); len(updates) != 1 {
		t.Errorf("%v", updates)
	}
	if err := update(resources(t, 1<<50)); !errdefs.IsInvalidArgument(err) && !errdefs.IsFailedPrecondition(err) && !errdefs.IsResourceExhausted(err) {
		t.Errorf("more than the VM has: %v", err)
	}
	if err := update(&anypb.Any{TypeUrl: "nonsense", Value: []byte("x")}); err == nil {
		t.Error("nonsense was taken for limits")
	}
	if updates := fake.Requests[*taskapi.UpdateTaskRequest](c.Agent()); len(updates) != 1 {
		t.Errorf("what was refused went to the guest: %v", updates)
	}
}

// A container's metrics are the guest's. Those of a pod are what its VM has of the host:
// here it has no control group.
func TestStats(t *testing.T) {
	c := open(t)
	c.pod()
	c.joinPod("c", "sleep")
	if _, err := c.Tasks.Stats(c.ctx, &taskapi.StatsRequest{ID: "p"}); !errdefs.IsNotFound(err) {
		t.Errorf("Stats of the pod: %v", err)
	}
	if calls := c.Agent().Calls("Stats"); len(calls) != 0 {
		t.Error("the guest was asked for what the pod uses")
	}
	response, err := c.Tasks.Stats(c.ctx, &taskapi.StatsRequest{ID: "c"})
	if err != nil || response.Stats.GetTypeUrl() != "io.containerd.cgroups.v2.Metrics" {
		t.Errorf("Stats = %v, %v", response, err)
	}
}

// Connect answers for what is there and what is not.
func TestConnect(t *testing.T) {
	c := open(t)
	c.Run("c", "sleep")
	for id, pid := range map[string]uint32{"c": uint32(c.Placeholders()[0].Pid()), "other": 0} {
		response, err := c.Tasks.Connect(c.ctx, &taskapi.ConnectRequest{ID: id})
		if err != nil || response.ShimPid != uint32(os.Getpid()) || response.TaskPid != pid {
			t.Errorf("Connect to %s = %v, %v", id, response, err)
		}
	}
}

func (c client) shutdown(id string) {
	c.T.Helper()
	_, err := c.Tasks.Shutdown(c.ctx, &taskapi.ShutdownRequest{ID: id})
	c.must(err)
}

// isUp fails if the shim ends; it is for bubbles.
func (c client) isUp(wait time.Duration) {
	c.T.Helper()
	time.Sleep(wait)
	select {
	case <-c.Down:
		c.T.Error("the shim has ended")
	default:
	}
}

// Shutdown ends a shim without containers, and no other.
func TestShutdown(t *testing.T) {
	bubble(t, func(c client) {
		c.pod()
		c.joinPod("c", "sleep")
		for _, id := range []string{"p", "c", "other"} {
			c.shutdown(id)
		}
		c.isUp(task.IdleGrace)
		c.remove("c")
		c.shutdown("c")
		c.isUp(task.IdleGrace)
		c.remove("p")
		began := time.Now()
		c.shutdown("p")
		c.isDown()
		if waited := time.Since(began); waited != 0 {
			t.Errorf("it took %v", waited)
		}
	})
}

// Shutdown during a deletion ends the shim after it.
func TestShutdownDuringDelete(t *testing.T) {
	bubble(t, func(c client) {
		c.Run("c", "exit", "0")
		c.expectExit("c", "", 0)
		gate := c.Agent().Gate("Task.Delete")
		deleted := make(chan error, 1)
		go func() { _, err := c.delete("c", ""); deleted <- err }()
		_, err := gate.Wait(c.ctx)
		c.must(err)
		c.shutdown("c")
		c.isUp(time.Second)
		gate.Open()
		c.must(<-deleted)
		began := time.Now()
		c.isDown()
		if waited := time.Since(began); waited != 0 {
			t.Errorf("it took %v", waited)
		}
	})
}

// Shutdown gives up a creation, wherever it is: in a boot that never ends, or in the guest.
func TestShutdownDuringCreate(t *testing.T) {
	for name, change := range map[string]func(client){
		"boot":      func(c client) { c.Driver.Boot = fake.NeverBoots },
		"bundle":    func(c client) { c.Driver.Prepare = func(m *fake.Machine) { m.Agent.On("CreateBundle", fake.Hang) } },
		"container": func(c client) { c.Driver.Prepare = func(m *fake.Machine) { m.Agent.On("Create", fake.Hang) } },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(c client) {
				change(c)
				created := make(chan error, 1)
				request := c.Request("c", rig.Spec("sleep"))
				began := time.Now()
				go func() { _, err := c.Tasks.Create(context.Background(), request); created <- err }()
				time.Sleep(time.Second)
				c.shutdown("c")
				if err := <-created; err == nil {
					t.Error("it was created")
				}
				c.isDown()
				if took := time.Since(began); took > 5*time.Second {
					t.Errorf("it took %v", took)
				}
				c.ExpectNoMounts()
			})
		})
	}
}
