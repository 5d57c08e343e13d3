// Package task serves containerd's Task API for the containers of one microVM. It runs no
// container itself: the guest runs containerd's own task service for runc, and what a call
// asks for is translated (paths, streams, process ids) and asked of the guest.
//
// The host decides: which containers and processes there are, what state they are in and
// how they ended is this package's own record (container, process), from which containerd
// is answered. The guest is asked to do things, and tells when a process has ended. Its
// every call has an end (shim/guest), and a guest that does not kill or delete what it
// must loses its VM.
//
// Process ids. To the host a task is its placeholder, a process without rights that stands
// for the container. Its id is that of the task and of every process in it, in answers and
// in events: a process id of the guest would be that of some other process on the host.
package task

import (
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/msb-runtime/containerd-shim-msb/shim/config"
	"github.com/msb-runtime/containerd-shim-msb/shim/events"
	"github.com/msb-runtime/containerd-shim-msb/shim/hook"
	"github.com/msb-runtime/containerd-shim-msb/shim/pod"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/trace"
)

const (
	// deathNotice is how long a call whose VM broke waits for its exits to be recorded.
	deathNotice = time.Second
	// endNotice is how long a call that has ended the VM waits for the same.
	endNotice = 10 * time.Second
)

// IdleGrace is how long a shim without a VM and without containers waits for its client
// to end it. Then it ends by itself: the client has gone.
const IdleGrace = 30 * time.Second

// A Shim is what the services of a shim have in common.
type Shim struct {
	// Context carries namespace and logger, and ends with the shim.
	Context context.Context
	// Life ends the shim.
	Life shutdown.Service
	// Events go to containerd.
	Events *events.Queue
	// Hooks runs containers' hooks.
	Hooks hook.Runner
	// Began is when containerd started the shim.
	Began time.Time
	// Idle is how long the shim waits for its end when nobody needs it.
	Idle time.Duration
	// ClientsTurn is how long a process waits for its client to open its ends of FIFOs for output.
	ClientsTurn time.Duration
	// Platform is what VMs are made with, by configuration.
	Platform func(config.Config) sandbox.Platform
}

// Service is the Task API of one shim.
type Service struct {
	Shim
	pod *pod.Pod

	firstCreate sync.Once

	mu      sync.Mutex
	deleted map[string]tombstone // by container id; guarded by mu
}

// New returns the service, and the pod of which its containers are members.
func New(shim Shim) (*Service, *pod.Pod) {
	s := &Service{Shim: shim, deleted: make(map[string]tombstone)}
	s.pod = pod.Open(shim.Context, pod.Make{Follow: s.follow, Empty: s.endWhenIdle})
	// A client that is gone before its first call ends nothing, either.
	time.AfterFunc(2*s.Idle, s.shutdownIfIdle)
	return s, s.pod
}

// endWhenIdle ends a shim that nobody needs and nobody ends.
func (s *Service) endWhenIdle() {
	time.AfterFunc(s.Idle, func() {
		s.shutdownIfIdle()
	})
}

// traceStart tells how long it took from containerd's start of the shim to its first call.
func (s *Service) traceStart(ctx context.Context) {
	s.firstCreate.Do(func() { trace.Since(ctx, "shim start", s.Began) })
}

// container finds a task that has been created.
func (s *Service) container(id string) (*container, error) {
	c, _ := s.pod.Member(id).(*container)
	if c == nil || !c.isCreated() {
		return nil, fmt.Errorf("task %s: %w", id, errdefs.ErrNotFound)
	}
	return c, nil
}

// process finds a process of a task that has been created.
func (s *Service) process(id, execID string) (*container, *process, error) {
	c, err := s.container(id)
	if err != nil {
		return nil, nil, err
	}
	p := c.process(execID)
	if p == nil {
		return nil, nil, fmt.Errorf("process %s of task %s: %w", execID, id, errdefs.ErrNotFound)
	}
	return c, p, nil
}

// running finds a task and its running VM.
func (s *Service) running(id string) (*container, *sandbox.Sandbox, error) {
	c, err := s.container(id)
	if err != nil {
		return nil, nil, err
	}
	sb, err := s.pod.Sandbox()
	return c, sb, err
}

// toItsEnd does work that goes on when its caller leaves: what has begun in the guest is
// not left half done.
func toItsEnd[R any](ctx context.Context, work func(context.Context) (R, error)) (result R, err error) {
	done := make(chan struct{})
	var have R
	var failed error
	go func() {
		defer close(done)
		have, failed = work(context.WithoutCancel(ctx))
	}()
	select {
	case <-done:
		return have, failed
	case <-ctx.Done():
		log.G(ctx).Debug("a client has left before its call was done")
		return result, context.Cause(ctx)
	}
}
