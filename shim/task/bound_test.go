package task_test

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"google.golang.org/protobuf/proto"

	"github.com/msb-runtime/containerd-shim-msb/test/fake"
	"github.com/msb-runtime/containerd-shim-msb/test/rig"
)

// lateAnswers are those of a guest that does all it should, and answers each call in the last
// second that it has for that.
func (c client) lateAnswers(calls ...string) {
	for _, call := range calls {
		c.Agent().On(call, fake.LateAnswer(c.Platform.Budgets.Prompt-time.Second))
	}
}

// execWithOutput adds an exec that has standard streams, and starts it.
func (c client) execWithOutput(id, exec string, args ...string) {
	c.T.Helper()
	request := c.execRequest(id, exec, args...)
	request.Stdout = "file://" + filepath.Join(c.T.TempDir(), "stdout")
	_, err := c.Tasks.Exec(c.ctx, request)
	c.must(err)
	c.must(c.start(id, exec))
}

// deleteAtOnce deletes execs "0", "1" and so on, so many, at the same time.
func (c client) deleteAtOnce(id string, execs int) {
	c.T.Helper()
	var deleted []<-chan error
	for i := range execs {
		deleted = append(deleted, beside(func() error { _, err := c.delete(id, fmt.Sprint(i)); return err }))
	}
	for _, one := range deleted {
		c.must(<-one)
	}
}

// Nothing on the host waits for the guest's end of streams: not the deletion of a container
// with its VM, nor that of one in a pod or of an exec. In a pod a guest that does not answer
// loses its VM, as with any call; for an exec there is no call.
func TestDeleteWithoutTheEndOfStreams(t *testing.T) {
	for _, way := range []string{"with its VM", "in a pod", "an exec"} {
		t.Run(way, func(t *testing.T) {
			bubble(t, func(c client) {
				exec := ""
				if way == "in a pod" {
					c.pod()
					request := c.Request("c", rig.InPod(rig.Spec("exit", "3"), "p", false))
					request.Stdout = "file://" + filepath.Join(c.T.TempDir(), "stdout")
					_, err := c.Tasks.Create(c.ctx, request)
					c.must(err)
				} else {
					c.createWithOutput("c", "sleep")
				}
				c.must(c.start("c", ""))
				switch way {
				case "with its VM":
					c.must(c.kill("c", ""))
				case "an exec":
					exec = "e"
					c.execWithOutput("c", exec, "exit", "3")
				}
				exit, err := c.wait("c", exec)
				c.must(err)
				c.Agent().On("CloseStdio", fake.Hang)
				began := time.Now()
				c.expectDelete("c", exec, exit.ExitStatus)
				if took := time.Since(began); took > 2*time.Second {
					t.Errorf("it took %v", took)
				}
				switch way {
				case "with its VM":
					c.ended()
					c.isDown()
					return
				case "an exec":
					synctest.Wait()
					left := slices.DeleteFunc(c.Agent().Left(), func(what string) bool { return !strings.Contains(what, "stream") })
					if calls := c.Agent().Calls("CloseStdio"); len(left) != 2 || len(calls) != 0 { // init's stdout and stderr
						t.Errorf("%d calls to end streams; the guest has %v left", len(calls), left)
					}
					return
				}
				c.ended()
				if took := time.Since(began); took < c.Platform.Budgets.Prompt {
					t.Errorf("the VM ended after %v", took)
				}
			})
		})
	}
}

// What a client waits for is the end of a container: a guest that answers each call of it just
// in time has one bound for all of them.
func TestLateAnswersDoNotAddUp(t *testing.T) {
	bubble(t, func(c client) {
		c.createWithOutput("c", "sleep")
		c.must(c.start("c", ""))
		c.execWithOutput("c", "e", "sleep")
		c.lateAnswers("Kill", "Delete", "RemoveBundle", "CloseStdio")
		c.expectEnd("each answer comes late")
	})
}

