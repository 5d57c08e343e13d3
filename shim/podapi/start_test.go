package podapi_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/sirupsen/logrus"

	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/test/counted"
	"github.com/msb-runtime/containerd-shim-msb/test/fake"
	"github.com/msb-runtime/containerd-shim-msb/vm"
	"github.com/msb-runtime/containerd-shim-msb/vm/jail"
)

// hangs are where a start can hang.
var hangs = map[string]func(*world){
	"the driver": func(w *world) {
		w.Driver.Starting = func(ctx context.Context, _ vm.Config) error { <-ctx.Done(); return ctx.Err() }
	},
	"the guest": func(w *world) { w.Driver.Boot = fake.NeverBoots },
	"the agent": func(w *world) {
		w.Driver.Prepare = func(m *fake.Machine) { m.Agent.On("Guest.Start", fake.Hang) }
	},
	"CreatePod": func(w *world) {
		w.Driver.Prepare = func(m *fake.Machine) { m.Agent.On("CreatePod", fake.Hang) }
	},
	"the answer to CreatePod": func(w *world) {
		w.Driver.Prepare = func(m *fake.Machine) { m.Agent.On("CreatePod", fake.Mute) }
	},
}

// A start that hangs, wherever it does, is over when the sandbox is stopped, and nothing of
// it is left: least of all the placeholder, which holds the network namespace.
func TestStopDuringStart(t *testing.T) {
	for name, hang := range hangs {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(w *world) {
				hang(w)
				counts := counted.Begin(t)
				w.create()
				started := make(chan error)
				go func() { _, err := w.start(context.Background()); started <- err }()
				synctest.Wait()
				began := time.Now()
				if err := w.stop(context.Background()); err != nil {
					t.Errorf("StopSandbox = %v", err)
				}
				if err := <-started; !errdefs.IsFailedPrecondition(err) {
					t.Errorf("StartSandbox = %v", err)
				}
				if got := counts(); !strings.Contains(got, "starts none cold failure 1") {
					t.Errorf("counted: %s", got)
				}
				w.within(began, 5*time.Second)
				w.expectEnded(0)
				if name != "the driver" && len(w.Placeholders()) != 1 {
					t.Errorf("%d placeholders were started", len(w.Placeholders()))
				}
			})
		})
	}
}

// The same with its client, who has lost interest.
func TestStartWhoseClientLeaves(t *testing.T) {
	for name, hang := range hangs {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(w *world) {
				hang(w)
				w.create()
				ctx, cancel := context.WithTimeout(context.Background(), time.Second)
				defer cancel()
				began := time.Now()
				if _, err := w.start(ctx); err == nil {
					t.Error("StartSandbox succeeds")
				}
				w.within(began, 5*time.Second)
				w.expectEnded(sandbox.ExitKilled)
			})
		})
	}
}

// A guest that hangs has its time, and then the start has failed.
func TestStartOfAGuestThatHangs(t *testing.T) {
	for name, hang := range hangs {
		if name == "the driver" {
			continue // each has bounds of its own
		}
		t.Run(name, func(t *testing.T) {
			bubble(t, func(w *world) {
				hang(w)
				w.create()
				began := time.Now()
				if _, err := w.start(context.Background()); !errdefs.IsUnavailable(err) {
					t.Errorf("StartSandbox = %v", err)
				}
				w.within(began, w.Platform.BootTimeout+w.Platform.Budgets.Lengthy)
				w.expectEnded(sandbox.ExitKilled)
			})
		})
	}
}

// A start that fails says why, and has ended the sandbox.
func TestStartFails(t *testing.T) {
	for name, fail := range map[string]func(*world){
		"the driver": func(w *world) { w.Driver.Starting = func(context.Context, vm.Config) error { return errBroken } },
		"the boot":   func(w *world) { w.Driver.Boot = fake.DiesBooting(errBroken) },
		"the network": func(w *world) {
			w.Platform.OpenNetwork = func(mountns.Namespace, string) (sandbox.Network, error) { return nil, errBroken }
		},
		"the placeholder": func(w *world) { w.Platform.Placeholder = noPlaceholder },
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(w *world) {
				fail(w)
				w.create()
				if _, err := w.start(context.Background()); !errors.Is(err, errBroken) {
					t.Errorf("StartSandbox = %v", err)
				}
				w.expectEnded(sandbox.ExitKilled)
				if _, err := w.start(context.Background()); !errdefs.IsFailedPrecondition(err) {
					t.Errorf("StartSandbox again = %v", err)
				}
			})
		})
	}
}

func noPlaceholder(jail.Program, *jail.Root, *os.File) (sandbox.Process, error) {
	return nil, errBroken
}

// An error of the guest keeps its class, and ends the sandbox.
func TestGuestRefusesPod(t *testing.T) {
	bubble(t, func(w *world) {
		w.Driver.Prepare = func(m *fake.Machine) {
			m.Agent.On("CreatePod", fake.Fail(fmt.Errorf("sysctl: %w", errdefs.ErrInvalidArgument)))
		}
		w.create()
		if _, err := w.start(context.Background()); !errdefs.IsInvalidArgument(err) {
			t.Errorf("StartSandbox = %v", err)
		}
		w.expectEnded(sandbox.ExitKilled)
	})
}

// What cannot be taken away after a failed start is told in the log.
func TestStartFailsWithoutCleanup(t *testing.T) {
	bubble(t, func(w *world) {
		w.failCleanup()
		w.Driver.Boot = fake.DiesBooting(nil)
		w.create()
		hook := logOf(t)
		if _, err := w.start(context.Background()); !errdefs.IsUnavailable(err) || errors.Is(err, errBroken) {
			t.Errorf("StartSandbox = %v", err)
		}
		if last := hook.LastEntry(); last == nil || last.Level != logrus.WarnLevel {
			t.Errorf("logged: %v", last)
		}
		w.expectEnded(sandbox.ExitKilled)
	})
}

// A placeholder that is killed while the sandbox starts has ended it, too.
func TestPlaceholderIsKilledDuringStart(t *testing.T) {
	bubble(t, func(w *world) {
		told := make(chan struct{})
		w.Driver.Boot = fake.BootsWhen(told)
		w.create()
		started := make(chan error)
		go func() { _, err := w.start(context.Background()); started <- err }()
		synctest.Wait()
		w.Placeholders()[0].Kill()
		close(told)
		<-started // whether or not it has noticed yet
		w.expectEnded(sandbox.ExitKilled)
	})
}
