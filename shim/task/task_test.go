package task

import (
	"context"
	"errors"
	"fmt"
	"os"
	"testing"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	taskv2 "github.com/containerd/containerd/api/runtime/task/v2"
	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/hook"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/stdio"
)

// The table of methods serves both versions, so their messages must be the same
// on the wire, and no method may be missing.
func TestVersionsAreTheSame(t *testing.T) {
	v2 := taskv2.File_runtime_task_v2_shim_proto.Services().Get(0).Methods()
	v3 := taskv3.File_runtime_task_v3_shim_proto.Services().Get(0).Methods()
	methods := (&Service{}).methods()
	if v2.Len() != v3.Len() || v3.Len() != len(methods) {
		t.Fatalf("%d methods in v2, %d in v3, %d here", v2.Len(), v3.Len(), len(methods))
	}
	for i := range v3.Len() {
		method := v3.Get(i)
		if methods[string(method.Name())] == nil {
			t.Errorf("no method %s", method.Name())
		}
		old := v2.ByName(method.Name())
		if old == nil {
			t.Fatalf("v2 has no %s", method.Name())
		}
		sameMessage(t, old.Input(), method.Input())
		sameMessage(t, old.Output(), method.Output())
	}
}

func sameMessage(t *testing.T, a, b protoreflect.MessageDescriptor) {
	t.Helper()
	if a.Fields().Len() != b.Fields().Len() {
		t.Errorf("%s and %s have different fields", a.FullName(), b.FullName())
	}
	for i := range a.Fields().Len() {
		field := a.Fields().Get(i)
		other := b.Fields().ByNumber(field.Number())
		if other == nil || other.Kind() != field.Kind() || other.Cardinality() != field.Cardinality() {
			t.Errorf("%s differs in %s", field.FullName(), b.FullName())
		}
	}
}

