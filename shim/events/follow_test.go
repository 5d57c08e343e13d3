package events

import (
	"errors"
	"fmt"
	"io"
	"slices"
	"testing"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
)

// told is what a guest sends, and in the end nothing more.
type told []*api.Event

func (t *told) Recv() (*api.Event, error) {
	if len(*t) == 0 {
		return nil, io.EOF
	}
	event := (*t)[0]
	*t = (*t)[1:]
	return event, nil
}

// notes is a recorder.
type notes []string

func (n *notes) Exited(container, id string, pid, status uint32) {
	*n = append(*n, fmt.Sprintf("exit %s/%s of %d: %d", container, id, pid, status))
}

func (n *notes) OutOfMemory(container string) { *n = append(*n, "oom "+container) }

func event(t *testing.T, value any) *api.Event {
	t.Helper()
	packed, err := typeurl.MarshalAnyToProto(value)
	if err != nil {
		t.Fatal(err)
	}
	return &api.Event{Topic: "/chosen/by/the/guest", Event: packed}
}

// Exits and the end of memory count, in their order; all else is dropped.
func TestFollow(t *testing.T) {
	huge := make([]byte, 1<<20)
	source := &told{
		event(t, &eventsapi.TaskExit{ContainerID: "c", ID: "e", Pid: 7, ExitStatus: 3, ExitedAt: &timestamppb.Timestamp{Seconds: 1 << 60}}),
		event(t, &eventsapi.TaskCreate{ContainerID: "c", Bundle: "/etc"}),
		event(t, &eventsapi.TaskStart{ContainerID: "c"}),
		event(t, &eventsapi.TaskDelete{ContainerID: "c"}),
		event(t, &eventsapi.TaskExecAdded{ContainerID: "c", ExecID: "nobody's"}),
		event(t, &eventsapi.TaskExecStarted{ContainerID: "c", ExecID: "nobody's"}),
		event(t, &eventsapi.TaskPaused{ContainerID: "c"}),
		event(t, &eventsapi.TaskResumed{ContainerID: "c"}),
		event(t, &eventsapi.TaskCheckpointed{ContainerID: "c", Checkpoint: "/etc"}),
		event(t, &eventsapi.ContainerDelete{ID: "c"}),
		event(t, &eventsapi.NamespaceDelete{Name: "default"}),
		{Event: &anypb.Any{TypeUrl: string(huge), Value: huge}},
		{Event: &anypb.Any{TypeUrl: typeExit, Value: []byte{0xff}}},
		{Event: &anypb.Any{TypeUrl: typeOOM, Value: []byte{0xff}}},
		{},
		event(t, &eventsapi.TaskOOM{ContainerID: "c"}),
		event(t, &eventsapi.TaskExit{ContainerID: "c", ID: "c", ExitStatus: 4}),
	}
	var got notes
	if err := Follow(t.Context(), source, &got); !errors.Is(err, io.EOF) {
		t.Errorf("Follow = %v", err)
	}
	if want := (notes{"exit c/e of 7: 3", "oom c", "exit c/c of 0: 4"}); !slices.Equal(got, want) {
		t.Errorf("recorded %q, want %q", got, want)
	}
}

// What a guest repeats goes out a few times, and then once a second.
func TestGate(t *testing.T) {
	gate, now, allowed := NewGate(), time.Now(), 0
	pass := func(times int) {
		for range times {
			if _, ok := gate.Pass(now, 1); ok {
				allowed++
			}
		}
	}
	pass(50_000)
	for range 30 {
		now = now.Add(time.Second)
		pass(1000)
	}
	if want := repeatBurst + 30*repeatPerSecond; allowed != want {
		t.Errorf("%d of 80,000 went out, want %d", allowed, want)
	}
}
