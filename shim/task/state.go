package task

import (
	"context"
	"os"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// The calls of this file are answered from the shim's own record: they do not ask the guest.

// State implements the Task API. It also tells of a task whose deletion nobody may have
// learned of.
func (s *Service) State(_ context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	c, p, err := s.process(r.ID, r.ExecID)
	if err != nil {
		if grave, found := s.tombstone(r.ID); found && r.ExecID == "" {
			return grave.state(r.ID), nil
		}
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	response := &taskapi.StateResponse{
		ID: r.ID, ExecID: r.ExecID, Bundle: c.bundle, Pid: c.taskPid, Status: c.statusOf(p),
		Stdin: p.config.Stdin, Stdout: p.config.Stdout, Stderr: p.config.Stderr, Terminal: p.config.Terminal,
	}
	if response.Status == tasktypes.Status_STOPPED {
		response.ExitStatus, response.ExitedAt = p.exit.status, timestamppb.New(p.exit.at)
	}
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
		return nil, context.Cause(ctx)
	}
}

// Pids implements the Task API: for each process that a client has started one entry with
// the task's pid. Processes that those have started have none on the host, and their ids in
// the guest would be those of others here.
func (s *Service) Pids(_ context.Context, r *taskapi.PidsRequest) (*taskapi.PidsResponse, error) {
	c, err := s.container(r.ID)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	response := new(taskapi.PidsResponse)
	for id, p := range c.processes {
		if id != "" && p.state != processRunning || p.hasExited() {
			continue
		}
		info := &tasktypes.ProcessInfo{Pid: c.taskPid}
		if id != "" {
			if info.Info, err = typeurl.MarshalAnyToProto(&options.ProcessDetails{ExecID: id}); err != nil {
				return nil, err
			}
		}
		response.Processes = append(response.Processes, info)
	}
	return response, nil
}

// Connect implements the Task API.
func (s *Service) Connect(_ context.Context, r *taskapi.ConnectRequest) (*taskapi.ConnectResponse, error) {
	response := &taskapi.ConnectResponse{ShimPid: uint32(os.Getpid())}
	if c, err := s.container(r.ID); err == nil {
		response.TaskPid = c.pid()
	}
	return response, nil
}

// Shutdown implements the Task API: the shim ends unless it has containers, or a sandbox
// that ShutdownSandbox is for. It comes after a Delete, but a second client's may come
// during the first's. A container that is still being created is given up: so a client
// asks who has lost interest in it.
func (s *Service) Shutdown(_ context.Context, r *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	c, _ := s.pod.Member(r.ID).(*container)
	if c == nil {
		s.shutdownIfIdle()
		return &emptypb.Empty{}, nil
	}
	if !c.isCreated() {
		c.cancel()
	}
	go func() {
		<-c.settled
		if c.takeRemoval(s.Context) == nil {
			<-c.removal
		}
		s.shutdownIfIdle()
	}()
	return &emptypb.Empty{}, nil
}

func (s *Service) shutdownIfIdle() {
	if !s.pod.Busy() {
		s.Life.Shutdown()
	}
}
