package task

import (
	"context"
	"fmt"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
	"github.com/msb-runtime/containerd-shim-msb/shim/stdio"
	"github.com/msb-runtime/containerd-shim-msb/shim/trace"
)

// metricsType is what Stats answers: io.containerd.cgroups.v2.Metrics.
const metricsType = "io.containerd.cgroups.v2.Metrics"

// Exec implements the Task API.
func (s *Service) Exec(ctx context.Context, r *taskapi.ExecProcessRequest) (_ *emptypb.Empty, err error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	process, err := spec.GuestProcess(r.Spec)
	if err != nil {
		return nil, err
	}
	p := newProcess(r.ExecID, stdio.Config{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal})
	s.mu.Lock()
	_, taken := c.processes[r.ExecID]
	if !taken {
		c.processes[r.ExecID] = p
	}
	s.mu.Unlock()
	if taken {
		return nil, fmt.Errorf("process %s of task %s: %w", r.ExecID, r.ID, errdefs.ErrAlreadyExists)
	}
	detached := context.WithoutCancel(ctx)
	defer func() {
		if err != nil {
			s.closeStdio(detached, p)
			s.forgetExec(c, p)
		}
	}()
	sb, err := s.guest()
	if err != nil {
		return nil, err
	}
	streams, err := stdio.Open(detached, sb, r.ExecID, p.config)
	if err != nil {
		return nil, err
	}
	p.streams.Store(streams)
	return forward(ctx, s, &taskapi.ExecProcessRequest{
		ID: r.ID, ExecID: r.ExecID, Terminal: r.Terminal, Spec: process,
		Stdin: streams.Stdin, Stdout: streams.Stdout, Stderr: streams.Stderr,
	}, taskapi.TTRPCTaskService.Exec)
}

func (s *Service) forgetExec(c *container, p *process) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(c.processes, p.execID)
}

// Start implements the Task API.
func (s *Service) Start(ctx context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	c, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	defer trace.Phase(ctx, "start")()
	if r.ExecID == "" {
		if err := s.syncNetwork(ctx); err != nil {
			return nil, err
		}
	}
	if _, err := forward(ctx, s, r, taskapi.TTRPCTaskService.Start); err != nil {
		return nil, err
	}
	s.mu.Lock()
	p.started = true
	s.mu.Unlock()
	if r.ExecID != "" {
		if err := p.streams.Load().StartInput(); err != nil {
			return nil, err
		}
	} else {
		s.startHooks(ctx, c)
	}
	return &taskapi.StartResponse{Pid: c.pid.Load()}, nil
}

// syncNetwork takes over what a client has put into the network namespace between
// create and start, so that it is there from the first instruction.
func (s *Service) syncNetwork(ctx context.Context) error {
	sb, err := s.guest()
	if err != nil {
		return err
	}
	return s.native(sb, sb.SyncNetwork(ctx))
}

// State implements the Task API. It still answers when the VM is gone.
func (s *Service) State(ctx context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	c, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	response, err := forward(ctx, s, r, taskapi.TTRPCTaskService.State)
	if err != nil {
		if !p.hasExited() {
			return nil, err
		}
		response = &taskapi.StateResponse{
			ID: r.ID, ExecID: r.ExecID, Status: tasktypes.Status_STOPPED,
			ExitStatus: p.exit.status, ExitedAt: timestamppb.New(p.exit.at),
		}
	}
	response.Bundle, response.Pid = c.bundle, c.pid.Load()
	response.Stdin, response.Stdout, response.Stderr = p.config.Stdin, p.config.Stdout, p.config.Stderr
	response.Terminal = p.config.Terminal
	return response, nil
}

