package task

import (
	"cmp"
	"context"
	"fmt"

	eventsapi "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/msb-runtime/containerd-shim-msb/shim/count"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
	"github.com/msb-runtime/containerd-shim-msb/shim/stdio"
	"github.com/msb-runtime/containerd-shim-msb/shim/trace"
)

// Exec implements the Task API.
func (s *Service) Exec(ctx context.Context, r *taskapi.ExecProcessRequest) (*emptypb.Empty, error) {
	c, sb, err := s.running(r.ID)
	if err != nil {
		return nil, err
	}
	process, err := c.plan.GuestProcess(r.Spec)
	if err != nil {
		return nil, err
	}
	identity, err := spec.ExecIdentity(r.Spec)
	if err != nil {
		return nil, err
	}
	p := newProcess(r.ExecID, s.streamsOf(r))
	p.state = processAdding
	if err := c.add(p); err != nil {
		return nil, err
	}
	c.identities.Add(identity)
	return toItsEnd(ctx, func(ctx context.Context) (*emptypb.Empty, error) {
		request := &taskapi.ExecProcessRequest{ID: r.ID, ExecID: r.ExecID, Terminal: r.Terminal, Spec: process}
		if err := c.exec(ctx, sb, p, request); err != nil {
			c.closeStdio(ctx, p)
			c.forget(p)
			return nil, err
		}
		if err := c.markAdded(p); err != nil {
			c.closeStdio(ctx, p)
			return nil, err
		}
		return &emptypb.Empty{}, nil
	})
}

// markAdded is the point from which on an exec is there, if its container still is.
func (c *container) markAdded(p *process) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.state != processAdding {
		return fmt.Errorf("task %s was deleted meanwhile: %w", c.id, errdefs.ErrNotFound)
	}
	p.state = processAdded
	c.service.Events.Publish(&eventsapi.TaskExecAdded{ContainerID: c.id, ExecID: p.execID})
	return nil
}

// exec opens an exec's streams and adds it in the guest, both at once: the guest uses the streams
// when it starts the exec.
func (c *container) exec(ctx context.Context, sb *sandbox.Sandbox, p *process, r *taskapi.ExecProcessRequest) error {
	streams, err := c.openStreams(ctx, p)
	if err != nil {
		return err
	}
	r.Stdin, r.Stdout, r.Stderr = streams.Stdin, streams.Stdout, streams.Stderr
	refused, err := p.connect(ctx, sb, streams, func() error { return sb.Guest.Exec(ctx, r) })
	if err != nil && refused == nil {
		if _, err := sb.Guest.Delete(ctx, &taskapi.DeleteRequest{ID: r.ID, ExecID: r.ExecID}); err != nil {
			log.G(ctx).WithError(err).WithField("exec", r.ExecID).Debug("undoing a failed exec")
		}
	}
	return cmp.Or(err, refused)
}

// openStreams opens the host's ends of an exec's streams, for as long as the container is there.
func (c *container) openStreams(ctx context.Context, p *process) (*stdio.Streams, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(c.life, stop)()
	streams, err := stdio.Open(ctx, p.execID, p.config)
	if err != nil {
		return nil, err
	}
	if err := context.Cause(c.life); err != nil {
		streams.Close()
		return nil, err
	}
	return streams, nil
}

// Start implements the Task API.
func (s *Service) Start(ctx context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	c, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	sb, err := s.pod.Sandbox()
	if err != nil {
		return nil, err
	}
	return toItsEnd(ctx, func(ctx context.Context) (*taskapi.StartResponse, error) {
		if err := c.start(ctx, sb, p, r); err != nil {
			return nil, err
		}
		return &taskapi.StartResponse{Pid: c.pid()}, nil
	})
}

// start starts a process. A client of one that does not start is not kept waiting for the
// end of its output.
func (c *container) start(ctx context.Context, sb *sandbox.Sandbox, p *process, r *taskapi.StartRequest) (err error) {
	ctx, phase := trace.Begin(ctx, "start")
	defer phase.End(&err)
	if err := c.beginStart(p); err != nil {
		return err
	}
	err = c.startInGuest(ctx, sb, p, r)
	c.endStart(p, err == nil)
	if err != nil && p.execID != "" {
		c.closeStdio(ctx, p)
	}
	if p.execID == "" {
		count.AddStart(c.vm, err == nil)
	}
	if err == nil && p.execID == "" {
		sb.Refill()
		err = c.startHooks(ctx, sb)
	}
	return err
}

// startInGuest starts a process there. What a client has put into the network namespace
// since the creation is there from the first instruction. An exec's input follows its
// start, that of init has been there since its creation.
func (c *container) startInGuest(ctx context.Context, sb *sandbox.Sandbox, p *process, r *taskapi.StartRequest) error {
	if p.execID == "" {
		if err := sb.SyncNetwork(ctx); err != nil {
			return err
		}
	}
	if err := sb.Guest.StartProcess(ctx, r); err != nil {
		return err
	}
	if p.execID != "" {
		p.startInput(ctx)
	}
	return nil
}

// startInput lets a process that runs have its input. If it cannot, its input ends.
func (p *process) startInput(ctx context.Context) {
	streams := p.streams.Load()
	if streams == nil {
		return
	}
	if err := streams.StartInput(); err != nil {
		log.G(ctx).WithError(err).WithField("exec", p.execID).Warn("the process has no standard input")
		streams.CloseStdin()
	}
}

// beginStart refuses to start what was started before, or is being deleted.
func (c *container) beginStart(p *process) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.state != processAdded {
		return fmt.Errorf("process %s of task %s was started or deleted before: %w", p.execID, c.id, errdefs.ErrFailedPrecondition)
	}
	p.state = processStarting
	return nil
}

// endStart notes how a start has ended, and what the guest told meanwhile.
func (c *container) endStart(p *process, started bool) {
	c.mu.Lock()
	early := c.takeEarly(p)
	if p.state == processStarting {
		p.state = processAdded
		if started {
			p.state = processRunning
			c.publishStart(p)
		}
	}
	lost := c.lost && started
	c.mu.Unlock()
	switch {
	case early != nil && (started || p.execID == ""):
		c.record(p, early.status)
	case lost:
		c.record(p, sandbox.ExitKilled)
	}
}

// takeEarly is what the guest has told of a process before the answer to its start, once.
// The caller holds c.mu.
func (c *container) takeEarly(p *process) *told {
	early := p.early
	p.early = nil
	if early == nil || !c.isAbout(p, *early) {
		return nil
	}
	return early
}

// publishStart tells containerd. The caller holds c.mu.
func (c *container) publishStart(p *process) {
	if p.execID == "" {
		c.service.Events.Publish(&eventsapi.TaskStart{ContainerID: c.id, Pid: c.taskPid})
		return
	}
	c.service.Events.Publish(&eventsapi.TaskExecStarted{ContainerID: c.id, ExecID: p.execID, Pid: c.taskPid})
}
