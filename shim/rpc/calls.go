package rpc

import (
	"sync"
	"time"
)

const (
	// answerTimeout bounds how long a shim that ends waits for its calls to end. With the VM
	// they do, but for those that wait for a client.
	answerTimeout = 5 * time.Second
	// answerDelay is the time in which an answer is sent, once its call has ended. ttrpc does
	// not tell when it was, and the process ends after that.
	answerDelay = 100 * time.Millisecond
)

// calls are the calls of clients that have not been answered yet. containerd ends the shim
// when a task is deleted, and another client may still wait for an answer then. Without
// this it would get an error instead: the connection is closed.
type calls struct {
	mu    sync.Mutex
	open  int           // guarded by mu
	ended chan struct{} // closed when none is open; nil when nobody waits; guarded by mu
}

// begin notes that a call is open. The caller calls end when it has ended.
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

// none returns a channel that is closed as soon as no call is open, or nil if none is open
// now.
func (c *calls) none() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open > 0 && c.ended == nil {
		c.ended = make(chan struct{})
	}
	return c.ended
}

// settle waits until all open calls have been answered, for answerTimeout at most.
func (c *calls) settle() {
	none := c.none()
	if none == nil {
		return
	}
	select {
	case <-none:
		time.Sleep(answerDelay)
	case <-time.After(answerTimeout):
	}
}
