package task_test

import (
	"testing"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/task"
	"github.com/msb-runtime/containerd-shim-msb/test/counted"
	"github.com/msb-runtime/containerd-shim-msb/test/rig"
)

// A container goes through all of its states.
func TestStates(t *testing.T) {
	c, counts := open(t), counted.Begin(t)
	c.must(c.create("c", rig.Spec("sleep")))
	c.expectState("c", "", tasktypes.Status_CREATED)
	if _, err := c.Tasks.Pause(c.ctx, &taskapi.PauseRequest{ID: "c"}); err == nil {
		t.Error("a container that was not started was paused")
	}
	c.must(c.start("c", ""))
	c.expectState("c", "", tasktypes.Status_RUNNING)
	_, err := c.Tasks.Pause(c.ctx, &taskapi.PauseRequest{ID: "c"})
	c.must(err)
	c.expectState("c", "", tasktypes.Status_PAUSED)
	_, err = c.Tasks.Resume(c.ctx, &taskapi.ResumeRequest{ID: "c"})
	c.must(err)
	c.expectState("c", "", tasktypes.Status_RUNNING)
	c.must(c.kill("c", ""))
	c.expectExit("c", "", killed)
	c.expectState("c", "", tasktypes.Status_STOPPED)
	c.expectDelete("c", "", killed)
	c.expectTopics("create start paused resumed exit delete")
	c.expectNothing()
	if got := counts(); got != "exits container failure 1, starts none cold success 1" {
		t.Errorf("counted: %s", got)
	}
}

// What State answers is the host's.
func TestStateAnswer(t *testing.T) {
	c := open(t)
	c.Run("c", "exit", "4")
	c.expectExit("c", "", 4)
	state, err := c.state("c", "")
	c.must(err)
	pid := uint32(c.Placeholders()[0].Pid())
	if state.ID != "c" || state.Bundle == "" || state.Pid != pid || state.ExitStatus != 4 || state.ExitedAt.AsTime().IsZero() {
		t.Errorf("%v", state)
	}
	for _, exec := range []string{"", "nobody"} {
		id := map[string]string{"": "other", "nobody": "c"}[exec]
		if _, err := c.state(id, exec); !errdefs.IsNotFound(err) {
			t.Errorf("State of nothing: %v", err)
		}
		if _, err := c.wait(id, exec); !errdefs.IsNotFound(err) {
			t.Errorf("Wait for nothing: %v", err)
		}
	}
}

// A container that was never started is deleted at once, and has been killed.
func TestDeleteCreated(t *testing.T) {
	c := open(t)
	c.must(c.create("c", rig.Spec("sleep")))
	c.expectDelete("c", "", killed)
	c.expectTopics("create exit delete")
	c.expectNothing()
}

// What runs is not deleted.
func TestDeleteRunning(t *testing.T) {
	c := open(t)
	c.Run("c", "sleep")
	c.run("c", "e", "sleep")
	for _, exec := range []string{"e", ""} {
		if _, err := c.delete("c", exec); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("Delete of the running %q = %v", exec, err)
		}
	}
	if deletes := c.Agent().Calls("Task.Delete"); len(deletes) != 0 {
		t.Error("the guest was asked to")
	}
	c.expectState("c", "", tasktypes.Status_RUNNING)
	c.expectState("c", "e", tasktypes.Status_RUNNING)
}

// A process can be started once.
func TestStartTwice(t *testing.T) {
	c := open(t)
	c.Run("c", "sleep")
	c.run("c", "e", "exit", "0")
	c.expectExit("c", "e", 0)
	for _, exec := range []string{"", "e"} {
		if err := c.start("c", exec); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("a second start of %q: %v", exec, err)
		}
	}
	if starts := c.Agent().Calls("Start"); len(starts) != 2 {
		t.Errorf("the guest was asked %d times", len(starts))
	}
}

// A signal goes to the process that it is for, and not to one that has ended.
func TestKill(t *testing.T) {
	c := open(t)
	c.Run("c", "ignores-term")
	c.run("c", "e", "sleep")
	c.must(c.signal("c", "e", unix.SIGTERM))
	c.expectExit("c", "e", 128+15)
	c.must(c.signal("c", "", unix.SIGTERM))
	c.expectState("c", "", tasktypes.Status_RUNNING)
	c.must(c.kill("c", ""))
	c.expectExit("c", "", killed)
	for _, exec := range []string{"", "e"} {
		if err := c.kill("c", exec); !errdefs.IsNotFound(err) {
			t.Errorf("Kill of the ended %q: %v", exec, err)
		}
	}
	if err := c.kill("c", "nobody"); !errdefs.IsNotFound(err) {
		t.Errorf("Kill of nobody: %v", err)
	}
	if err := c.kill("other", ""); !errdefs.IsNotFound(err) {
		t.Errorf("Kill of no task: %v", err)
	}
}

// What ends a container that waits for its start does so whatever its program makes of signals: it
// does not run yet.
func TestKillBeforeStart(t *testing.T) {
	c := open(t)
	c.pod()
	for _, signal := range []unix.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGABRT, unix.SIGTERM} {
		c.joinPod("c", "ignores-term")
		c.must(c.signal("c", "", unix.SIGUSR1))
		c.expectState("c", "", tasktypes.Status_CREATED)
		c.must(c.signal("c", "", signal))
		c.expectExit("c", "", killed)
		c.expectDelete("c", "", killed)
	}
}

