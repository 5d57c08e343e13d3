package podapi_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	logged "github.com/sirupsen/logrus/hooks/test"
	"golang.org/x/sys/unix"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"

	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/test/fake"
)

// logOf keeps what the shim logs during a test.
func logOf(t *testing.T) *logged.Hook {
	before := log.L.Logger.ReplaceHooks(make(logrus.LevelHooks))
	t.Cleanup(func() { log.L.Logger.ReplaceHooks(before) })
	return logged.NewLocal(log.L.Logger)
}

// A sandbox that is stopped in order is no error, and logged as none: neither as one
// whose placeholder was killed nor as one whose agent is gone. The VM takes its time to end,
// so that what watches these sees their end before its.
func TestStopIsNoError(t *testing.T) {
	bubble(t, func(w *world) {
		hook := logOf(t)
		w.Driver.Undying = true
		w.run()
		w.runContainer("c")
		time.AfterFunc(5*time.Second, func() { w.Machine().Die(nil) })
		if err := w.stop(context.Background()); err != nil {
			t.Error(err)
		}
		synctest.Wait()
		for _, entry := range hook.AllEntries() {
			if entry.Message == "ending the VM" {
				t.Errorf("logged: %s: %v", entry.Message, entry.Data)
			}
		}
	})
}

// Whoever stops it gets its end, at the same time or again.
func TestStopAtTheSameTime(t *testing.T) {
	bubble(t, func(w *world) {
		w.run()
		w.runContainer("c")
		var all sync.WaitGroup
		for range 10 {
			all.Go(func() {
				if err := w.stop(context.Background()); err != nil {
					t.Errorf("StopSandbox = %v", err)
				}
				w.expectEnded(0)
			})
		}
		all.Wait()
		w.expectDeletable("c")
	})
}

// Who stops it may leave; the stop goes on.
func TestStopWhoseClientLeaves(t *testing.T) {
	bubble(t, func(w *world) {
		w.run()
		w.runContainer("c")
		w.Agent().On("Kill", fake.LateAnswer(5*time.Second))
		w.Agent().On("RemoveBundle", fake.Late(5*time.Second))
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		if err := w.stop(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("StopSandbox = %v", err)
		}
		w.expectEnded(0)
		if n := len(w.Agent().Calls("RemoveBundle")); n != 1 {
			t.Errorf("the container let go %d times", n)
		}
	})
}

// A guest that does not do what a stop asks of it costs its time, for all of its
// containers together, and then its VM. What was in it can be deleted at once.
func TestStopOfAGuestThatHangs(t *testing.T) {
	for _, call := range []string{"Kill", "RemoveBundle", "CloseStdio", "Delete"} {
		t.Run(call, func(t *testing.T) {
			bubble(t, func(w *world) {
				w.run()
				for i := range 3 {
					w.runContainer(fmt.Sprint("c", i))
				}
				w.Agent().On(call, fake.Hang)
				began := time.Now()
				if err := w.stop(context.Background()); err != nil {
					t.Errorf("StopSandbox = %v", err)
				}
				w.within(began, 35*time.Second)
				w.expectEnded(0)
				for i := range 3 {
					w.expectDeletable(fmt.Sprint("c", i))
				}
			})
		})
	}
}

// A guest that stops reading, and one that says nothing of the end of its containers.
func TestStopOfAHostileGuest(t *testing.T) {
	for name, turn := range map[string]func(*fake.Agent) error{
		"reads no more": (*fake.Agent).StopReading,
		"does not kill": func(a *fake.Agent) error { a.On("Kill", fake.Pretend); return nil },
		"floods":        (*fake.Agent).Noise,
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(w *world) {
				w.run()
				w.runContainer("c")
				if err := turn(w.Agent()); err != nil {
					t.Fatal(err)
				}
				began := time.Now()
				if err := w.stop(context.Background()); err != nil {
					t.Errorf("StopSandbox = %v", err)
				}
				w.within(began, 35*time.Second)
				if _, err := w.wait(context.Background()); err != nil {
					t.Errorf("WaitSandbox = %v", err)
				}
				w.expectDeletable("c")
			})
		})
	}
}

// Data that cannot be written back is told in the log: the sandbox is stopped.
func TestStopWithoutWriteBack(t *testing.T) {
	bubble(t, func(w *world) {
		w.run()
		w.runContainer("c")
		w.Agent().On("RemoveBundle", fake.Fail(fmt.Errorf("writing back: %w", unix.ENOSPC)))
		hook := logOf(t)
		if err := w.stop(context.Background()); err != nil {
			t.Errorf("StopSandbox = %v", err)
		}
		w.expectEnded(0)
		told := 0
		for _, entry := range hook.AllEntries() {
			if entry.Message == "some of what the container wrote may be lost" && entry.Data["id"] == "c" {
				told++
			}
		}
		if told != 1 {
			t.Errorf("the loss is logged %d times", told)
		}
		w.expectDeletable("c")
	})
}

