package task

import (
	"context"
	"fmt"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/trace"
)

// Delete implements the Task API. All output has been handed over when it returns, or
// nobody takes it. With the owner of a VM the VM goes. A deletion that has begun goes to
// its end, whether or not its client stays.
func (s *Service) Delete(ctx context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	if err := s.giveUpCreation(ctx, r.ID); err != nil {
		return nil, err
	}
	c, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		if grave, found := s.tombstone(r.ID); found && r.ExecID == "" {
			return grave.response(), nil
		}
		return nil, err
	}
	return toItsEnd(ctx, func(ctx context.Context) (*taskapi.DeleteResponse, error) {
		if r.ExecID != "" {
			return s.deleteExec(ctx, c, p)
		}
		return s.deleteContainer(ctx, c)
	})
}

// giveUpCreation ends the creation of a container that is to be deleted, and waits for that.
func (s *Service) giveUpCreation(ctx context.Context, id string) error {
	c, _ := s.pod.Member(id).(*container)
	if c == nil || c.isCreated() {
		return nil
	}
	c.cancel()
	bounded, cancel := s.boundDeletion(ctx, 0)
	defer cancel()
	// In a pod the guest first does what it was asked to do, and undoes it.
	return s.insist(ctx, bounded, c, "the end of the creation of container "+c.id, c.awaitSettled)
}

// deleteExec deletes an exec.
func (s *Service) deleteExec(ctx context.Context, c *container, p *process) (*taskapi.DeleteResponse, error) {
	drain(ctx, p) // a client that does not read holds up this deletion, and no other
	bounded, cancel := s.boundDeletion(ctx, 0)
	defer cancel()
	// Others may be being deleted by the guest: all of them have that time together.
	if err := s.insist(ctx, bounded, c, "the deletion of "+c.describe(p), c.takeRemoval); err != nil {
		return nil, err
	}
	defer func() { <-c.removal }()
	if c.process(p.execID) != p {
		return nil, fmt.Errorf("process %s of task %s: %w", p.execID, c.id, errdefs.ErrNotFound)
	}
	status, err := s.deleteInGuest(bounded, c, p)
	if err != nil {
		return nil, err
	}
	c.record(p, status) // of one that was never started: who waits for it learns of its end
	c.endExec(bounded, p)
	c.forget(p)
	return c.deleteResponse(p, status), nil
}

// endExec ends a deleted exec's streams. The guest's task service has let go of its ends, so those of the
// agent go with the host's; but not of a terminal's input (CopyConsole of containerd's shim for runc),
// which the agent may be about to write to.
func (c *container) endExec(ctx context.Context, p *process) {
	if p.config.Terminal {
		c.closeStdio(ctx, p)
	} else {
		endStreams(p)
	}
}

// boundDeletion is for all that the guest has to do for a deletion. What it has used of its
// time before, for the kill, is taken off: a client waits for both. A third is left, for a
// guest that is only slow.
func (s *Service) boundDeletion(ctx context.Context, used time.Duration) (context.Context, context.CancelFunc) {
	place := s.pod.Place()
	if place == nil {
		return context.WithCancel(ctx) // there is no guest any more
	}
	prompt := place.Budgets().Prompt
	return context.WithTimeout(ctx, max(prompt-used, prompt/3))
}

// leastEnd is what the members of a pod have at least for their end.
const leastEnd = time.Second

// boundEnd is for the end of a pod, when its owner has been deleted in time that bounded
// bounds.
func boundEnd(ctx, bounded context.Context) (context.Context, context.CancelFunc) {
	deadline, ok := bounded.Deadline()
	if !ok {
		return context.WithCancel(ctx)
	}
	return context.WithTimeout(ctx, max(time.Until(deadline), leastEnd))
}

// insist waits for something of a container within a deletion's time. A guest that holds it up
// for longer loses its VM, after which nothing holds it up but poststop hooks, which are the
// host's and no guest's fault.
func (s *Service) insist(ctx, bounded context.Context, c *container, what string, wait func(context.Context) error) error {
	if wait(bounded) == nil {
		return nil
	}
	if ctx.Err() == nil && !c.left.Load() {
		s.endHeldUp(what)
	}
	return wait(ctx)
}

// endHeldUp ends the VM of a guest that has held something up for too long.
func (s *Service) endHeldUp(what string) {
	if sb, err := s.pod.Sandbox(); err == nil {
		sb.End(fmt.Errorf("the guest held up %s: %w", what, errdefs.ErrUnavailable))
	}
}

// deleteContainer deletes a container. From its deletion in the guest on there is no way
// back: what fails then is told in the log.
func (s *Service) deleteContainer(ctx context.Context, c *container) (*taskapi.DeleteResponse, error) {
	bounded, cancel := s.boundDeletion(ctx, c.killTook())
	defer cancel()
	// An exec may be being deleted.
	if err := s.insist(ctx, bounded, c, "the deletion of task "+c.id, c.takeRemoval); err != nil {
		return nil, err
	}
	defer func() { <-c.removal }()
	if s.pod.Member(c.id) != c {
		if grave, found := s.tombstone(c.id); found {
			return grave.response(), nil
		}
		return nil, fmt.Errorf("task %s: %w", c.id, errdefs.ErrNotFound)
	}
	init := c.init()
	drain(bounded, init)
	status, err := s.deleteInGuest(bounded, c, init)
	if err != nil {
		return nil, err
	}
	c.record(init, status) // of one that was never started
	s.removeContainer(ctx, bounded, c)
	response := c.deleteResponse(init, status)
	s.bury(c, response)
	s.Events.Publish(&eventsapi.TaskDelete{
		ContainerID: c.id, Pid: response.Pid, ExitStatus: response.ExitStatus, ExitedAt: response.ExitedAt,
	})
	ending, cancel := boundEnd(ctx, bounded)
	defer cancel()
	ending, leaving := trace.Begin(ending, "leave")
	defer leaving.End(nil)
	if err := s.pod.Leave(ending, c.id); err != nil {
		log.G(ctx).WithError(err).WithField("id", c.id).Error("the task is deleted, but cleaning up after its VM failed")
	}
	c.left.Store(true)
	c.stopHooks(ctx)
	return response, nil
}

