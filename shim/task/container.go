package task

import (
	"context"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"

	"github.com/msb-runtime/containerd-shim-msb/internal/flood"
	"github.com/msb-runtime/containerd-shim-msb/shim/count"
	"github.com/msb-runtime/containerd-shim-msb/shim/events"
	"github.com/msb-runtime/containerd-shim-msb/shim/pod"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/socket"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
)

// container is a task of this shim, and a member of its pod.
type container struct {
	service  *Service
	id       string
	bundle   string
	rootfs   []*types.Mount
	plan     *spec.Plan
	of       spec.Pod    // that it is part of
	attached attachments // what its VM has of the host for it; its creator's and its deleter's
	vm       count.VM    // how it came to its VM; its creator's, and unchanged from then on

	identities *socket.Identities // who its processes may be; set by its creator
	inGuest    chan struct{}      // closed when the guest has created it

	life    context.Context // ends with its deletion
	end     context.CancelCauseFunc
	cancel  context.CancelFunc // ends its creation
	settled chan struct{}      // closed when its creation is over, however
	removal chan struct{}      // has room for one: who ends or deletes it
	left    atomic.Bool        // it has left its pod: what is still done for it, its hooks, the guest has no part in
	oom     *flood.Gate        // of events that memory ran out; the guest's events come one at a time

	mu         sync.Mutex
	created    bool                // the guest has it; guarded by mu
	paused     bool                // guarded by mu
	lost       bool                // its VM has ended; guarded by mu
	killed     time.Time           // when somebody began to see to it that a kill holds; guarded by mu
	killWaited time.Duration       // for the guest's answer to a SIGKILL, at most; guarded by mu
	removed    bool                // it is being taken away, and has no new processes; guarded by mu
	stand      sandbox.Process     // the placeholder; nil before and after; guarded by mu
	taskPid    uint32              // of that, also after its end; guarded by mu
	missed     string              // that warnMissed has told; guarded by mu
	guestPid   uint32              // of init, in the guest; guarded by mu
	processes  map[string]*process // by exec id, "" is init; guarded by mu
}

var _ pod.Member = (*container)(nil)

func newContainer(s *Service, r *taskapi.CreateTaskRequest, cancel context.CancelFunc) *container {
	life, end := context.WithCancelCause(context.Background())
	return &container{
		life: life, end: end,
		service: s, id: r.ID, bundle: r.Bundle, rootfs: r.Rootfs,
		cancel: cancel, settled: make(chan struct{}), inGuest: make(chan struct{}), removal: make(chan struct{}, 1), oom: events.NewGate(),
		processes: map[string]*process{"": newProcess("", s.streamsOf(r))},
	}
}

func (c *container) isCreated() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.created
}

// pid is the task's, on the host.
func (c *container) pid() uint32 {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.taskPid
}

// process finds one; nil if there is none, or none yet. init's id is empty.
func (c *container) process(execID string) *process {
	c.mu.Lock()
	defer c.mu.Unlock()
	p := c.processes[execID]
	if p != nil && p.state == processAdding {
		return nil
	}
	return p
}

func (c *container) init() *process { return c.process("") }

// execs are the processes beside init.
func (c *container) execs() (execs []*process) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for id, p := range c.processes {
		if id != "" {
			execs = append(execs, p)
		}
	}
	return execs
}

// add takes an exec's id.
func (c *container) add(p *process) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.removed {
		return fmt.Errorf("task %s, which is being deleted: %w", c.id, errdefs.ErrNotFound)
	}
	// Events call init by the container's id.
	if p.execID == "" || p.execID == c.id || c.processes[p.execID] != nil {
		return fmt.Errorf("process %q of task %s: %w", p.execID, c.id, errdefs.ErrAlreadyExists)
	}
	c.processes[p.execID] = p
	return nil
}

// remove ends the container's transfers, and lets no execs come any more.
func (c *container) remove() {
	c.end(c.errDeleted())
	c.mu.Lock()
	defer c.mu.Unlock()
	c.removed = true
}

func (c *container) forget(p *process) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.processes, p.execID)
}

// awaitSettled waits until the creation is over.
func (c *container) awaitSettled(ctx context.Context) error {
	select {
	case <-c.settled:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// takeRemoval is for who ends or deletes the container: one at a time. The caller gives it
// back with <-c.removal.
func (c *container) takeRemoval(ctx context.Context) error {
	select {
	case c.removal <- struct{}{}:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
