package agent

import (
	"context"
	"slices"
	"testing"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/runtime"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
)

// The host is told in order what only the guest can tell it, and nothing else: each event wakes
// it up.
func TestEvents(t *testing.T) {
	q := make(queue, 10)
	for _, event := range []struct {
		topic string
		event any
	}{
		{runtime.TaskCreateEventTopic, &eventsapi.TaskCreate{}},
		{runtime.TaskStartEventTopic, &eventsapi.TaskStart{}},
		{runtime.TaskExecAddedEventTopic, &eventsapi.TaskExecAdded{}},
		{runtime.TaskExecStartedEventTopic, &eventsapi.TaskExecStarted{}},
		{runtime.TaskOOMEventTopic, &eventsapi.TaskOOM{}},
		{runtime.TaskExitEventTopic, &eventsapi.TaskExit{}},
		{runtime.TaskPausedEventTopic, &eventsapi.TaskPaused{}},
		{runtime.TaskResumedEventTopic, &eventsapi.TaskResumed{}},
		{runtime.TaskDeleteEventTopic, &eventsapi.TaskDelete{}},
	} {
		if err := q.Publish(t.Context(), event.topic, event.event); err != nil {
			t.Errorf("%s: %v", event.topic, err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	var sent []string
	_ = q.send(ctx, func(event *api.Event) error {
		if sent = append(sent, event.Topic); len(q) == 0 {
			cancel()
		}
		return nil
	})
	if want := []string{runtime.TaskOOMEventTopic, runtime.TaskExitEventTopic}; !slices.Equal(sent, want) {
		t.Errorf("the host was told %v, want %v", sent, want)
	}
}
