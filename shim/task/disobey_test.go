package task_test

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/sirupsen/logrus"
	"google.golang.org/protobuf/proto"

	"github.com/msb-runtime/containerd-shim-msb/test/fake"
	"github.com/msb-runtime/containerd-shim-msb/test/rig"
)

// All that the guest does for a deletion has one budget, however it divides it.
func TestSlowDeletion(t *testing.T) {
	bubble(t, func(c client) {
		c.createWithOutput("c", "exit", "3")
		c.must(c.start("c", ""))
		c.expectExit("c", "", 3)
		for _, call := range []string{"Task.Delete", "RemoveBundle", "CloseStdio"} {
			c.Agent().On(call, fake.LateAnswer(c.Platform.Budgets.Prompt-5*time.Second))
		}
		began := time.Now()
		c.expectDelete("c", "", 3)
		if took := time.Since(began); took > endWithin {
			t.Errorf("it took %v", took)
		}
		c.ended()
		c.isDown()
	})
}

// A guest that has not let go of a container's shares when its time is over loses its VM,
// though others are in it: what is on the host is taken away.
func TestSlowDeletionInPod(t *testing.T) {
	bubble(t, func(c client) {
		c.pod()
		c.joinPod("c", "sleep")
		for _, call := range []string{"Task.Delete", "RemoveBundle"} {
			c.Agent().On(call, fake.LateAnswer(c.Platform.Budgets.Prompt-5*time.Second))
		}
		c.expectDelete("c", "", killed)
		c.expectExit("p", "", killed)
		c.expectDelete("p", "", killed)
	})
}

// A guest that says that it has killed a container and does not tell of its end loses its
// VM when the budget is over.
func TestKillWithoutEffect(t *testing.T) {
	bubble(t, func(c client) {
		c.Run("c", "sleep")
		c.Agent().On("Kill", fake.Pretend)
		began := time.Now()
		c.must(c.kill("c", ""))
		c.must(c.kill("c", ""))
		if took := time.Since(began); took > time.Second {
			t.Errorf("Kill took %v", took)
		}
		c.expectExit("c", "", killed)
		if took := time.Since(began); took != c.Platform.Budgets.Prompt {
			t.Errorf("the container ended after %v", took)
		}
		c.expectDelete("c", "", killed)
	})
}

// A guest that refuses to kill a container has no time to think it over.
func TestKillRefused(t *testing.T) {
	bubble(t, func(c client) {
		c.Run("c", "sleep")
		c.Agent().On("Kill", fake.Fail(errors.New("no")))
		began := time.Now()
		_ = c.kill("c", "") // with the VM, or refused because that ends
		c.expectExit("c", "", killed)
		if took := time.Since(began); took >= c.Platform.Budgets.Prompt {
			t.Errorf("the container ended after %v", took)
		}
		c.expectDelete("c", "", killed)
	})
}

// What a signal other than SIGKILL does is the container's business.
func TestSignalWithoutEffect(t *testing.T) {
	bubble(t, func(c client) {
		c.Run("c", "ignores-term")
		c.run("c", "e", "sleep")
		c.Agent().On("Kill", fake.Pretend)
		c.must(c.signal("c", "", 15))
		c.must(c.kill("c", "e"))
		time.Sleep(2 * time.Minute)
		c.expectState("c", "", tasktypes.Status_RUNNING)
		c.expectState("c", "e", tasktypes.Status_RUNNING)
		c.Agent().On("Kill", nil)
		c.remove("c")
	})
}

// A guest that tells of an end and lets the process run does not delete it, and loses its
// VM. The container's exit is the one that was told.
func TestExitToldOfWhatRuns(t *testing.T) {
	for _, exec := range []string{"", "e"} {
		t.Run("exec "+exec, func(t *testing.T) {
			bubble(t, func(c client) {
				c.Run("c", "sleep")
				c.run("c", "e", "sleep")
				id := exec
				if id == "" {
					id = "c"
				}
				c.send(&eventsapi.TaskExit{ContainerID: "c", ID: id, ExitStatus: 4})
				c.expectExit("c", exec, 4)
				c.expectDelete("c", exec, 4)
				c.ended()
				if exec != "" {
					c.expectExit("c", "", killed)
					c.expectDelete("c", "", killed)
				}
				c.isDown()
			})
		})
	}
}

// An exit status is a byte, whatever the guest says.
func TestExitStatusOfNoProgram(t *testing.T) {
	bubble(t, func(c client) {
		c.Run("c", "sleep")
		c.run("c", "e", "sleep")
		c.send(&eventsapi.TaskExit{ContainerID: "c", ID: "e", ExitStatus: 1 << 31})
		c.expectExit("c", "e", 255)
		c.must(c.exec("c", "never", "sleep"))
		c.Agent().On("Delete", fake.Times(1, fake.Answer(&taskapi.DeleteResponse{ExitStatus: 1<<32 - 1})))
		c.expectDelete("c", "never", 255)
		c.send(&eventsapi.TaskExit{ContainerID: "c", ID: "c", ExitStatus: 256})
		c.expectExit("c", "", 255)
		c.expectDelete("c", "", 255)
	})
}

