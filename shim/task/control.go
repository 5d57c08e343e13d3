package task

import (
	"context"
	"fmt"
	"strings"

	eventsapi "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
)

// Pause implements the Task API.
func (s *Service) Pause(ctx context.Context, r *taskapi.PauseRequest) (*emptypb.Empty, error) {
	c, sb, err := s.running(r.ID)
	if err != nil {
		return nil, err
	}
	return toItsEnd(ctx, func(ctx context.Context) (*emptypb.Empty, error) {
		if err := sb.Guest.Pause(ctx, r); err != nil {
			return nil, err
		}
		c.setPaused(true, &eventsapi.TaskPaused{ContainerID: r.ID})
		return &emptypb.Empty{}, nil
	})
}

// Resume implements the Task API.
func (s *Service) Resume(ctx context.Context, r *taskapi.ResumeRequest) (*emptypb.Empty, error) {
	c, sb, err := s.running(r.ID)
	if err != nil {
		return nil, err
	}
	return toItsEnd(ctx, func(ctx context.Context) (*emptypb.Empty, error) {
		if err := sb.Guest.Resume(ctx, r); err != nil {
			return nil, err
		}
		c.setPaused(false, &eventsapi.TaskResumed{ContainerID: r.ID})
		return &emptypb.Empty{}, nil
	})
}

// setPaused notes that a container was paused or resumed, and tells containerd.
func (c *container) setPaused(paused bool, event any) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.paused = paused
	c.service.Events.Publish(event)
}

// Checkpoint implements the Task API by saying that it is not supported.
func (s *Service) Checkpoint(_ context.Context, r *taskapi.CheckpointTaskRequest) (*emptypb.Empty, error) {
	if _, err := s.container(r.ID); err != nil {
		return nil, err
	}
	return nil, fmt.Errorf("task %s: msb cannot checkpoint a VM: %w", r.ID, errdefs.ErrNotImplemented)
}

// ResizePty implements the Task API.
func (s *Service) ResizePty(ctx context.Context, r *taskapi.ResizePtyRequest) (*emptypb.Empty, error) {
	if _, _, err := s.process(r.ID, r.ExecID); err != nil {
		return nil, err
	}
	return s.ask(func(sb *sandbox.Sandbox) error { return sb.Guest.ResizePty(ctx, r) })
}

// CloseIO implements the Task API.
func (s *Service) CloseIO(ctx context.Context, r *taskapi.CloseIORequest) (*emptypb.Empty, error) {
	_, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if streams := p.streams.Load(); r.Stdin && streams != nil {
		streams.CloseStdin()
	}
	return s.ask(func(sb *sandbox.Sandbox) error { return sb.Guest.CloseIO(ctx, r) })
}

// Update implements the Task API. The VM keeps its size: within it, limits
// change. What the VM has on the host is not for one of a pod's containers to say.
func (s *Service) Update(ctx context.Context, r *taskapi.UpdateTaskRequest) (*emptypb.Empty, error) {
	c, sb, err := s.running(r.ID)
	if err != nil {
		return nil, err
	}
	owns := c.of.ID == "" || c.of.Sandbox
	resources, limits, err := spec.Update(r.Resources, owns)
	if err != nil {
		return nil, err
	}
	if err := sb.Size().Fits(limits.Host); err != nil {
		return nil, err
	}
	if owns {
		if err := sb.Update(limits.Host); err != nil {
			return nil, err
		}
	}
	c.warnMissed(ctx, limits.Missed)
	return s.ask(func(sb *sandbox.Sandbox) error {
		return sb.Guest.Update(ctx, &taskapi.UpdateTaskRequest{ID: r.ID, Resources: resources, Annotations: r.Annotations})
	})
}

// warnMissed tells in the log, in one line, what was asked for and nobody keeps. A client that
// asks for the same again and again, as the kubelet does, is told once.
func (c *container) warnMissed(ctx context.Context, missed []string) {
	text := strings.Join(missed, "; ")
	c.mu.Lock()
	known := text == c.missed
	c.missed = text
	c.mu.Unlock()
	if text != "" && !known {
		log.G(ctx).WithField("id", c.id).Warnf("the container goes without what it asks for here: %s", text)
	}
}

// ask has the guest do something that has no answer.
func (s *Service) ask(do func(*sandbox.Sandbox) error) (*emptypb.Empty, error) {
	sb, err := s.pod.Sandbox()
	if err == nil {
		err = do(sb)
	}
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

// Stats implements the Task API with the guest's control group of the container. A
// sandbox container stands for its pod: it has what the VM uses on the host. Where there are
// none the error is of the class that containerd passes over, as with runc when a control
// group is gone: it asks for those of all tasks at a time.
func (s *Service) Stats(ctx context.Context, r *taskapi.StatsRequest) (*taskapi.StatsResponse, error) {
	c, sb, err := s.running(r.ID)
	if err == nil {
		var metrics *anypb.Any
		if metrics, err = c.metrics(ctx, sb); err == nil {
			return &taskapi.StatsResponse{Stats: metrics}, nil
		}
	}
	if errdefs.IsNotFound(err) {
		return nil, err
	}
	return nil, fmt.Errorf("task %s has no metrics: %v: %w", r.ID, err, errdefs.ErrNotFound)
}

func (c *container) metrics(ctx context.Context, sb *sandbox.Sandbox) (*anypb.Any, error) {
	if c.of.Sandbox {
		return sb.Metrics()
	}
	return sb.Guest.Stats(ctx, c.id)
}
