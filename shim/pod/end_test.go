package pod_test

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"github.com/msb-runtime/containerd-shim-msb/shim/pod"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/test/fake"
	"github.com/msb-runtime/containerd-shim-msb/test/itself"
	"github.com/msb-runtime/containerd-shim-msb/vm"
)

// With its owner a pod ends, and with nobody else. Who is in it then is ended, and stays a
// member.
func TestOwnerLeaves(t *testing.T) {
	bubble(t, func(w *world) {
		first := w.reach(pod.Running)
		w.add("a")
		b := w.add("b")
		if err := w.pod.Leave(context.Background(), "a"); err != nil {
			t.Error(err)
		}
		w.expect(pod.Running)
		if err := w.pod.Leave(context.Background(), owner); err != nil {
			t.Error(err)
		}
		w.expectGone()
		if first.ended.Load() != 0 || b.ended.Load() != 1 {
			t.Errorf("ended: the owner %d times, the other %d times", first.ended.Load(), b.ended.Load())
		}
		if w.pod.Member("b") == nil || !w.pod.Busy() {
			t.Error("the other is no member any more")
		}
	})
}

// A container of a pod that is held is not its owner, whatever it is called.
func TestHeldPodHasNoOwner(t *testing.T) {
	bubble(t, func(w *world) {
		w.hold()
		w.add(podID)
		w.start()
		if err := w.pod.Leave(context.Background(), podID); err != nil {
			t.Error(err)
		}
		w.expect(pod.Running)
	})
}

// Whoever asks for the end gets it, at the same time or again; members are ended once.
func TestEndAtTheSameTime(t *testing.T) {
	bubble(t, func(w *world) {
		m := w.reach(pod.Running)
		m.ending = func(context.Context) { time.Sleep(time.Second) }
		var all sync.WaitGroup
		for range 20 {
			all.Go(func() {
				if err := w.pod.End(context.Background()); err != nil {
					t.Error(err)
				}
				w.expectGone()
			})
		}
		all.Wait()
		if n := m.ended.Load(); n != 1 {
			t.Errorf("the member was ended %d times", n)
		}
		if err := w.pod.End(context.Background()); err != nil {
			t.Errorf("a later End = %v", err)
		}
	})
}

// Who waits for an end that somebody else has asked for may leave; the end goes on. Also
// that of the one who asked first.
func TestEndWhoseCallersLeave(t *testing.T) {
	bubble(t, func(w *world) {
		m := w.reach(pod.Running)
		m.ending = func(ctx context.Context) {
			time.Sleep(2 * time.Second)
			if ctx.Err() != nil {
				t.Error("the member's time is over with the caller's")
			}
		}
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		go func() { _ = w.pod.End(ctx) }()
		synctest.Wait()
		if err := w.pod.End(ctx); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("End = %v", err)
		}
		w.expect(pod.Ending)
		<-w.pod.Gone()
		w.expectGone()
	})
}

// A boot that hangs, wherever it does, is over with the pod, and nothing of it is left.
func TestEndDuringBoot(t *testing.T) {
	for name, hang := range map[string]func(*fake.Driver){
		"the driver": func(d *fake.Driver) {
			d.Starting = func(ctx context.Context, _ vm.Config) error { <-ctx.Done(); return ctx.Err() }
		},
		"the guest": func(d *fake.Driver) { d.Boot = fake.NeverBoots },
		"the agent": func(d *fake.Driver) {
			d.Prepare = func(m *fake.Machine) { m.Agent.On("Guest.Start", fake.Hang) }
		},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(w *world) {
				hang(w.Driver)
				w.hold()
				booted := make(chan error)
				go func() {
					_, err := w.pod.Boot(context.Background(), boot)
					booted <- err
				}()
				synctest.Wait()
				w.expect(pod.Booting)
				began := time.Now()
				go func() { _ = w.pod.End(context.Background()) }()
				if err := <-booted; !errdefs.IsFailedPrecondition(err) {
					t.Errorf("Boot = %v", err)
				}
				<-w.pod.Gone()
				w.took(began, 0)
				w.expectGone()
			})
		})
	}
}

