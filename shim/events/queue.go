// Package events carries what happens in a VM to containerd. Of the guest's own events
// only two kinds count: that a process has exited, and that memory ran out (Follow). All
// others are the shim's to tell, because it made them happen. Events go to containerd in
// their order, through a queue, so that nobody waits for containerd (Queue).
package events

import (
	"context"
	"sync"

	"github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/log"
)

// maxPending bounds the events that wait for containerd. What comes beyond it is lost, and
// the log says so. containerd asks for the state of tasks anew when it is back.
const maxPending = 4096

// A Queue publishes events to containerd in the order in which it gets them.
type Queue struct {
	ctx       context.Context
	publisher shim.Publisher

	mu      sync.Mutex
	pending []any         // guarded by mu
	busy    bool          // run is under way; guarded by mu
	idle    chan struct{} // closed when it is not; guarded by mu
}

// NewQueue returns a queue. ctx carries containerd's namespace.
func NewQueue(ctx context.Context, publisher shim.Publisher) *Queue {
	idle := make(chan struct{})
	close(idle)
	return &Queue{ctx: ctx, publisher: publisher, idle: idle}
}

// Publish queues an event, one of containerd's api/events. It never waits.
func (q *Queue) Publish(event any) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(q.pending) >= maxPending {
		log.G(q.ctx).WithField("topic", runtime.GetTopic(event)).Errorf("containerd takes no events: more than %d wait, this one is lost", maxPending)
		return
	}
	q.pending = append(q.pending, event)
	if !q.busy {
		q.busy, q.idle = true, make(chan struct{})
		go q.run()
	}
}

// run publishes until nothing is pending.
func (q *Queue) run() {
	for {
		q.mu.Lock()
		if len(q.pending) == 0 {
			q.busy = false
			close(q.idle)
			q.mu.Unlock()
			return
		}
		event := q.pending[0]
		q.pending = q.pending[1:]
		q.mu.Unlock()
		if err := q.publisher.Publish(q.ctx, runtime.GetTopic(event), event); err != nil {
			log.G(q.ctx).WithError(err).WithField("topic", runtime.GetTopic(event)).Error("publishing an event")
		}
	}
}

// Flush waits until no event waits for containerd, or ctx ends.
func (q *Queue) Flush(ctx context.Context) error {
	q.mu.Lock()
	idle := q.idle
	q.mu.Unlock()
	select {
	case <-idle:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
