package pod_test

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"github.com/containerd/errdefs"

	"github.com/msb-runtime/containerd-shim-msb/shim/pod"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
)

// An outcome is what a call returns, and the state that the pod is in then.
type outcome struct {
	is    func(error) bool
	state pod.State
}

func succeeds(err error) bool { return err == nil }

// to is a call that succeeds, stays one that is refused and changes nothing.
func to(state pod.State) outcome    { return outcome{succeeds, state} }
func stays(state pod.State) outcome { return outcome{errdefs.IsFailedPrecondition, state} }

// A pod of a container: every call in every state.
func TestCallsInEveryState(t *testing.T) {
	for name, c := range map[string]struct {
		call func(*world) error
		want [pod.Gone + 1]outcome
	}{
		"Hold": {
			func(w *world) error { return w.pod.Hold(podID) },
			[...]outcome{to(pod.New), stays(pod.Prepared), stays(pod.Booting), stays(pod.Running), stays(pod.Ending), stays(pod.Gone)},
		},
		"Prepare": {
			func(w *world) error { _, err := w.pod.Prepare(podID, "another", w.prepare); return err },
			[...]outcome{to(pod.Prepared), stays(pod.Prepared), stays(pod.Booting), stays(pod.Running), stays(pod.Ending), stays(pod.Gone)},
		},
		"Prepare for a sandbox that does not hold it": {
			func(w *world) error { _, err := w.pod.Prepare(podID, "", w.prepare); return err },
			[...]outcome{stays(pod.New), stays(pod.Prepared), stays(pod.Booting), stays(pod.Running), stays(pod.Ending), stays(pod.Gone)},
		},
		"Boot": {
			func(w *world) error { _, err := w.pod.Boot(context.Background(), boot); return err },
			[...]outcome{stays(pod.New), to(pod.Running), stays(pod.Booting), stays(pod.Running), stays(pod.Ending), stays(pod.Gone)},
		},
		"Join": {
			func(w *world) error { _, err := w.pod.Join(podID); return err },
			[...]outcome{stays(pod.New), stays(pod.Prepared), stays(pod.Booting), to(pod.Running), stays(pod.Ending), stays(pod.Gone)},
		},
		"Join another pod": {
			func(w *world) error { _, err := w.pod.Join("another"); return err },
			[...]outcome{stays(pod.New), stays(pod.Prepared), stays(pod.Booting), stays(pod.Running), stays(pod.Ending), stays(pod.Gone)},
		},
		"Add": {
			func(w *world) error { return w.pod.Add("c", new(member)) },
			[...]outcome{to(pod.New), to(pod.Prepared), to(pod.Booting), to(pod.Running), to(pod.Ending), to(pod.Gone)},
		},
		"Leave of a stranger": {
			func(w *world) error { return w.pod.Leave(context.Background(), "stranger") },
			[...]outcome{to(pod.New), to(pod.Prepared), to(pod.Booting), to(pod.Running), to(pod.Ending), to(pod.Gone)},
		},
		"Leave of the owner": {
			func(w *world) error { return w.pod.Leave(context.Background(), owner) },
			[...]outcome{to(pod.New), to(pod.Gone), to(pod.Gone), to(pod.Gone), to(pod.Gone), to(pod.Gone)},
		},
		"End": {
			func(w *world) error { return w.pod.End(context.Background()) },
			[...]outcome{to(pod.Gone), to(pod.Gone), to(pod.Gone), to(pod.Gone), to(pod.Gone), to(pod.Gone)},
		},
		"Release": {
			func(w *world) error { w.pod.Release(); return nil },
			[...]outcome{to(pod.New), to(pod.Prepared), to(pod.Booting), to(pod.Running), to(pod.Ending), to(pod.Gone)},
		},
	} {
		for state, want := range c.want {
			t.Run(fmt.Sprintf("%s in state %d", name, state), func(t *testing.T) {
				bubble(t, func(w *world) {
					w.reach(pod.State(state))
					if err := c.call(w); !want.is(err) {
						t.Errorf("it returns %v", err)
					}
					w.expect(want.state)
				})
			})
		}
	}
}

