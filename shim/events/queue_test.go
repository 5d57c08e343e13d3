package events

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/v2/core/events"
)

// containerd takes events one after the other, when it is let.
type containerd struct {
	let   chan struct{} // nil: always
	err   error
	mu    sync.Mutex
	taken []string
}

func (c *containerd) Publish(_ context.Context, _ string, event events.Event) error {
	if c.let != nil {
		<-c.let
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.taken = append(c.taken, event.(*eventsapi.TaskOOM).ContainerID)
	return c.err
}

func (c *containerd) Close() error { return nil }

func flush(t *testing.T, queue *Queue) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
	defer cancel()
	if err := queue.Flush(ctx); err != nil {
		t.Fatal(err)
	}
}

// Events go out in their order, also after an error, and Publish does not wait for it.
func TestQueueOrder(t *testing.T) {
	taker := &containerd{let: make(chan struct{}), err: errors.New("not now")}
	queue := NewQueue(t.Context(), taker)
	const n = 100
	for i := range n {
		queue.Publish(&eventsapi.TaskOOM{ContainerID: fmt.Sprint(i)})
	}
	waiting, cancel := context.WithCancel(t.Context())
	cancel()
	if err := queue.Flush(waiting); !errors.Is(err, context.Canceled) {
		t.Errorf("Flush while nobody takes events = %v", err)
	}
	close(taker.let)
	flush(t, queue)
	if len(taker.taken) != n {
		t.Fatalf("%d events of %d", len(taker.taken), n)
	}
	for i, id := range taker.taken {
		if id != fmt.Sprint(i) {
			t.Fatalf("event %d is %s", i, id)
		}
	}
	queue.Publish(&eventsapi.TaskOOM{ContainerID: "last"})
	flush(t, queue)
	if last := taker.taken[len(taker.taken)-1]; last != "last" {
		t.Errorf("the last event is %s", last)
	}
}

// A containerd that takes nothing does not make the shim keep everything.
func TestQueueIsBounded(t *testing.T) {
	taker := &containerd{let: make(chan struct{})}
	queue := NewQueue(t.Context(), taker)
	for range 2 * maxPending {
		queue.Publish(&eventsapi.TaskOOM{})
	}
	close(taker.let)
	flush(t, queue)
	if got := len(taker.taken); got < maxPending || got > maxPending+1 {
		t.Errorf("%d events were kept, of at most %d", got, maxPending)
	}
}