// logged collects what is logged at a level of error or above.
func logged(t *testing.T) (errors func() []string) {
	t.Helper()
	hook := &collector{}
	old := logrus.StandardLogger().ReplaceHooks(logrus.LevelHooks{logrus.ErrorLevel: {hook}})
	t.Cleanup(func() { logrus.StandardLogger().ReplaceHooks(old) })
	return func() []string { return hook.lines }
}

type collector struct{ lines []string }

func (*collector) Levels() []logrus.Level { return []logrus.Level{logrus.ErrorLevel} }

func (c *collector) Fire(entry *logrus.Entry) error {
	c.lines = append(c.lines, fmt.Sprint(entry.Message, " ", entry.Data["error"]))
	return nil
}

// Data that cannot be written back is told in the log, once. The container is deleted.
func TestWriteBackFails(t *testing.T) {
	bubble(t, func(c client) {
		errors := logged(t)
		c.Run("c", "exit", "3")
		c.expectExit("c", "", 3)
		c.Agent().On("RemoveBundle", fake.Fail(fmt.Errorf("the disk is full: %w", errdefs.ErrUnavailable)))
		c.expectDelete("c", "", 3)
		c.ended()
		c.isDown()
		if lines := errors(); len(lines) != 1 || !strings.Contains(lines[0], "the disk is full") {
			t.Errorf("logged: %q", lines)
		}
		c.expectTopics("create start exit delete")
	})
}

// A guest without metrics is not waited for, and keeps its VM.
func TestStatsNeverAnswered(t *testing.T) {
	bubble(t, func(c client) {
		c.Run("c", "sleep")
		c.Agent().On("Stats", fake.Hang)
		began := time.Now()
		if _, err := c.Tasks.Stats(c.ctx, &taskapi.StatsRequest{ID: "c"}); !errdefs.IsNotFound(err) {
			t.Errorf("Stats = %v", err)
		}
		if took := time.Since(began); took > c.Platform.Budgets.Stats+100*time.Millisecond {
			t.Errorf("it took %v", took)
		}
		c.isUp(time.Minute)
		c.expectState("c", "", tasktypes.Status_RUNNING)
	})
}

// A machine that dies at any call leaves nothing, in the shim or on the host.
func TestMachineDiesAnytime(t *testing.T) {
	for _, call := range append([]string{"Task.Start", "Task.Kill", "Task.Delete", "Guest.RemoveBundle"}, creationCalls...) {
		for at, behaviour := range map[string]fake.Behaviour{"before": fake.Die, "after": fake.DieDone} {
			t.Run(call+" "+at, func(t *testing.T) {
				bubble(t, func(c client) {
					c.Driver.Prepare = func(m *fake.Machine) { m.Agent.On(call, behaviour) }
					began := time.Now()
					spec, id := rig.Spec("sleep"), "c"
					if call == "Guest.CreatePod" {
						spec, id = rig.InPod(spec, "p", true), "p"
					}
					if err := c.create(id, spec); err == nil {
						_ = c.start(id, "")
						c.endOf(id)
					}
					if took := time.Since(began); took > 10*time.Second {
						t.Errorf("it took %v", took)
					}
					c.ended()
					c.ExpectNoMounts()
					c.isDown()
				})
			})
		}
	}
}

// A boot that never ends, or ends with the machine, is an error that says so.
func TestBootFails(t *testing.T) {
	for name, boot := range map[string]fake.Boot{"never": fake.NeverBoots, "dies": fake.DiesBooting(nil)} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(c client) {
				c.Driver.Boot = boot
				began := time.Now()
				err := c.create("c", rig.Spec("sleep"))
				if !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "booting the VM") {
					t.Errorf("Create = %v", err)
				}
				if took := time.Since(began); took > c.Platform.BootTimeout+5*time.Second {
					t.Errorf("it took %v", took)
				}
				c.isDown()
			})
		})
	}
}

// The task's pid is the host's, whatever process the guest names.
func TestGuestPid(t *testing.T) {
	bubble(t, func(c client) {
		c.Driver.Prepare = func(m *fake.Machine) {
			m.Agent.On("Create", func(ctx context.Context, call *fake.Call) (proto.Message, error) {
				_, err := call.Act(ctx)
				return &taskapi.CreateTaskResponse{Pid: 4242}, err
			})
		}
		response, err := c.Tasks.Create(c.ctx, c.Request("c", rig.Spec("sleep")))
		c.must(err)
		if response.Pid != uint32(c.Placeholders()[0].Pid()) {
			t.Errorf("the task's pid is %d", response.Pid)
		}
	})
}
