package rpc

import (
	"context"
	"sync"
	"time"
)

const (
	// answerTimeout is how long a shim that ends waits for its calls to end. They do, with
	// the VM; those that wait for a client do not.
	answerTimeout = 5 * time.Second
	// answerDelay is how long an answer may take to be sent, once its call has ended: the
	// process goes with the shim.
	answerDelay = 100 * time.Millisecond
)

// calls are those of clients that have not been answered. containerd ends the shim when a
// task is deleted, while another of its clients may still wait for an answer: it would
// learn that the connection is closed, instead of what it asked.
type calls struct {
	mu    sync.Mutex
	open  int           // guarded by mu
	ended chan struct{} // closed when none is open; nil when nobody waits; guarded by mu
}

// begin is the begin of a call, and returns what is its end.
func (c *calls) begin() (end func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.open++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.open--
		if c.open == 0 && c.ended != nil {
			close(c.ended)
			c.ended = nil
		}
	}
}

// none is closed when no call is open; it is nil if there is none now.
func (c *calls) none() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open > 0 && c.ended == nil {
		c.ended = make(chan struct{})
	}
	return c.ended
}

// settle waits until the calls that are open have been answered, for a time.
func (c *calls) settle(ctx context.Context) {
	none := c.none()
	if none == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, answerTimeout)
	defer cancel()
	select {
	case <-none:
		time.Sleep(answerDelay)
	case <-ctx.Done():
	}
}
