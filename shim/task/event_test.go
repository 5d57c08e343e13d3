package task_test

import (
	"fmt"
	"testing"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/test/fake"
	"github.com/msb-runtime/containerd-shim-msb/test/rig"
)

// send has the guest tell something.
func (c client) send(events ...any) {
	c.T.Helper()
	for _, event := range events {
		c.must(c.Agent().SendEvent(event))
	}
}

// Events have the host's view: its pids, its bundle, its streams.
func TestEvents(t *testing.T) {
	c := open(t)
	request := c.Request("c", rig.Spec("sleep"))
	path, _ := fifo(t)
	request.Stdout = path
	_, err := c.Tasks.Create(c.ctx, request)
	c.must(err)
	c.must(c.start("c", ""))
	c.run("c", "e", "exit", "2")
	c.expectExit("c", "e", 2)
	c.remove("c")
	c.Flush()
	pid := uint32(c.Placeholders()[0].Pid())
	for i, event := range c.Published.All() {
		wrong := false
		switch e := event.(type) {
		case *eventsapi.TaskCreate:
			wrong = i != 0 || e.ContainerID != "c" || e.Bundle != request.Bundle || e.Pid != pid || e.IO.Stdout != path
		case *eventsapi.TaskStart:
			wrong = i != 1 || e.ContainerID != "c" || e.Pid != pid
		case *eventsapi.TaskExecAdded:
			wrong = i != 2 || e.ContainerID != "c" || e.ExecID != "e"
		case *eventsapi.TaskExecStarted:
			wrong = i != 3 || e.ContainerID != "c" || e.ExecID != "e" || e.Pid != pid
		case *eventsapi.TaskExit:
			id, status := "e", uint32(2)
			if i == 5 {
				id, status = "c", killed
			}
			wrong = i != 4 && i != 5 || e.ContainerID != "c" || e.ID != id || e.Pid != pid || e.ExitStatus != status
		case *eventsapi.TaskDelete:
			wrong = i != 6 || e.ContainerID != "c" || e.Pid != pid || e.ExitStatus != killed
		default:
			wrong = true
		}
		if wrong {
			t.Errorf("event %d: %T %v", i, event, event)
		}
	}
	c.expectTopics("create start exec-added exec-started exit exit delete")
}

// An exit that comes before the answer to the start is told after the start.
func TestExitBeforeStartIsAnswered(t *testing.T) {
	bubble(t, func(c client) {
		c.pod()
		c.Agent().On("Start", fake.LateAnswer(5*time.Second))
		c.joinPod("c", "exit", "3")
		c.must(c.start("c", ""))
		c.expectExit("c", "", 3)
		c.must(c.exec("p", "e", "exit", "4"))
		c.must(c.start("p", "e"))
		c.expectExit("p", "e", 4)
		c.expectTopics("create start create start exit exec-added exec-started exit")
	})
}

// An exit that comes before the answer to the creation is told after the creation.
func TestExitBeforeCreateIsAnswered(t *testing.T) {
	bubble(t, func(c client) {
		c.pod()
		gate := c.Agent().GateAfter("Create")
		created := c.held(gate, c.creation(c.Request("c", member("sleep"))))
		c.send(&eventsapi.TaskExit{ContainerID: "c", ID: "c", ExitStatus: 9})
		time.Sleep(time.Second)
		gate.Open()
		c.must(<-created)
		c.expectExit("c", "", 9)
		if err := c.start("c", ""); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("Start of what has ended: %v", err)
		}
		c.expectTopics("create start create exit")
	})
}

// A start that fails after the guest told of the end: that of init counts, that of an exec
// does not, which was never there.
func TestExitBeforeStartFails(t *testing.T) {
	bubble(t, func(c client) {
		c.must(c.create("c", rig.Spec("sleep")))
		c.must(c.exec("c", "e", "missing"))
		for exec, id := range map[string]string{"": "c", "e": "e"} {
			gate := c.Agent().Gate("Start")
			c.Agent().On("Start", fake.Fail(errdefs.ErrUnknown))
			started := c.held(gate, func() error { return c.start("c", exec) })
			c.send(&eventsapi.TaskExit{ContainerID: "c", ID: id, ExitStatus: 9})
			time.Sleep(time.Second)
			gate.Open()
			if err := <-started; err == nil {
				t.Errorf("%q was started", exec)
			}
		}
		c.expectExit("c", "", 9)
		c.expectState("c", "e", tasktypes.Status_CREATED)
		c.expectTopics("create exec-added exit")
	})
}

