package task_test

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/task"
	"github.com/msb-runtime/containerd-shim-msb/test/fake"
	"github.com/msb-runtime/containerd-shim-msb/test/rig"
	"github.com/msb-runtime/containerd-shim-msb/vm/jail"
)

// beside makes a call of its own goroutine, and returns its error.
func beside(call func() error) <-chan error {
	done := make(chan error, 1)
	go func() { done <- call() }()
	return done
}

// held lets a call begin and returns when it is at a gate.
func (c client) held(gate *fake.Gate, call func() error) <-chan error {
	c.T.Helper()
	done := beside(call)
	if _, err := gate.Wait(c.ctx); err != nil {
		c.T.Fatal(err)
	}
	return done
}

func (c client) deletion(id, exec string) func() error {
	return func() error {
		_, err := c.delete(id, exec)
		return err
	}
}

func (c client) creation(request *taskapi.CreateTaskRequest) func() error {
	return func() error {
		_, err := c.Tasks.Create(c.ctx, request)
		return err
	}
}

// Poststop hooks are the host's: however long they take, the pod of their container is not ended for
// it, neither by what has them run nor by a deletion that waits for that. They are programs, which
// no bubble of synctest waits for: so the guest's time is short here.
func TestLongPoststop(t *testing.T) {
	for name, test := range map[string]struct {
		fails bool // the creation, while it is waited for
		calls int  // deletions
	}{
		"the creation fails":                {true, 0},
		"a creation that fails is given up": {true, 1},
		"it is deleted by two":              {false, 2},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			c := open(t)
			c.Platform.Budgets.Prompt = 15 * time.Second
			c.pod()
			dir := t.TempDir()
			spec := member("sleep")
			spec.Hooks = &specs.Hooks{
				CreateRuntime: []specs.Hook{script(t, dir, "create", "")},
				Poststop:      []specs.Hook{script(t, dir, "stop", "while [ ! -e "+dir+"/go ]; do sleep 0.1; done")},
			}
			var results []<-chan error
			var gate *fake.Gate
			if test.fails {
				gate = c.Agent().GateAfter("CreateBundle")
				c.Agent().On("Create", fake.Fail(errdefs.ErrInternal))
				results = append(results, c.held(gate, c.creation(c.Request("c", spec))))
			} else {
				c.must(c.create("c", spec))
				gate = c.Agent().GateAfter("Delete")
			}
			for range test.calls {
				results = append(results, beside(c.deletion("c", "")))
			}
			time.Sleep(100 * time.Millisecond) // a deletion that comes later does not wait, and finds nothing wrong
			gate.Open()
			ran := filepath.Join(dir, "stop.state")
			const most = 5 * time.Minute
			late := time.Now().Add(most)
			for _, err := os.Stat(ran); err != nil; _, err = os.Stat(ran) {
				if time.Now().After(late) {
					t.Fatal("the poststop hook does not run")
				}
				time.Sleep(10 * time.Millisecond)
			}
			select {
			case <-c.Machine().Done():
				t.Error("the VM has ended")
			case <-time.After(c.Platform.Budgets.Prompt * 3 / 2):
			}
			c.must(os.WriteFile(filepath.Join(dir, "go"), nil, 0o600))
			for _, result := range results {
				select {
				case err := <-result:
					if (err != nil) != test.fails {
						t.Errorf("a call's error: %v", err)
					}
				case <-time.After(most):
					t.Fatal("a call does not end after its hook has")
				}
			}
			c.expectState("p", "", tasktypes.Status_RUNNING)
			c.remove("p")
		})
	}
}

// A deletion gives up the creation that is under way, and finds nothing then.
func TestDeleteDuringCreate(t *testing.T) {
	bubble(t, func(c client) {
		c.Driver.Boot = fake.NeverBoots
		created := beside(c.creation(c.Request("c", rig.Spec("sleep"))))
		time.Sleep(time.Second)
		if _, err := c.delete("c", ""); !errdefs.IsNotFound(err) {
			t.Errorf("Delete = %v", err)
		}
		if err := <-created; err == nil {
			t.Error("it was created")
		}
		c.expectTopics("")
		c.isDown()
	})
}

