package pod_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"

	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
	"github.com/msb-runtime/containerd-shim-msb/shim/pod"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/test/fake"
)

// When a container's VM dies, all members are told. The pod is its owner's to end: nobody
// joins it any more.
func TestVMDies(t *testing.T) {
	bubble(t, func(w *world) {
		first := w.reach(pod.Running)
		second := w.add("second")
		w.Machine().Die(errBroken)
		synctest.Wait()
		if first.lost.Load() != 1 || second.lost.Load() != 1 {
			t.Errorf("told: %d and %d times", first.lost.Load(), second.lost.Load())
		}
		if first.ended.Load() != 0 {
			t.Error("a member was ended in a VM that is gone")
		}
		w.expect(pod.Running)
		if _, err := w.pod.Sandbox(); !errors.Is(err, errBroken) {
			t.Errorf("Sandbox = %v", err)
		}
		if _, err := w.pod.Join(podID); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("Join = %v", err)
		}
		if err := w.pod.Leave(context.Background(), owner); err != nil {
			t.Error(err)
		}
		w.expectGone()
	})
}

// A pod that a sandbox holds ends with its VM, after its members were told.
func TestHeldVMDies(t *testing.T) {
	bubble(t, func(w *world) {
		w.hold()
		m := w.add("c")
		m.ending = func(context.Context) {
			if m.lost.Load() == 0 {
				t.Error("it was ended before it was told")
			}
		}
		w.start()
		w.Machine().Die(nil)
		<-w.pod.Gone()
		w.expectGone()
		if m.lost.Load() == 0 || m.ended.Load() != 1 {
			t.Errorf("told %d times, ended %d times", m.lost.Load(), m.ended.Load())
		}
		if !w.pod.Held() {
			t.Error("it is not held any more")
		}
	})
}

// stuck is a network that cannot be taken away.
type stuck struct{ sandbox.Network }

func (stuck) Close() error { return errBroken }

// A VM that died is gone also if not all of its place can be taken away.
func TestHeldVMDiesAndLeavesSomething(t *testing.T) {
	bubble(t, func(w *world) {
		open := w.Platform.OpenNetwork
		w.Platform.OpenNetwork = func(mounts mountns.Namespace, path string) (sandbox.Network, error) {
			network, err := open(mounts, path)
			return stuck{network}, err
		}
		w.hold()
		w.start()
		w.Machine().Die(nil)
		<-w.pod.Gone()
		w.expectGone()
		synctest.Wait()
		if last := w.log.LastEntry(); last == nil || last.Message != "cleaning up after the end of a VM" {
			t.Errorf("the last line of the log: %v", last)
		}
	})
}

// A VM that cannot be ended has not ended: nobody is told so.
func TestVMWithoutAgentDoesNotEnd(t *testing.T) {
	bubble(t, func(w *world) {
		w.Driver.Undying = true
		m := w.reach(pod.Running)
		w.Agent().EndEvents(nil)
		time.Sleep(time.Minute)
		if m.lost.Load() != 0 {
			t.Error("the member was told")
		}
		w.Machine().Die(nil)
		<-w.Machine().Done()
	})
}

// A VM without its agent is ended, after a while in which its own end may show.
func TestAgentIsGone(t *testing.T) {
	bubble(t, func(w *world) {
		m := w.reach(pod.Running)
		sb, err := w.pod.Sandbox()
		if err != nil {
			t.Fatal(err)
		}
		w.Agent().EndEvents(nil)
		time.Sleep(999 * time.Millisecond)
		synctest.Wait()
		if !sb.Running() {
			t.Error("it was ended at once")
		}
		began := time.Now()
		<-sb.Done()
		w.took(began, 0)
		synctest.Wait()
		if err := sb.Err(); !errdefs.IsUnavailable(err) {
			t.Errorf("Err = %v", err)
		}
		if m.lost.Load() != 1 {
			t.Error("the member was not told")
		}
	})
}

// A VM that dies with its agent has its own reason.
func TestAgentIsGoneFirst(t *testing.T) {
	bubble(t, func(w *world) {
		w.reach(pod.Running)
		w.Agent().EndEvents(nil)
		time.Sleep(time.Second / 2)
		w.Machine().Die(errBroken)
		time.Sleep(time.Minute)
		if _, err := w.pod.Sandbox(); !errors.Is(err, errBroken) {
			t.Errorf("Sandbox = %v", err)
		}
	})
}

// A guest that does not even answer the request for its events is told from one that is
// gone: it is followed until it ends.
func TestEventsNeverCome(t *testing.T) {
	bubble(t, func(w *world) {
		w.Driver.Prepare = func(m *fake.Machine) { m.Agent.On("Events", fake.Hang) }
		m := w.reach(pod.Running)
		time.Sleep(time.Hour)
		w.expect(pod.Running)
		w.Machine().Die(nil)
		synctest.Wait()
		if m.lost.Load() != 1 {
			t.Error("the member was not told")
		}
	})
}

// Who has left before is not told.
func TestVMDiesWithoutMembers(t *testing.T) {
	bubble(t, func(w *world) {
		w.reach(pod.Running)
		m := w.add("c")
		if err := w.pod.Leave(context.Background(), "c"); err != nil {
			t.Error(err)
		}
		w.Machine().Die(nil)
		synctest.Wait()
		if m.lost.Load() != 0 || m.ended.Load() != 0 {
			t.Error("it was told")
		}
	})
}
