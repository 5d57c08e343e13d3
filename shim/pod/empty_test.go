package pod_test

import (
	"context"
	"testing"
	"testing/synctest"

	"github.com/msb-runtime/containerd-shim-msb/shim/pod"
)

// expectEmpty fails unless Empty was called since the last time, or was not.
func (w *world) expectEmpty(when string, want bool) {
	w.T.Helper()
	if got := w.empties.Swap(0) > 0; got != want {
		w.T.Errorf("%s: told that it is empty: %v, want %v", when, got, want)
	}
}

func (w *world) leave(id string) {
	w.T.Helper()
	if err := w.pod.Leave(context.Background(), id); err != nil {
		w.T.Error(err)
	}
}

// A shim whose create failed is empty, each time.
func TestEmptyAfterFailedCreates(t *testing.T) {
	bubble(t, func(w *world) {
		for range 3 {
			w.add(owner)
			w.expectEmpty("with a member", false)
			w.leave(owner)
			w.expectEmpty("without", true)
		}
		w.add("a")
		w.add("b")
		w.leave("a")
		w.expectEmpty("one of two has left", false)
	})
}

// While a VM is there, it is not empty; then it is when the last has left.
func TestEmptyAfterTheLast(t *testing.T) {
	bubble(t, func(w *world) {
		w.reach(pod.Running)
		w.add("a")
		w.add("b")
		w.leave("a")
		w.expectEmpty("in a VM that runs", false)
		w.leave(owner)
		w.expectEmpty("another is left", false)
		w.leave("b")
		w.expectEmpty("all have left", true)
		w.leave("b")
		w.expectEmpty("again", true)
	})
}

// Its owner alone is the last.
func TestEmptyAfterTheOwner(t *testing.T) {
	for _, state := range []pod.State{pod.Prepared, pod.Booting, pod.Running, pod.Ending, pod.Gone} {
		bubble(t, func(w *world) {
			w.reach(state)
			w.expectEmpty("before it leaves", false)
			w.leave(owner)
			w.expectEmpty("after", true)
		})
	}
}

// A VM that is ending is there, also when nobody is a member any more.
func TestNotEmptyWhileItEnds(t *testing.T) {
	bubble(t, func(w *world) {
		w.reach(pod.Running)
		w.add("c").ending = untilOver
		go w.leave(owner)
		synctest.Wait()
		w.leave("c")
		w.expectEmpty("while it ends", false)
		<-w.pod.Gone()
		synctest.Wait()
		w.expectEmpty("then", true)
	})
}

// Members that have left before the VM is gone leave it to the end.
func TestEmptyAtTheEnd(t *testing.T) {
	bubble(t, func(w *world) {
		w.hold()
		w.add("c")
		w.start()
		w.leave("c")
		w.expectEmpty("it is held", false)
		if err := w.pod.End(context.Background()); err != nil {
			t.Error(err)
		}
		w.expectEmpty("it has ended and is held", false)
		w.pod.Release()
		w.expectEmpty("it is released", true)
	})
}