// What is not the guest's to tell, or is about nothing, is not told.
func TestEventsOfTheGuest(t *testing.T) {
	bubble(t, func(c client) {
		c.Run("c", "sleep")
		c.must(c.exec("c", "e", "sleep"))
		c.send(
			&eventsapi.TaskCreate{ContainerID: "c"}, &eventsapi.TaskStart{ContainerID: "c"},
			&eventsapi.TaskDelete{ContainerID: "c"}, &eventsapi.TaskExecAdded{ContainerID: "c", ExecID: "x"},
			&eventsapi.TaskExecStarted{ContainerID: "c", ExecID: "e"}, &eventsapi.TaskPaused{ContainerID: "c"},
			&eventsapi.TaskResumed{ContainerID: "c"}, &eventsapi.TaskCheckpointed{ContainerID: "c"},
			&eventsapi.ContainerDelete{ID: "c"}, &eventsapi.NamespaceDelete{Name: "default"},
			&eventsapi.TaskExit{ContainerID: "other", ID: "other"}, &eventsapi.TaskExit{ContainerID: "c", ID: "other"},
			&eventsapi.TaskExit{ContainerID: "c", ID: "e"}, // that was never started
			&eventsapi.TaskOOM{ContainerID: "other"},
			&api.Event{}, &api.Event{Topic: "/tasks/exit", Event: &anypb.Any{TypeUrl: "containerd.events.TaskExit", Value: []byte("\xff")}},
		)
		time.Sleep(time.Second)
		c.expectTopics("create start exec-added")
		c.expectState("c", "", tasktypes.Status_RUNNING)
		c.expectState("c", "e", tasktypes.Status_CREATED)
	})
}

// A process exits once, whatever the guest says, when the host learns of it.
func TestExitOnceAtTheHostsTime(t *testing.T) {
	bubble(t, func(c client) {
		c.Run("c", "sleep")
		time.Sleep(2 * time.Minute)
		now := time.Now()
		c.send(
			&eventsapi.TaskExit{ContainerID: "c", ID: "c", ExitStatus: 1, ExitedAt: timestamppb.New(time.Unix(0, 0))},
			&eventsapi.TaskExit{ContainerID: "c", ID: "c", ExitStatus: 2},
		)
		exit, err := c.wait("c", "")
		if err != nil || exit.ExitStatus != 1 || !exit.ExitedAt.AsTime().Equal(now) {
			t.Errorf("Wait = %v, %v, and it is %v", exit, err, now)
		}
		c.expectTopics("create start exit")
	})
}

// How often a guest may tell that memory ran out is bounded for each container.
func TestOutOfMemoryFlood(t *testing.T) {
	bubble(t, func(c client) {
		c.pod()
		c.joinPod("c", "sleep")
		for range 500 {
			c.Agent().OOM("c")
		}
		c.Agent().OOM("p")
		time.Sleep(time.Millisecond)
		count := func() map[string]int {
			c.Flush()
			told := map[string]int{}
			for _, event := range c.Published.All() {
				if oom, ok := event.(*eventsapi.TaskOOM); ok {
					told[oom.ContainerID]++
				}
			}
			return told
		}
		if told := count(); told["c"] != 10 || told["p"] != 1 {
			t.Errorf("told of 500 and 1: %v", told)
		}
		time.Sleep(5 * time.Second)
		c.Agent().OOM("c")
		time.Sleep(time.Millisecond)
		if told := count(); told["c"] != 11 {
			t.Errorf("after a while: %v", told)
		}
	})
}

// Exits are recorded and waits answered while containerd takes no events.
func TestContainerdTakesNoEvents(t *testing.T) {
	bubble(t, func(c client) {
		release := c.Published.Hold()
		c.Run("c", "exit", "3")
		c.expectExit("c", "", 3)
		c.expectDelete("c", "", 3)
		if got := c.Published.Topics(); got != "" {
			t.Errorf("it took %s", got)
		}
		release()
		c.expectTopics("create start exit delete")
	})
}

// With its VM all that ran has ended, execs before their container.
func TestMachineDies(t *testing.T) {
	bubble(t, func(c client) {
		c.pod()
		c.joinPod("c", "sleep")
		c.must(c.start("c", ""))
		c.run("c", "e", "sleep")
		c.must(c.exec("c", "added", "sleep"))
		c.joinPod("created", "sleep")
		c.Machine().Die(nil)
		for _, process := range [][2]string{{"p", ""}, {"c", ""}, {"c", "e"}, {"created", ""}} {
			c.expectExit(process[0], process[1], killed)
			if err := c.kill(process[0], process[1]); !errdefs.IsNotFound(err) {
				t.Errorf("Kill of %v: %v", process, err)
			}
		}
		c.Flush()
		var exits []string
		for _, event := range c.Published.All() {
			if exit, ok := event.(*eventsapi.TaskExit); ok && exit.ContainerID == "c" {
				exits = append(exits, exit.ID)
			}
		}
		if fmt.Sprint(exits) != "[e c]" {
			t.Errorf("exits of c: %v", exits)
		}
		for _, id := range []string{"c", "created", "p"} {
			c.expectDelete(id, "", killed)
		}
		c.isDown()
		c.ExpectNoMounts()
	})
}

// An agent whose events end is of no use, and loses its VM.
func TestEventsEnd(t *testing.T) {
	for name, err := range map[string]error{"in order": nil, "with an error": errdefs.ErrInternal} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(c client) {
				c.Run("c", "sleep")
				c.Agent().EndEvents(err)
				began := time.Now()
				c.expectExit("c", "", killed)
				if took := time.Since(began); took > 5*time.Second {
					t.Errorf("it took %v", took)
				}
				c.expectDelete("c", "", killed)
			})
		})
	}
}