// In a pod the guest does first what it was asked to do, and then undoes it.
func TestDeleteDuringCreateInPod(t *testing.T) {
	bubble(t, func(c client) {
		c.pod()
		gate := c.Agent().GateAfter("Create")
		created := c.held(gate, c.creation(c.Request("c", member("sleep"))))
		deleted := beside(c.deletion("c", ""))
		ctx, cancel := context.WithTimeout(c.ctx, time.Second)
		defer cancel()
		if _, err := c.with(ctx).delete("c", ""); !errdefs.IsDeadlineExceeded(err) && ctx.Err() == nil {
			t.Errorf("Delete with little time = %v", err)
		}
		gate.Open()
		if err := <-created; err == nil {
			t.Error("it was created")
		}
		if err := <-deleted; !errdefs.IsNotFound(err) {
			t.Errorf("Delete = %v", err)
		}
		c.must(c.create("c", member("sleep"))) // the id is free
		c.expectDelete("c", "", killed)
		c.remove("p")
		c.expectNothing()
	})
}

// Of two deletions one deletes and both are answered the same.
func TestTwoDeletes(t *testing.T) {
	bubble(t, func(c client) {
		c.pod()
		c.joinPod("c", "exit", "3")
		c.must(c.start("c", ""))
		c.expectExit("c", "", 3)
		gate := c.Agent().Gate("Task.Delete")
		first := c.held(gate, c.deletion("c", ""))
		second := beside(c.deletion("c", ""))
		time.Sleep(time.Second)
		gate.Open()
		c.must(<-first)
		c.must(<-second)
		if n := len(c.Agent().Calls("Task.Delete")); n != 1 {
			t.Errorf("the guest was asked %d times", n)
		}
		c.remove("p")
		c.expectTopics("create start create start exit delete exit delete")
	})
}

// Of two deletions of an exec the second finds nothing.
func TestTwoDeletesOfExec(t *testing.T) {
	bubble(t, func(c client) {
		c.Run("c", "sleep")
		c.must(c.exec("c", "e", "sleep"))
		gate := c.Agent().Gate("Task.Delete")
		first := c.held(gate, c.deletion("c", "e"))
		second := beside(c.deletion("c", "e"))
		time.Sleep(time.Second)
		gate.Open()
		c.must(<-first)
		if err := <-second; !errdefs.IsNotFound(err) {
			t.Errorf("the second: %v", err)
		}
		c.remove("c")
	})
}

// A second creation with an id finds it taken, also while the first is under way.
func TestTwoCreates(t *testing.T) {
	bubble(t, func(c client) {
		told := make(chan struct{})
		c.Driver.Boot = fake.BootsWhen(told)
		first := beside(c.creation(c.Request("c", rig.Spec("sleep"))))
		time.Sleep(time.Second)
		if err := c.create("c", rig.Spec("sleep")); !errdefs.IsAlreadyExists(err) {
			t.Errorf("the second: %v", err)
		}
		if _, err := c.state("c", ""); !errdefs.IsNotFound(err) {
			t.Errorf("State of what is being created: %v", err)
		}
		close(told)
		c.must(<-first)
		c.expectState("c", "", tasktypes.Status_CREATED)
	})
}

// An exec is not there before it was added, and never if its container goes meanwhile.
func TestCallsDuringExec(t *testing.T) {
	bubble(t, func(c client) {
		c.pod()
		c.joinPod("c", "sleep")
		gate := c.Agent().GateAfter("Exec")
		request := c.execRequest("c", "e", "sleep")
		added := c.held(gate, func() error { _, err := c.Tasks.Exec(c.ctx, request); return err })
		if err := c.start("c", "e"); !errdefs.IsNotFound(err) {
			t.Errorf("Start = %v", err)
		}
		if _, err := c.delete("c", "e"); !errdefs.IsNotFound(err) {
			t.Errorf("Delete = %v", err)
		}
		if err := c.exec("c", "e", "sleep"); !errdefs.IsAlreadyExists(err) {
			t.Errorf("a second Exec = %v", err)
		}
		c.expectDelete("c", "", killed)
		gate.Open()
		if err := <-added; !errdefs.IsNotFound(err) {
			t.Errorf("Exec = %v", err)
		}
		c.expectTopics("create start create exit delete")
	})
}