// So is what cannot be taken away on the host.
func TestStopWithoutCleanup(t *testing.T) {
	bubble(t, func(w *world) {
		w.failCleanup()
		w.run()
		hook := logOf(t)
		if err := w.stop(context.Background()); err != nil {
			t.Errorf("StopSandbox = %v", err)
		}
		w.expectEnded(0)
		synctest.Wait()
		if last := hook.LastEntry(); last == nil || last.Level != logrus.ErrorLevel || last.Data["sandbox"] != podID {
			t.Errorf("logged: %v", last)
		}
	})
}

// A container's deletion that hangs in the guest holds up neither the stop nor itself.
func TestStopDuringDelete(t *testing.T) {
	for _, call := range []string{"Delete", "RemoveBundle"} {
		t.Run(call, func(t *testing.T) {
			bubble(t, func(w *world) {
				w.run()
				w.runContainer("c")
				if err := w.Agent().Exit("c", "", 3); err != nil {
					t.Fatal(err)
				}
				if _, err := w.Tasks.Wait(context.Background(), &taskapi.WaitRequest{ID: "c"}); err != nil {
					t.Fatal(err)
				}
				w.Agent().On(call, fake.Hang)
				began := time.Now()
				deleted := make(chan error)
				go func() {
					response, err := w.Tasks.Delete(context.Background(), &taskapi.DeleteRequest{ID: "c"})
					if err == nil && response.ExitStatus != 3 {
						err = fmt.Errorf("exit status %d", response.ExitStatus)
					}
					deleted <- err
				}()
				synctest.Wait()
				if err := w.stop(context.Background()); err != nil {
					t.Errorf("StopSandbox = %v", err)
				}
				w.within(began, 35*time.Second)
				if err := <-deleted; err != nil {
					t.Errorf("Delete = %v", err)
				}
				w.within(began, 40*time.Second)
				w.expectEnded(0)
				if n := w.published("/tasks/delete"); n != 1 {
					t.Errorf("%d deletions were told", n)
				}
			})
		})
	}
}

// A container that is being created is given up.
func TestStopDuringCreate(t *testing.T) {
	for _, call := range []string{"CreateBundle", "Create"} {
		t.Run(call, func(t *testing.T) {
			bubble(t, func(w *world) {
				w.run()
				w.Agent().On(call, fake.Hang)
				created := make(chan error)
				go func() { created <- w.join("c") }()
				synctest.Wait()
				began := time.Now()
				if err := w.stop(context.Background()); err != nil {
					t.Errorf("StopSandbox = %v", err)
				}
				if err := <-created; err == nil {
					t.Error("the container was created")
				}
				w.within(began, 35*time.Second)
				w.expectEnded(0)
				if _, err := w.Tasks.State(context.Background(), &taskapi.StateRequest{ID: "c"}); !errdefs.IsNotFound(err) {
					t.Errorf("State = %v", err)
				}
			})
		})
	}
}

// A VMM that cannot be killed does not hold up the stop.
func TestStopOfAnUndyingVM(t *testing.T) {
	bubble(t, func(w *world) {
		w.Driver.Undying = true
		w.run()
		w.runContainer("c")
		began := time.Now()
		if err := w.stop(context.Background()); err != nil {
			t.Errorf("StopSandbox = %v", err)
		}
		w.within(began, 35*time.Second)
		if exit, err := w.wait(context.Background()); err != nil || exit.ExitStatus != 0 {
			t.Errorf("WaitSandbox = %v, %v", exit, err)
		}
		w.expectDeletable("c")
		w.Machine().Die(nil)
		<-w.Machine().Done()
	})
}

// The end of a sandbox that nobody asked for: 137, and so are its containers.
func TestEndsByItself(t *testing.T) {
	for name, end := range map[string]func(*world){
		"the VM dies":               func(w *world) { w.Machine().Die(nil) },
		"its placeholder is killed": func(w *world) { w.Placeholders()[0].Kill() },
		"the agent's events end":    func(w *world) { w.Agent().EndEvents(nil) },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(w *world) {
				w.run()
				w.runContainer("c")
				began := time.Now()
				end(w)
				w.expectEnded(sandbox.ExitKilled)
				w.within(began, 2*time.Second)
				if exit, err := w.Tasks.Wait(context.Background(), &taskapi.WaitRequest{ID: "c"}); err != nil || exit.ExitStatus != sandbox.ExitKilled {
					t.Errorf("Wait = %v, %v", exit, err)
				}
				w.expectDeletable("c")
				if err := w.stop(context.Background()); err != nil {
					t.Errorf("StopSandbox = %v", err)
				}
				w.expectEnded(sandbox.ExitKilled)
			})
		})
	}
}
