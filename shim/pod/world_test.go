package pod_test

import (
	"context"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/sirupsen/logrus"
	logged "github.com/sirupsen/logrus/hooks/test"

	"github.com/msb-runtime/containerd-shim-msb/shim/pod"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
	"github.com/msb-runtime/containerd-shim-msb/test/fake"
	"github.com/msb-runtime/containerd-shim-msb/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

// podID is the sandbox of all pods here, owner the container that owns one.
const (
	podID = "p"
	owner = "owner"
)

// A world is one pod on a fake machine.
type world struct {
	*rig.Rig
	pod     *pod.Pod
	bundle  string // of its VM
	log     *logged.Hook
	follow  func(*sandbox.Sandbox)
	empties atomic.Int32 // how often Empty was called
}

// open makes a pod in which nothing has happened. It ends with the test, and the rig then
// looks for machines and mounts that are left.
func open(t *testing.T) *world {
	t.Helper()
	bundle := t.TempDir() // first, so that it is removed last
	logger, hook := logged.NewNullLogger()
	w := &world{Rig: rig.New(t), bundle: bundle, log: hook, follow: untilEventsEnd}
	w.pod = pod.Open(log.WithLogger(context.Background(), logrus.NewEntry(logger)), pod.Make{
		Follow: func(sb *sandbox.Sandbox) { w.follow(sb) },
		Empty:  func() { w.empties.Add(1) },
	})
	t.Cleanup(func() {
		if err := w.pod.End(context.Background()); err != nil {
			t.Errorf("ending the pod: %v", err)
		}
	})
	return w
}

// bubble runs a test with a pod in a bubble, which does not end while a goroutine of the
// pod is left.
func bubble(t *testing.T, test func(*world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(open(t)) })
}

// untilEventsEnd follows a VM as the shim does: until its agent sends no more events.
func untilEventsEnd(sb *sandbox.Sandbox) {
	events, err := sb.Guest.Events(context.Background())
	for err == nil {
		_, err = events.Recv()
	}
}

// A member counts what it is told.
type member struct {
	ended, lost atomic.Int32
	ending      func(context.Context) // what End does; nil: nothing
}

func (m *member) End(ctx context.Context) {
	m.ended.Add(1)
	if m.ending != nil {
		m.ending(ctx)
	}
}

func (m *member) Lost() { m.lost.Add(1) }

// untilOver is the End of a member whose guest does nothing.
func untilOver(ctx context.Context) { <-ctx.Done() }

func (w *world) add(id string) *member {
	w.T.Helper()
	m := new(member)
	if err := w.pod.Add(id, m); err != nil {
		w.T.Fatal(err)
	}
	return m
}

func (w *world) prepare() (*sandbox.Prepared, error) {
	return sandbox.Prepare(w.bundle, w.Platform, sandbox.Config{Size: spec.Size{CPUs: 1, Memory: 64 << 20}})
}

// boot is a boot with one placeholder.
func boot(ctx context.Context, place *sandbox.Prepared) (*sandbox.Sandbox, error) {
	return place.Boot(ctx, func(placeholders sandbox.Placeholders) error {
		_, err := placeholders.ForPod()
		return err
	})
}

// hold makes the pod a sandbox's of the Sandbox API, with a place for its VM.
func (w *world) hold() {
	w.T.Helper()
	err := w.pod.Hold(podID)
	if err == nil {
		_, err = w.pod.Prepare(podID, "", w.prepare)
	}
	if err != nil {
		w.T.Fatal(err)
	}
}

// start boots a pod that is prepared.
func (w *world) start() *sandbox.Sandbox {
	w.T.Helper()
	sb, err := w.pod.Boot(context.Background(), boot)
	if err != nil {
		w.T.Fatal(err)
	}
	return sb
}

// reach brings the pod of a container to a state. It needs a bubble.
func (w *world) reach(state pod.State) *member {
	w.T.Helper()
	m := w.add(owner)
	if state >= pod.Prepared {
		if _, err := w.pod.Prepare(podID, owner, w.prepare); err != nil {
			w.T.Fatal(err)
		}
	}
	switch {
	case state == pod.Booting:
		w.Driver.Boot = fake.NeverBoots
		go func() {
			if _, err := w.pod.Boot(context.Background(), boot); err == nil {
				w.T.Error("a guest that never answers has booted")
			}
		}()
		synctest.Wait()
	case state >= pod.Running:
		w.start()
	}
	switch state {
	case pod.Ending:
		m.ending = untilOver
		go func() { _ = w.pod.End(context.Background()) }()
		synctest.Wait()
	case pod.Gone:
		if err := w.pod.End(context.Background()); err != nil {
			w.T.Fatal(err)
		}
	}
	w.expect(state)
	return m
}

func (w *world) expect(state pod.State) {
	w.T.Helper()
	if got := w.pod.State(); got != state {
		w.T.Errorf("the pod's state is %d, want %d", got, state)
	}
}

// expectGone fails unless the VM and its place have gone.
func (w *world) expectGone() {
	w.T.Helper()
	w.expect(pod.Gone)
	select {
	case <-w.pod.Gone():
	default:
		w.T.Error("Gone is not told")
	}
	if w.pod.Place() != nil {
		w.T.Error("the place is still there")
	}
	if _, err := w.pod.Sandbox(); !errdefs.IsUnavailable(err) {
		w.T.Errorf("Sandbox = %v", err)
	}
	for _, machine := range w.Driver.Machines() {
		select {
		case <-machine.Done():
		default:
			w.T.Error("a machine runs")
		}
	}
	for _, stand := range w.Placeholders() {
		select {
		case <-stand.Exited():
		default:
			w.T.Error("a placeholder runs")
		}
	}
	w.ExpectNoMounts()
}

// took fails unless something took at least least, and not much more.
func (w *world) took(began time.Time, least time.Duration) {
	w.T.Helper()
	if took := time.Since(began); took < least || took > least+5*time.Second {
		w.T.Errorf("it took %v, want %v and at most 5 s more", took, least)
	}
}

var errBroken = errors.New("broken")