// A boot that succeeds although it was to end early is none.
func TestEndOvertakesBoot(t *testing.T) {
	bubble(t, func(w *world) {
		told := make(chan struct{})
		w.Driver.Boot = fake.BootsWhen(told)
		w.hold()
		booted := make(chan error)
		go func() {
			_, err := w.pod.Boot(context.Background(), func(ctx context.Context, place *sandbox.Prepared) (*sandbox.Sandbox, error) {
				return boot(context.WithoutCancel(ctx), place)
			})
			booted <- err
		}()
		synctest.Wait()
		ended := make(chan error)
		go func() { ended <- w.pod.End(context.Background()) }()
		synctest.Wait()
		w.expect(pod.Ending)
		close(told)
		if err := <-booted; !errdefs.IsFailedPrecondition(err) {
			t.Errorf("Boot = %v", err)
		}
		if err := <-ended; err != nil {
			t.Errorf("End = %v", err)
		}
		w.expectGone()
	})
}

// A boot that fails leaves the end to who booted; nobody boots again.
func TestBootFails(t *testing.T) {
	bubble(t, func(w *world) {
		w.Driver.Boot = fake.DiesBooting(errBroken)
		w.hold()
		if _, err := w.pod.Boot(context.Background(), boot); !errors.Is(err, errBroken) {
			t.Errorf("Boot = %v", err)
		}
		if _, err := w.pod.Boot(context.Background(), boot); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("a second Boot = %v", err)
		}
		if err := w.pod.End(context.Background()); err != nil {
			t.Error(err)
		}
		w.expectGone()
	})
}

// A member whose guest does nothing costs the guest's time, and so do many: they are
// ended at once. Then the VM goes as it is.
func TestMembersThatDoNotEnd(t *testing.T) {
	for _, others := range []int{0, 9} {
		t.Run(fmt.Sprint(others), func(t *testing.T) {
			bubble(t, func(w *world) {
				w.reach(pod.Running).ending = untilOver
				for i := range others {
					w.add(fmt.Sprint(i)).ending = untilOver
				}
				began := time.Now()
				if err := w.pod.End(context.Background()); err != nil {
					t.Error(err)
				}
				w.took(began, w.Platform.Budgets.Prompt)
				w.expectGone()
			})
		})
	}
}

// Members share the guest's time, which is enough for each if it is for one.
func TestMembersEndAtTheSameTime(t *testing.T) {
	bubble(t, func(w *world) {
		w.reach(pod.Running)
		const long = 20 * time.Second
		for i := range 5 {
			w.add(fmt.Sprint(i)).ending = func(ctx context.Context) {
				time.Sleep(long)
				if ctx.Err() != nil {
					t.Errorf("member %d had not enough time", i)
				}
			}
		}
		began := time.Now()
		if err := w.pod.End(context.Background()); err != nil {
			t.Error(err)
		}
		w.took(began, long)
	})
}

// A VMM that cannot be killed does not hold up the end, which says so.
func TestEndOfAnUndyingVM(t *testing.T) {
	bubble(t, func(w *world) {
		w.Driver.Undying = true
		m := w.reach(pod.Running)
		began := time.Now()
		if err := w.pod.End(context.Background()); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("End = %v", err)
		}
		w.took(began, 10*time.Second)
		w.expect(pod.Gone)
		if m.lost.Load() == 0 {
			t.Error("the member was not told")
		}
		w.Machine().Die(nil)
		<-w.Machine().Done()
	})
}

// When the end is over, each member knows of it: what it runs can be deleted at once.
func TestMembersKnowOfTheEnd(t *testing.T) {
	bubble(t, func(w *world) {
		late := make(chan struct{})
		w.follow = func(*sandbox.Sandbox) { <-late }
		m := w.reach(pod.Running)
		if err := w.pod.End(context.Background()); err != nil {
			t.Error(err)
		}
		if m.lost.Load() == 0 {
			t.Error("the end is over, and the member was not told")
		}
		close(late)
	})
}

// Pods that have ended leave no goroutine.
func TestNoGoroutineIsLeft(t *testing.T) {
	live := func() {
		w := open(t)
		w.add(owner)
		if _, err := w.pod.Prepare(podID, owner, w.prepare); err != nil {
			t.Fatal(err)
		}
		w.start()
		if err := w.pod.Leave(context.Background(), owner); err != nil {
			t.Error(err)
		}
	}
	live() // what the first one makes for all
	itself.NothingLeft(t)
	for range 10 {
		live()
	}
}