// deleteResponse is the answer to a deletion, from the shim's record. The guest's status is
// that of a process without one: it was never started.
func (c *container) deleteResponse(p *process, status uint32) *taskapi.DeleteResponse {
	response := &taskapi.DeleteResponse{Pid: c.pid(), ExitStatus: status, ExitedAt: timestamppb.Now()}
	if p.hasExited() {
		response.ExitStatus, response.ExitedAt = p.exit.status, timestamppb.New(p.exit.at)
	}
	return response
}

// drain lets all output of a process that has ended through.
func drain(ctx context.Context, p *process) {
	if streams := p.streams.Load(); p.hasExited() && streams != nil {
		ctx, draining := trace.Begin(ctx, "drain")
		streams.Drain(ctx)
		draining.End(nil)
	}
}

// deleteInGuest deletes a process in the guest, or does without when the VM is gone. A guest that does not delete what it has said to have ended, or what
// never started, loses its VM. It returns the exit status that the guest tells.
func (s *Service) deleteInGuest(ctx context.Context, c *container, p *process) (_ uint32, err error) {
	if err := c.mayDelete(p); err != nil && !s.endedWithVM(p) {
		return 0, err
	}
	ctx, phase := trace.Begin(ctx, "delete in the guest")
	defer phase.End(&err)
	sb, err := s.pod.Sandbox()
	if err != nil {
		p.exitedWithin(deathNotice)
		return sandbox.ExitKilled, nil
	}
	status, err := sb.Guest.Delete(ctx, &taskapi.DeleteRequest{ID: c.id, ExecID: p.execID})
	if err == nil || errdefs.IsNotFound(err) {
		return exitStatus(status), nil
	}
	sb.End(fmt.Errorf("the guest did not delete %s: %w", c.describe(p), err))
	select {
	case <-sb.Done():
	case <-time.After(endNotice):
	}
	p.exitedWithin(deathNotice)
	return sandbox.ExitKilled, nil
}

// mayDelete refuses to delete what runs. What was not started is not started any more: a
// guest that were asked for both would not delete what it has started, and lose its VM.
func (c *container) mayDelete(p *process) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if p.state == processAdded {
		p.state = processDeleting
	}
	if p.hasExited() || c.lost || p.state == processDeleting {
		return nil
	}
	return fmt.Errorf("%s runs: end it before: %w", c.describe(p), errdefs.ErrFailedPrecondition)
}

// endedWithVM tells whether a process has ended with its VM. Members learn of the VM's end
// one after the other, a moment later.
func (s *Service) endedWithVM(p *process) bool {
	_, err := s.pod.Sandbox()
	return err != nil && p.exitedWithin(deathNotice)
}

func (c *container) describe(p *process) string {
	if p.execID == "" {
		return "task " + c.id
	}
	return fmt.Sprintf("process %s of task %s", p.execID, c.id)
}

// removeContainer takes away what the container was given. bounded is what is left of the
// guest's time.
func (s *Service) removeContainer(ctx, bounded context.Context, c *container) {
	bounded, phase := trace.Begin(bounded, "remove")
	defer phase.End(nil)
	c.remove()
	if sb, err := s.pod.Sandbox(); err == nil {
		c.removeBundle(bounded, sb)
	}
	if err := c.detach(s.pod.Place()); err != nil {
		log.G(ctx).WithError(err).WithField("id", c.id).Error("taking back what the container had of the host")
	}
	execs := c.execs()
	all := append([]*process{c.init()}, execs...)
	if c.joins() {
		c.closeStdio(bounded, all...)
	} else {
		endStreams(all...) // the guest's ends go with its VM
	}
	for _, p := range execs {
		c.record(p, sandbox.ExitKilled)
	}
}

// End implements pod.Member.
func (c *container) End(ctx context.Context) {
	if !c.isCreated() {
		c.cancel()
		return
	}
	if c.takeRemoval(ctx) != nil {
		return // whoever deletes it goes on when the VM has ended
	}
	defer func() { <-c.removal }()
	if c.service.pod.Member(c.id) != c {
		return
	}
	if sb, err := c.service.pod.Sandbox(); err == nil {
		c.endInGuest(ctx, sb)
	}
	if err := c.detach(c.service.pod.Place()); err != nil {
		log.G(ctx).WithError(err).WithField("id", c.id).Error("taking back what the container had of the host")
	}
}

// endInGuest kills a container there, and lets its data be written back.
func (c *container) endInGuest(ctx context.Context, sb *sandbox.Sandbox) {
	if init := c.init(); !init.hasExited() {
		if err := sb.Guest.Kill(ctx, &taskapi.KillRequest{ID: c.id, Signal: sigkill, All: true}); err != nil {
			log.G(ctx).WithError(err).WithField("id", c.id).Debug("killing a container with its pod")
		}
		select {
		case <-init.exited:
		case <-sb.Done():
		case <-ctx.Done():
			return
		}
	}
	c.removeBundle(ctx, sb)
}