// What a pod tells of itself in each state.
func TestWhatIsThere(t *testing.T) {
	for state := pod.New; state <= pod.Gone; state++ {
		t.Run(fmt.Sprintf("state %d", state), func(t *testing.T) {
			bubble(t, func(w *world) {
				w.reach(state)
				if place, want := w.pod.Place() != nil, state > pod.New && state < pod.Gone; place != want {
					t.Errorf("a place: %v, want %v", place, want)
				}
				running := state == pod.Running || state == pod.Ending
				if sb, err := w.pod.Sandbox(); (err == nil) != running || (sb != nil) != running || !running && !errdefs.IsUnavailable(err) {
					t.Errorf("Sandbox = %v, %v", sb, err)
				}
				if !w.pod.Busy() {
					t.Error("it is not busy, and has a member")
				}
			})
		})
	}
}

// A pod that a sandbox holds: containers do not own it, and it is held once.
func TestHeld(t *testing.T) {
	bubble(t, func(w *world) {
		if w.pod.Held() || w.pod.Busy() {
			t.Error("it is held from the start")
		}
		if err := w.pod.Hold(podID); err != nil {
			t.Fatal(err)
		}
		if !w.pod.Held() || !w.pod.Busy() {
			t.Error("it is not held")
		}
		if err := w.pod.Hold("another"); !errdefs.IsAlreadyExists(err) {
			t.Errorf("a second Hold = %v", err)
		}
		if _, err := w.pod.Prepare(podID, "c", w.prepare); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("Prepare by a container = %v", err)
		}
		w.expect(pod.New)
		w.pod.Release()
		if w.pod.Held() || w.pod.Busy() {
			t.Error("it is still held")
		}
		w.hold()
		w.start()
		if err := w.pod.Hold("another"); !errdefs.IsAlreadyExists(err) {
			t.Errorf("Hold of a running one = %v", err)
		}
		if err := w.pod.End(context.Background()); err != nil {
			t.Error(err)
		}
		if !w.pod.Held() || !w.pod.Busy() {
			t.Error("with its VM its holder has gone")
		}
		w.pod.Release()
		if err := w.pod.Hold(podID); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("Hold of one that has ended = %v", err)
		}
	})
}

// After a Prepare that fails, nothing has happened.
func TestPrepareFails(t *testing.T) {
	bubble(t, func(w *world) {
		w.add(owner)
		fails := func() (*sandbox.Prepared, error) { return nil, errBroken }
		if place, err := w.pod.Prepare(podID, owner, fails); place != nil || !errors.Is(err, errBroken) {
			t.Errorf("Prepare = %v, %v", place, err)
		}
		w.expect(pod.New)
		if _, err := w.pod.Prepare(podID, owner, w.prepare); err != nil {
			t.Errorf("a second Prepare = %v", err)
		}
		w.expect(pod.Prepared)
	})
}

// A shim that ends makes no VM any more, however early its end came.
func TestEndOfANewPod(t *testing.T) {
	bubble(t, func(w *world) {
		if err := w.pod.End(context.Background()); err != nil {
			t.Error(err)
		}
		w.add(owner)
		prepared := false
		_, err := w.pod.Prepare(podID, owner, func() (*sandbox.Prepared, error) {
			prepared = true
			return w.prepare()
		})
		if !errdefs.IsFailedPrecondition(err) || prepared {
			t.Errorf("Prepare = %v, prepared %v", err, prepared)
		}
		w.expectGone()
	})
}

// Members have their ids until they leave.
func TestMembers(t *testing.T) {
	bubble(t, func(w *world) {
		a, b := w.add("a"), w.add("b")
		if err := w.pod.Add("a", b); !errdefs.IsAlreadyExists(err) {
			t.Errorf("Add with an id that is taken = %v", err)
		}
		if w.pod.Member("a") != a || w.pod.Member("b") != b || w.pod.Member("c") != nil {
			t.Error("a member is another")
		}
		if n := len(w.pod.Members()); n != 2 {
			t.Errorf("%d members", n)
		}
		if err := w.pod.Leave(context.Background(), "a"); err != nil {
			t.Error(err)
		}
		if w.pod.Member("a") != nil || len(w.pod.Members()) != 1 {
			t.Error("it has not left")
		}
		w.add("a")
	})
}

func TestHolder(t *testing.T) {
	bubble(t, func(w *world) {
		if holder := w.pod.Holder(); holder != (pod.Holder{}) {
			t.Errorf("Holder = %v", holder)
		}
		want := pod.Holder{Pid: 7, Guest: 8}
		w.pod.SetHolder(want)
		if holder := w.pod.Holder(); holder != want {
			t.Errorf("Holder = %v", holder)
		}
	})
}