// What is being deleted is not started: the guest would refuse to delete what runs, and be
// taken for one that does not obey.
func TestStartDuringDelete(t *testing.T) {
	bubble(t, func(c client) {
		c.pod()
		c.joinPod("c", "sleep")
		c.must(c.exec("p", "e", "sleep"))
		for _, process := range [][2]string{{"c", ""}, {"p", "e"}} {
			gate := c.Agent().Gate("Task.Delete")
			deleted := c.held(gate, c.deletion(process[0], process[1]))
			if err := c.start(process[0], process[1]); !errdefs.IsFailedPrecondition(err) {
				t.Errorf("Start of %v = %v", process, err)
			}
			gate.Open()
			c.must(<-deleted)
		}
		c.expectState("p", "", tasktypes.Status_RUNNING)
		c.remove("p")
	})
}

// slowPlaceholder takes its time to end.
type slowPlaceholder struct {
	sandbox.Process
	takes time.Duration
}

func (p slowPlaceholder) End(grace time.Duration) {
	time.Sleep(p.takes)
	p.Process.End(grace)
}

// slowPlaceholders has the record of an exit take a while.
func (c client) slowPlaceholders(takes time.Duration) {
	start := c.Platform.Placeholder
	c.Platform.Placeholder = func(program jail.Program, root *jail.Root, namespace *os.File) (sandbox.Process, error) {
		process, err := start(program, root, namespace)
		return slowPlaceholder{process, takes}, err
	}
}

// What ended with its VM can be deleted at once, also while that is being told.
func TestDeleteAfterEndOfVM(t *testing.T) {
	bubble(t, func(c client) {
		c.slowPlaceholders(300 * time.Millisecond)
		c.pod()
		c.joinPod("c", "sleep")
		c.must(c.start("c", ""))
		c.Machine().Die(nil)
		c.ended()
		member := beside(c.deletion("c", ""))
		c.must(errors.Join(c.deletion("p", "")(), <-member))
	})
}

// A deletion is told after the exit, also while that is being recorded.
func TestDeleteDuringExit(t *testing.T) {
	bubble(t, func(c client) {
		c.slowPlaceholders(5 * time.Second)
		c.must(c.create("c", rig.Spec("sleep")))
		c.send(&eventsapi.TaskExit{ContainerID: "c", ID: "c", ExitStatus: 9})
		time.Sleep(time.Second)
		c.expectDelete("c", "", 9)
		c.expectTopics("create exit delete")
	})
}

// What is being started is not deleted, and what is being created is not started.
func TestDeleteDuringStart(t *testing.T) {
	bubble(t, func(c client) {
		c.must(c.create("c", rig.Spec("sleep")))
		gate := c.Agent().Gate("Start")
		started := c.held(gate, func() error { return c.start("c", "") })
		if _, err := c.delete("c", ""); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("Delete = %v", err)
		}
		gate.Open()
		c.must(<-started)
		c.remove("c")
	})
}

// A signal during a deletion finds nothing.
func TestKillDuringDelete(t *testing.T) {
	bubble(t, func(c client) {
		c.Run("c", "exit", "0")
		c.expectExit("c", "", 0)
		gate := c.Agent().Gate("RemoveBundle")
		deleted := c.held(gate, c.deletion("c", ""))
		if err := c.kill("c", ""); !errdefs.IsNotFound(err) {
			t.Errorf("Kill = %v", err)
		}
		gate.Open()
		c.must(<-deleted)
	})
}