// An error arrives with its class and its text, on one line and once.
func TestErrorsAtTheEdge(t *testing.T) {
	for name, c := range map[string]struct {
		err  error
		is   func(error) bool
		text string
	}{
		"one":        {fmt.Errorf("task x: %w", errdefs.ErrNotFound), errdefs.IsNotFound, "task x: not found"},
		"two":        {fmt.Errorf("open y: %w (%w)", os.ErrPermission, errdefs.ErrFailedPrecondition), errdefs.IsFailedPrecondition, "open y: permission denied: failed precondition"},
		"joined":     {errors.Join(fmt.Errorf("a: %w", errdefs.ErrUnavailable), errors.New("b")), errdefs.IsUnavailable, "a: unavailable\nb: unavailable"},
		"no class":   {errors.New("plain"), errdefs.IsUnknown, "plain"},
		"a deadline": {context.DeadlineExceeded, errdefs.IsDeadlineExceeded, "context deadline exceeded"},
	} {
		got := errgrpc.ToNative(toGRPC(c.err))
		if !c.is(got) || got.Error() != c.text {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// published records what goes to containerd.
type published []any

func (p *published) Publish(_ context.Context, topic string, event events.Event) error {
	*p = append(*p, event)
	return nil
}

func (p *published) Close() error { return nil }

func service(t *testing.T) (*Service, *published) {
	ctx, sd := shutdown.WithShutdown(t.Context())
	p := &published{}
	s := New(ctx, p, sd, hook.Runner{}, time.Now())
	init := newProcess("", stdio.Config{Stdout: "/fifo/out"})
	exec := newProcess("e", stdio.Config{})
	exec.started = true
	s.containers["c"] = &container{
		id: "c", bundle: "/bundle", created: true,
		processes: map[string]*process{"": init, "e": exec}, deleted: make(chan struct{}),
	}
	return s, p
}

func fromGuest(t *testing.T, event any) *api.Event {
	t.Helper()
	value, err := typeurl.MarshalAnyToProto(event)
	if err != nil {
		t.Fatal(err)
	}
	return &api.Event{Topic: "/chosen/by/the/guest", Event: value}
}

// Events get the host's view on their way.
func TestEventsAreTranslated(t *testing.T) {
	s, out := service(t)
	s.receive(fromGuest(t, &eventsapi.TaskCreate{ContainerID: "c", Bundle: "/run/msb/x", Pid: 99, IO: &eventsapi.TaskIO{Stdout: "/run/msb/y"}}))
	s.receive(fromGuest(t, &eventsapi.TaskExit{ContainerID: "c", ID: "c", Pid: 99, ExitStatus: 3}))
	s.receive(fromGuest(t, &eventsapi.TaskDelete{ContainerID: "c", Pid: 99, ExitStatus: 3}))
	if len(*out) != 3 {
		t.Fatalf("%d events", len(*out))
	}
	if create := (*out)[0].(*eventsapi.TaskCreate); create.Bundle != "/bundle" || create.Pid == 99 || create.IO.Stdout != "/fifo/out" {
		t.Errorf("%v", create)
	}
	init := s.containers["c"].processes[""]
	if !init.hasExited() || init.exit.status != 3 {
		t.Error("the exit was not recorded")
	}
	select {
	case <-s.containers["c"].deleted:
	default:
		t.Error("the deletion was not noted")
	}
}

// A hostile guest speaks of containers that are not in it, of things that are no
// task's, and says everything twice.
func TestHostileEvents(t *testing.T) {
	s, out := service(t)
	for name, event := range map[string]*api.Event{
		"another container's exit": fromGuest(t, &eventsapi.TaskExit{ContainerID: "other", ID: "other"}),
		"an unknown process":       fromGuest(t, &eventsapi.TaskExit{ContainerID: "c", ID: "unknown"}),
		"not a task's":             fromGuest(t, &eventsapi.ContainerDelete{ID: "c"}),
		"a namespace's":            fromGuest(t, &eventsapi.NamespaceDelete{Name: "default"}),
		"a checkpoint":             fromGuest(t, &eventsapi.TaskCheckpointed{ContainerID: "c", Checkpoint: "/etc"}),
		"an unknown type":          {Event: &anypb.Any{TypeUrl: "no.such.Type", Value: []byte("x")}},
		"garbage":                  {Event: &anypb.Any{TypeUrl: "containerd.events.TaskExit", Value: []byte{0xff}}},
		"nothing":                  {},
	} {
		s.receive(event)
		if len(*out) != 0 {
			t.Fatalf("%s went to containerd: %v", name, *out)
		}
	}
	for range 2 {
		s.receive(fromGuest(t, &eventsapi.TaskExit{ContainerID: "c", ID: "e", ExitStatus: 1}))
		s.receive(fromGuest(t, &eventsapi.TaskDelete{ContainerID: "c"}))
	}
	exits := 0
	for _, event := range *out {
		if runtime.GetTopic(event) == runtime.TaskExitEventTopic {
			exits++
		}
	}
	if exits != 1 {
		t.Errorf("%d exits of one process", exits)
	}
}

// When the VM ends, everything in it has exited: execs first, init last, once.
func TestDeathIsReported(t *testing.T) {
	s, out := service(t)
	s.reportDeath()
	s.reportDeath()
	if len(*out) != 2 {
		t.Fatalf("events %v", *out)
	}
	for i, id := range []string{"e", "c"} {
		exit := (*out)[i].(*eventsapi.TaskExit)
		if exit.ID != id || exit.ExitStatus != sandbox.ExitKilled {
			t.Errorf("event %d is %v", i, exit)
		}
	}
	state, err := s.State(t.Context(), &taskv3.StateRequest{ID: "c"})
	if err != nil || state.ExitStatus != sandbox.ExitKilled || state.Bundle != "/bundle" {
		t.Errorf("State = %v, %v", state, err)
	}
	if _, err := s.Kill(t.Context(), &taskv3.KillRequest{ID: "c"}); !errdefs.IsNotFound(err) {
		t.Errorf("Kill = %v", err)
	}
	if response, err := s.Delete(t.Context(), &taskv3.DeleteRequest{ID: "c"}); err != nil || response.ExitStatus != sandbox.ExitKilled {
		t.Errorf("Delete = %v, %v", response, err)
	}
	if _, err := s.Delete(t.Context(), &taskv3.DeleteRequest{ID: "c"}); !errdefs.IsNotFound(err) {
		t.Errorf("a second Delete = %v", err)
	}
}
