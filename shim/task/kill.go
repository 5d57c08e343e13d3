package task

import (
	"context"
	"fmt"
	"slices"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
)

// Kill implements the Task API. SIGKILL of a container holds, whatever its guest makes of
// it.
func (s *Service) Kill(ctx context.Context, r *taskapi.KillRequest) (*emptypb.Empty, error) {
	c, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if p.hasExited() && !r.All {
		return nil, fmt.Errorf("process already finished: %w", errdefs.ErrNotFound)
	}
	if c.endsBeforeStart(p, unix.Signal(r.Signal)) {
		r = &taskapi.KillRequest{ID: r.ID, Signal: sigkill, All: r.All}
	}
	sb, err := s.pod.Sandbox()
	if err == nil {
		if r.ExecID == "" && unix.Signal(r.Signal) == unix.SIGKILL {
			err = c.killInit(ctx, sb, r)
		} else {
			err = sb.Guest.Kill(ctx, r)
		}
		if err == nil {
			return &emptypb.Empty{}, nil
		}
	}
	switch {
	case errdefs.IsUnavailable(err) && p.exitedWithin(deathNotice):
		return nil, fmt.Errorf("process already finished, with its VM: %w", errdefs.ErrNotFound)
	case p.hasExited() && ctx.Err() == nil:
		// The guest may have begun to take the container away.
		return nil, fmt.Errorf("process already finished (%v): %w", err, errdefs.ErrNotFound)
	}
	return nil, err
}

// endsBeforeStart tells a signal that ends a container which was not started. What it is for is then
// the guest's runtime, which as the first process of a PID namespace ignores what it does not handle
// (pid_namespaces(7)); runc's handles these, and ends. In a namespace of others it is not the first, and the
// signal does what it does.
func (c *container) endsBeforeStart(p *process, signal unix.Signal) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	_, joins := c.plan.Joins()[specs.PIDNamespace]
	return !joins && p.execID == "" && p.state == processAdded && slices.Contains([]unix.Signal{unix.SIGHUP, unix.SIGINT, unix.SIGQUIT, unix.SIGABRT, unix.SIGTERM}, signal)
}

// killInit kills a container: in the guest, or with its VM if the guest refuses.
func (c *container) killInit(ctx context.Context, sb *sandbox.Sandbox, r *taskapi.KillRequest) error {
	began := time.Now()
	defer func() { c.noteKill(time.Since(began)) }()
	init := c.init()
	if init.hasExited() {
		return sb.Guest.Kill(ctx, r) // what else is in the container
	}
	c.enforceKill(sb)
	err := sb.Guest.Kill(ctx, r)
	if err == nil || errdefs.IsNotFound(err) || ctx.Err() != nil {
		return err
	}
	sb.End(fmt.Errorf("the guest did not kill container %s: %w", c.id, err))
	if init.exitedWithin(endNotice) {
		return nil
	}
	return err
}

// noteKill notes how long a client has waited for the container's SIGKILL.
func (c *container) noteKill(took time.Duration) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.killWaited = max(c.killWaited, took)
}

// killTook is how long the guest took to end the container, if it was killed, or to answer that:
// it is taken off the time for its deletion.
func (c *container) killTook() time.Duration {
	c.mu.Lock()
	defer c.mu.Unlock()
	took := c.killWaited
	if init := c.processes[""]; !c.killed.IsZero() && init.hasExited() {
		took = max(took, init.exit.at.Sub(c.killed))
	}
	return took
}

// enforceKill ends the VM if a container that was killed does not end.
func (c *container) enforceKill(sb *sandbox.Sandbox) {
	c.mu.Lock()
	enforced := !c.killed.IsZero()
	if !enforced {
		c.killed = time.Now()
	}
	init := c.processes[""]
	c.mu.Unlock()
	if enforced {
		return
	}
	go func() {
		select {
		case <-init.exited:
		case <-sb.Done():
		case <-time.After(sb.Budgets().Prompt):
			sb.End(fmt.Errorf("the guest did not end container %s within %v of its SIGKILL: %w", c.id, sb.Budgets().Prompt, errdefs.ErrUnavailable))
		}
	}()
}