// leaves makes a call whose client leaves when it is at a gate, and lets it go on then.
func (c client) leaves(gate *fake.Gate, call func(client) error) {
	c.T.Helper()
	ctx, leave := context.WithCancel(c.ctx)
	done := c.held(gate, func() error { return call(c.with(ctx)) })
	leave()
	time.Sleep(time.Second)
	gate.Open()
	if err := <-done; err == nil {
		c.T.Error("a client that left was answered")
	}
	time.Sleep(time.Second)
}

// A call whose client leaves goes to its end all the same.
func TestClientLeaves(t *testing.T) {
	bubble(t, func(c client) {
		c.pod()
		c.joinPod("c", "sleep")
		c.leaves(c.Agent().Gate("Start"), func(c client) error { return c.start("c", "") })
		c.expectState("c", "", tasktypes.Status_RUNNING)
		c.leaves(c.Agent().Gate("Exec"), func(c client) error { return c.exec("c", "e", "sleep") })
		c.expectState("c", "e", tasktypes.Status_CREATED)
		c.leaves(c.Agent().Gate("Pause"), func(c client) error {
			_, err := c.Tasks.Pause(c.ctx, &taskapi.PauseRequest{ID: "c"})
			return err
		})
		c.expectState("c", "", tasktypes.Status_PAUSED)
		c.leaves(c.Agent().Gate("Resume"), func(c client) error {
			_, err := c.Tasks.Resume(c.ctx, &taskapi.ResumeRequest{ID: "c"})
			return err
		})
		c.expectState("c", "", tasktypes.Status_RUNNING)
		c.leaves(c.Agent().Gate("Task.Delete"), func(c client) error {
			_, err := c.delete("c", "e")
			return err
		})
		if _, err := c.state("c", "e"); !errdefs.IsNotFound(err) {
			t.Errorf("State of the exec = %v", err)
		}
		c.leaves(c.Agent().Gate("Kill"), func(c client) error { return c.kill("c", "") })
		c.expectState("c", "", tasktypes.Status_STOPPED)
		c.leaves(c.Agent().Gate("RemoveBundle"), func(c client) error {
			_, err := c.delete("c", "")
			return err
		})
		c.expectDelete("c", "", killed)
		c.leaves(c.Agent().Gate("CreateBundle"), func(c client) error { return c.create("d", member("sleep")) })
		if c.Pod.Member("d") != nil {
			t.Error("what nobody waits for was created")
		}
		c.remove("p")
		c.expectTopics("create start create start exec-added paused resumed exit delete exit delete")
		c.isDown()
		c.expectNothing()
	})
}

// A creation whose client leaves is given up at once with its VM.
func TestCreatorLeaves(t *testing.T) {
	hangs := func(call string) func(*fake.Driver) {
		return func(d *fake.Driver) {
			d.Prepare = func(m *fake.Machine) { m.Agent.On(call, fake.Hang) }
		}
	}
	for name, change := range map[string]func(*fake.Driver){
		"in the boot":         func(d *fake.Driver) { d.Boot = fake.NeverBoots },
		"in the first call":   hangs("Guest.Start"),
		"in CreateBundle":     hangs("CreateBundle"),
		"in Create":           hangs("Create"),
		"with a stream ahead": hangs("Stream.Control"),
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(c client) {
				change(c.Driver)
				ctx, cancel := context.WithTimeout(c.ctx, 5*time.Second)
				defer cancel()
				began := time.Now()
				if err := c.with(ctx).create("c", rig.Spec("sleep")); err == nil {
					t.Error("it was created")
				}
				if took := time.Since(began); took > 10*time.Second {
					t.Errorf("it took %v", took)
				}
				c.isDown()
				c.ExpectNoMounts()
				if waited := time.Since(began); waited > 10*time.Second+task.IdleGrace {
					t.Errorf("the shim ended after %v", waited)
				}
			})
		})
	}
}

// Wait ends with its client.
func TestWaiterLeaves(t *testing.T) {
	bubble(t, func(c client) {
		c.Run("c", "sleep")
		ctx, cancel := context.WithTimeout(c.ctx, time.Second)
		defer cancel()
		if _, err := c.with(ctx).wait("c", ""); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("Wait = %v", err)
		}
	})
}