// What else is in a container whose init has exited is killed, too.
func TestLateKillOfWhatIsLeft(t *testing.T) {
	bubble(t, func(c client) {
		c.createWithOutput("c", "exit", "3")
		c.must(c.start("c", ""))
		c.expectExit("c", "", 3)
		c.lateAnswers("Kill", "Delete", "RemoveBundle", "CloseStdio")
		began := time.Now()
		_, _ = c.Tasks.Kill(c.ctx, &taskapi.KillRequest{ID: "c", Signal: 9, All: true}) // the guest may make an error of it
		c.expectDelete("c", "", 3)
		if took := time.Since(began); took > endWithin {
			t.Errorf("it took %v", took)
		}
		c.ended()
		c.isDown()
	})
}

// Deletions of execs that wait for each other have one bound, too.
func TestLateDeletionsOfExecs(t *testing.T) {
	bubble(t, func(c client) {
		c.Run("c", "sleep")
		const execs = 10
		for i := range execs {
			c.run("c", fmt.Sprint(i), "exit", "3")
			c.expectExit("c", fmt.Sprint(i), 3)
		}
		c.lateAnswers("Delete")
		began := time.Now()
		c.deleteAtOnce("c", execs)
		if took := time.Since(began); took > endWithin {
			t.Errorf("they took %v", took)
		}
		c.expectExit("c", "", killed)
		c.expectDelete("c", "", killed)
	})
}

// Output that a child keeps open, or nobody reads, holds up the deletion of its exec for a moment:
// that is not the guest's doing, however many are deleted at the same time.
func TestDeletionsOfExecsWithKeptOutput(t *testing.T) {
	bubble(t, func(c client) {
		c.Run("c", "sleep")
		const execs = 10
		for i := range execs {
			c.execWithOutput("c", fmt.Sprint(i), "daemon")
			c.expectExit("c", fmt.Sprint(i), 0)
		}
		c.deleteAtOnce("c", execs)
		c.expectState("c", "", tasktypes.Status_RUNNING)
		c.remove("c")
	})
}

// A creation that fails is undone within one bound: in a pod, where nothing else ends its VM.
func TestLateUndoOfACreation(t *testing.T) {
	bubble(t, func(c client) {
		c.pod()
		c.lateAnswers("Delete", "RemoveBundle", "CloseStdio")
		request := c.Request("c", rig.InPod(rig.Spec("sleep"), "p", false))
		request.Stdin = filepath.Join(c.T.TempDir(), "stdin") // which is not there when the guest has the container
		request.Stdout = "file://" + filepath.Join(c.T.TempDir(), "stdout")
		began := time.Now()
		if _, err := c.Tasks.Create(c.ctx, request); err == nil {
			t.Error("it was created")
		}
		if took := time.Since(began); took > endWithin {
			t.Errorf("it took %v", took)
		}
		c.expectExit("p", "", killed)
		c.expectDelete("p", "", killed)
	})
}

// A guest that does not take the end of streams holds up the end of a container for a moment,
// and not for one for each process that was in it.
func TestManyStreamsOfADeafGuest(t *testing.T) {
	bubble(t, func(c client) {
		c.createWithOutput("c", "sleep")
		c.must(c.start("c", ""))
		for i := range 20 {
			c.execWithOutput("c", fmt.Sprint(i), "sleep")
		}
		c.must(c.kill("c", ""))
		c.expectExit("c", "", killed)
		c.Agent().On("RemoveBundle", func(ctx context.Context, call *fake.Call) (proto.Message, error) {
			answer, err := call.Act(ctx)
			return answer, errors.Join(err, call.Agent.StopReading())
		})
		began := time.Now()
		c.expectDelete("c", "", killed)
		if took := time.Since(began); took > 5*time.Second {
			t.Errorf("it took %v", took)
		}
		c.ended()
		c.isDown()
	})
}