// A deletion whose answer nobody got is answered again, and a task that is gone is one
// that has stopped.
func TestTombstone(t *testing.T) {
	c := open(t)
	c.Run("c", "exit", "5")
	c.expectExit("c", "", 5)
	first, err := c.delete("c", "")
	c.must(err)
	again, err := c.delete("c", "")
	c.must(err)
	if first.String() != again.String() {
		t.Errorf("Delete = %v, and then %v", first, again)
	}
	if _, err := c.delete("c", "e"); !errdefs.IsNotFound(err) {
		t.Errorf("Delete of an exec of it: %v", err)
	}
	state, err := c.state("c", "")
	if err != nil || state.Status != tasktypes.Status_STOPPED || state.ExitStatus != 5 || state.Pid != first.Pid || state.Bundle == "" {
		t.Errorf("State = %v, %v", state, err)
	}
	if _, err := c.state("c", "e"); !errdefs.IsNotFound(err) {
		t.Errorf("State of an exec of it: %v", err)
	}
	if err := c.kill("c", ""); !errdefs.IsNotFound(err) {
		t.Errorf("Kill: %v", err)
	}
	c.expectTopics("create start exit delete")
}

// A new container of an id has nothing of the one before.
func TestTombstoneOfReusedID(t *testing.T) {
	c := open(t)
	c.pod()
	c.joinPod("c", "sleep")
	c.expectDelete("c", "", killed)
	gate, done := c.creating("c")
	if state, err := c.state("c", ""); !errdefs.IsNotFound(err) {
		t.Errorf("State while it is created anew: %v, %v", state, err)
	}
	gate.Open()
	c.must(<-done)
	c.must(c.start("c", ""))
	c.expectExit("c", "", 1)
	c.expectDelete("c", "", 1)
	c.expectDelete("c", "", 1)
}

// What the guest tells late of a container's end is not about the next one by its id, whether
// it comes while that is created or when it is there.
func TestExitOfPredecessor(t *testing.T) {
	bubble(t, func(c client) {
		c.pod()
		late := &eventsapi.TaskExit{ContainerID: "c", ID: "c", Pid: 99999, ExitStatus: 9}
		gate, done := c.creating("c")
		c.send(late)
		time.Sleep(time.Second)
		gate.Open()
		c.must(<-done)
		c.expectState("c", "", tasktypes.Status_CREATED)
		c.send(late)
		time.Sleep(time.Second)
		c.must(c.start("c", ""))
		c.expectExit("c", "", 1)
		c.expectDelete("c", "", 1)
	})
}

// What is kept of deleted containers is bounded.
func TestTombstonesAreBounded(t *testing.T) {
	c := open(t)
	c.pod()
	const containers, kept = 70, 64
	ids := make([]string, containers)
	for i := range ids {
		ids[i] = "c" + string(rune('0'+i/10)) + string(rune('0'+i%10))
		c.joinPod(ids[i], "sleep")
		c.expectDelete(ids[i], "", killed)
	}
	found := 0
	for _, id := range ids {
		if _, err := c.delete(id, ""); err == nil {
			found++
		}
	}
	if found != kept {
		t.Errorf("%d of %d deletions are answered again, want %d", found, containers, kept)
	}
	if _, err := c.delete(ids[containers-1], ""); err != nil {
		t.Errorf("that of the last is not: %v", err)
	}
}

// A shim that nobody needs ends by itself, after a while.
func TestIdle(t *testing.T) {
	bubble(t, func(c client) {
		c.Run("c", "exit", "0")
		c.expectExit("c", "", 0)
		time.Sleep(10 * task.IdleGrace)
		select {
		case <-c.Down:
			t.Error("it ended with a container in it")
		default:
		}
		began := time.Now()
		c.expectDelete("c", "", 0)
		c.isDown()
		if waited := time.Since(began); waited != task.IdleGrace {
			t.Errorf("it ended after %v", waited)
		}
	})
}

// A shim whose only creation failed ends, too.
func TestIdleAfterFailedCreate(t *testing.T) {
	bubble(t, func(c client) {
		if err := c.create("c", rig.Spec("missing")); err == nil {
			t.Error("a program that is not there was created")
		}
		c.isDown()
		c.expectNothing()
		c.expectTopics("")
	})
}

// Each process that a client has started has an entry, with the task's pid.
func TestPids(t *testing.T) {
	c := open(t)
	c.Run("c", "sleep")
	c.run("c", "runs", "sleep")
	c.run("c", "ended", "exit", "0")
	c.expectExit("c", "ended", 0)
	c.must(c.exec("c", "added", "sleep"))
	response, err := c.Tasks.Pids(c.ctx, &taskapi.PidsRequest{ID: "c"})
	c.must(err)
	execs := map[string]int{}
	for _, process := range response.Processes {
		if process.Pid != uint32(c.Placeholders()[0].Pid()) {
			t.Errorf("pid %d", process.Pid)
		}
		var details options.ProcessDetails
		if process.Info != nil {
			c.must(typeurl.UnmarshalTo(process.Info, &details))
		}
		execs[details.ExecID]++
	}
	if len(execs) != 2 || execs[""] != 1 || execs["runs"] != 1 {
		t.Errorf("processes: %v", execs)
	}
	if _, err := c.Tasks.Pids(c.ctx, &taskapi.PidsRequest{ID: "other"}); !errdefs.IsNotFound(err) {
		t.Errorf("Pids of no task: %v", err)
	}
}
