package agent

import (
	"context"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
)

// queueSize is how many events wait for the host; then the task service waits.
const queueSize = 1024

// queue takes the task service's events and gives them to the host in order.
type queue chan *api.Event

// Publish implements containerd's events.Publisher. What the host knows without the guest, such
// as that it has started a process, it is not told.
func (q queue) Publish(ctx context.Context, topic string, event events.Event) error {
	switch event.(type) {
	case *eventsapi.TaskExit, *eventsapi.TaskOOM:
	default:
		return nil
	}
	value, err := typeurl.MarshalAnyToProto(event)
	if err != nil {
		return err
	}
	select {
	case q <- &api.Event{Topic: topic, At: timestamppb.Now(), Event: value}:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// Close implements io.Closer. The queue lives as long as the guest.
func (q queue) Close() error { return nil }

// send hands events to the host until it goes away.
func (q queue) send(ctx context.Context, send func(*api.Event) error) error {
	for {
		select {
		case event := <-q:
			if err := send(event); err != nil {
				return err
			}
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}
