package task

import (
	"context"
	"testing"

	"github.com/containerd/containerd/v2/core/events"

	shimevents "github.com/msb-runtime/containerd-shim-msb/shim/events"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/stdio"
)

type nowhere struct{}

func (nowhere) Publish(context.Context, string, events.Event) error { return nil }
func (nowhere) Close() error                                        { return nil }

// An exec whose VM ends between the guest's answer to its start and what is noted of that
// has ended, too.
func TestLostWhileItStarts(t *testing.T) {
	s := &Service{Shim: Shim{Events: shimevents.NewQueue(t.Context(), nowhere{})}}
	p := newProcess("e", stdio.Config{})
	c := &container{service: s, id: "c", created: true, bundle: t.TempDir(), processes: map[string]*process{"": newProcess("", stdio.Config{}), "e": p}}
	if err := c.beginStart(p); err != nil {
		t.Fatal(err)
	}
	c.Lost()
	if p.hasExited() {
		t.Error("it has exited before it was started")
	}
	c.endStart(p, true)
	if !p.hasExited() || p.exit.status != sandbox.ExitKilled {
		t.Errorf("it has not exited: %+v", p.exit)
	}
}