// Wait implements the Task API.
func (s *Service) Wait(ctx context.Context, r *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	_, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	select {
	case <-p.exited:
		return &taskapi.WaitResponse{ExitStatus: p.exit.status, ExitedAt: timestamppb.New(p.exit.at)}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// Kill implements the Task API. SIGKILL of a container holds, whatever its guest
// makes of it.
func (s *Service) Kill(ctx context.Context, r *taskapi.KillRequest) (*emptypb.Empty, error) {
	_, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if p.hasExited() && !r.All {
		return nil, fmt.Errorf("process already finished: %w", errdefs.ErrNotFound)
	}
	if r.ExecID == "" && unix.Signal(r.Signal) == unix.SIGKILL {
		go s.enforceKill(p)
	}
	bounded, cancel := context.WithTimeout(ctx, guestPatience)
	defer cancel()
	response, err := forward(bounded, s, r, taskapi.TTRPCTaskService.Kill)
	if errdefs.IsUnavailable(err) && p.exitedWithin(deathNotice) {
		return nil, fmt.Errorf("process already finished, with its VM: %w", errdefs.ErrNotFound)
	}
	return response, err
}

// enforceKill ends the VM if a container that was killed does not end.
func (s *Service) enforceKill(p *process) {
	select {
	case <-p.exited:
	case <-s.ctx.Done():
	case <-time.After(guestPatience):
		s.endVM("the guest did not kill a container")
	}
}

// Pids implements the Task API.
func (s *Service) Pids(ctx context.Context, r *taskapi.PidsRequest) (*taskapi.PidsResponse, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	response, err := forward(ctx, s, r, taskapi.TTRPCTaskService.Pids)
	if err != nil {
		return nil, err
	}
	for _, info := range response.Processes {
		if info.Pid == c.guestPid {
			info.Pid = c.pid.Load()
		}
	}
	return response, nil
}

// Pause implements the Task API.
func (s *Service) Pause(ctx context.Context, r *taskapi.PauseRequest) (*emptypb.Empty, error) {
	if _, err := s.container(r.ID); err != nil {
		return nil, err
	}
	return forward(ctx, s, r, taskapi.TTRPCTaskService.Pause)
}

// Resume implements the Task API.
func (s *Service) Resume(ctx context.Context, r *taskapi.ResumeRequest) (*emptypb.Empty, error) {
	if _, err := s.container(r.ID); err != nil {
		return nil, err
	}
	return forward(ctx, s, r, taskapi.TTRPCTaskService.Resume)
}

// Checkpoint implements the Task API by saying that it cannot be had.
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
	return forward(ctx, s, r, taskapi.TTRPCTaskService.ResizePty)
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
	return forward(ctx, s, r, taskapi.TTRPCTaskService.CloseIO)
}

// Update implements the Task API. The VM keeps its size: within it, limits
// change. What the VM has on the host is not for one of a pod's containers to say.
func (s *Service) Update(ctx context.Context, r *taskapi.UpdateTaskRequest) (*emptypb.Empty, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	resources, err := spec.GuestUpdate(r.Resources)
	if err != nil {
		return nil, err
	}
	sb, err := s.guest()
	if err != nil {
		return nil, err
	}
	hostResources, err := spec.Resources(r.Resources)
	if err != nil {
		return nil, err
	}
	if err := sb.Size().Fits(hostResources); err != nil {
		return nil, err
	}
	if c.pod.ID == "" || c.pod.Sandbox {
		if err := sb.Update(hostResources); err != nil {
			return nil, err
		}
	}
	return forward(ctx, s, &taskapi.UpdateTaskRequest{ID: r.ID, Resources: resources, Annotations: r.Annotations}, taskapi.TTRPCTaskService.Update)
}

// Stats implements the Task API with the guest's control group of the container. A
// sandbox container stands for its pod: it has what the VM uses on the host.
func (s *Service) Stats(ctx context.Context, r *taskapi.StatsRequest) (*taskapi.StatsResponse, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	if c.pod.Sandbox {
		sb, err := s.guest()
		if err != nil {
			return nil, err
		}
		metrics, err := sb.Metrics()
		return &taskapi.StatsResponse{Stats: metrics}, err
	}
	response, err := forward(ctx, s, r, taskapi.TTRPCTaskService.Stats)
	if err != nil {
		return nil, err
	}
	// The guest chooses the bytes, but not what containerd takes them for.
	if response.Stats.GetTypeUrl() != metricsType {
		return nil, fmt.Errorf("task %s: the guest answered %q instead of cgroup v2 metrics: %w", r.ID, response.Stats.GetTypeUrl(), errdefs.ErrInternal)
	}
	return response, nil
}
