package task

import (
	"context"
	"errors"
	"fmt"
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/msb-runtime/containerd-shim-msb/shim/trace"
)

// Delete implements the Task API. All output has been handed over when it
// returns, or nobody takes it. With the last container the VM goes.
func (s *Service) Delete(ctx context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	if r.ExecID == "" {
		c.deletion.Lock()
		defer c.deletion.Unlock()
	}
	c, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if streams := p.streams.Load(); p.hasExited() && streams != nil {
		drained := trace.Phase(ctx, "drain")
		streams.Drain(ctx)
		drained()
	}
	response, err := s.deleteInGuest(ctx, r, c, p)
	if err != nil {
		return nil, err
	}
	response.Pid = c.pid.Load()
	detached := context.WithoutCancel(ctx)
	s.closeStdio(detached, p)
	if r.ExecID != "" {
		s.forgetExec(c, p)
		return response, nil
	}
	return response, s.removeContainer(detached, c)
}

// deleteInGuest deletes the process there, or does without when the VM is gone.
func (s *Service) deleteInGuest(ctx context.Context, r *taskapi.DeleteRequest, c *container, p *process) (*taskapi.DeleteResponse, error) {
	defer trace.Phase(ctx, "delete in the guest")()
	bounded, cancel := context.WithTimeout(ctx, guestPatience)
	defer cancel()
	response, err := forward(bounded, s, r, taskapi.TTRPCTaskService.Delete)
	if err != nil && bounded.Err() != nil && ctx.Err() == nil {
		s.endVM("the guest did not delete a container")
		err = fmt.Errorf("the guest did not answer: %w", errdefs.ErrUnavailable)
	}
	switch {
	case err == nil:
		if r.ExecID == "" {
			s.awaitDeleted(ctx, c)
		}
		return response, nil
	case !errdefs.IsUnavailable(err):
		return nil, err
	}
	// The exits are recorded as soon as the end of the VM is known.
	select {
	case <-p.exited:
	case <-time.After(deathNotice):
		if p.started || r.ExecID == "" {
			return nil, err
		}
	}
	response = &taskapi.DeleteResponse{ExitStatus: p.exit.status, ExitedAt: timestamppb.New(p.exit.at)}
	if r.ExecID == "" {
		s.publish(&eventsapi.TaskDelete{
			ContainerID: r.ID, Pid: c.pid.Load(), ExitStatus: response.ExitStatus, ExitedAt: response.ExitedAt,
		})
	}
	return response, nil
}

// awaitDeleted waits until the guest's event of the deletion has gone out, since
// the VM that sends it may end next.
func (s *Service) awaitDeleted(ctx context.Context, c *container) {
	select {
	case <-c.deleted:
	case <-time.After(eventGrace):
		log.G(ctx).WithField("id", c.id).Warn("the guest sent no event of the deletion")
	}
}

// removeContainer takes away what the container was given.
func (s *Service) removeContainer(ctx context.Context, c *container) error {
	defer trace.Phase(ctx, "remove")()
	var errs []error
	s.mu.Lock()
	sb := s.sandbox
	s.mu.Unlock()
	if sb != nil {
		if sb.Running() {
			bounded, cancel := context.WithTimeout(ctx, guestPatience)
			errs = append(errs, s.removeBundle(bounded, sb, c))
			cancel()
		}
		errs = append(errs, s.unshare(sb, c))
	}
	s.closeExecs(ctx, c)
	s.forget(c)
	if c.pod.Sandbox {
		errs = append(errs, s.endPod(ctx)) // it holds the pod's namespaces, and its bundle the shares
	}
	errs = append(errs, s.closeIfIdle())
	s.stopHooks(ctx, c)
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("task %s is deleted, but cleaning up after it failed: %w", c.id, err)
	}
	return nil
}

// closeExecs closes the streams of execs that nobody deleted.
func (s *Service) closeExecs(ctx context.Context, c *container) {
	s.mu.Lock()
	var rest []*process
	for id, p := range c.processes {
		if id != "" {
			rest = append(rest, p)
		}
	}
	s.mu.Unlock()
	for _, p := range rest {
		s.closeStdio(ctx, p)
	}
}
