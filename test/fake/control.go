package fake

import (
	"context"
	"errors"
	"fmt"

	cgroupsapi "github.com/containerd/cgroups/v3/cgroup2/stats"
	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/emptypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	eventsapi "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	tasktypes "github.com/containerd/containerd/api/types/task"
)

// taskService is the table of containerd's task service.
func (a *Agent) taskService() *ttrpc.ServiceDesc {
	t := a.tasks
	return &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"State":      method(a, "Task.State", t.state),
		"Create":     method(a, "Task.Create", t.create),
		"Start":      method(a, "Task.Start", t.start),
		"Delete":     method(a, "Task.Delete", t.delete),
		"Pids":       method(a, "Task.Pids", t.pids),
		"Pause":      method(a, "Task.Pause", t.pause),
		"Resume":     method(a, "Task.Resume", t.resume),
		"Checkpoint": method(a, "Task.Checkpoint", t.checkpoint),
		"Kill":       method(a, "Task.Kill", t.kill),
		"Exec":       method(a, "Task.Exec", t.exec),
		"ResizePty":  method(a, "Task.ResizePty", t.resize),
		"CloseIO":    method(a, "Task.CloseIO", t.closeIO),
		"Update":     method(a, "Task.Update", t.update),
		"Wait":       method(a, "Task.Wait", t.wait),
		"Stats":      method(a, "Task.Stats", t.stats),
		"Connect":    method(a, "Task.Connect", t.connect),
		"Shutdown":   method(a, "Task.Shutdown", t.shutdown),
	}}
}

// Exit lets a process end by itself with a status; execID "" is the container's init.
func (a *Agent) Exit(id, execID string, status uint32) error {
	t := a.tasks
	t.mu.Lock()
	defer t.mu.Unlock()
	p, err := t.process(id, execID)
	if err != nil {
		return err
	}
	if p.status != running {
		return fmt.Errorf("process %q of container %s does not run: %w", execID, id, errdefs.ErrFailedPrecondition)
	}
	t.end(p, status)
	return nil
}

// OOM sends the event that the kernel has killed a process of a container for want of
// memory.
func (a *Agent) OOM(id string) { a.publish(&eventsapi.TaskOOM{ContainerID: id}) }

func (t *tasks) state(_ context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, err := t.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	status := map[processStatus]tasktypes.Status{
		created: tasktypes.Status_CREATED, running: tasktypes.Status_RUNNING, stopped: tasktypes.Status_STOPPED,
	}[p.status]
	if p.container.paused {
		status = tasktypes.Status_PAUSED
	}
	return &taskapi.StateResponse{
		ID: p.id(), Bundle: p.container.bundle, Pid: p.pid, Status: status,
		Stdin: p.files[0], Stdout: p.files[1], Stderr: p.files[2], Terminal: p.terminal,
		ExitStatus: p.exit, ExitedAt: timestamppb.New(p.at),
	}, nil
}

func (t *tasks) wait(ctx context.Context, r *taskapi.WaitRequest) (*taskapi.WaitResponse, error) {
	t.mu.Lock()
	p, err := t.process(r.ID, r.ExecID)
	t.mu.Unlock()
	if err != nil {
		return nil, err
	}
	if err := wait(ctx, p.exited); err != nil {
		return nil, err
	}
	return &taskapi.WaitResponse{ExitStatus: p.exit, ExitedAt: timestamppb.New(p.at)}, nil
}

func (t *tasks) pids(_ context.Context, r *taskapi.PidsRequest) (*taskapi.PidsResponse, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, err := t.container(r.ID)
	if err != nil {
		return nil, err
	}
	response := &taskapi.PidsResponse{}
	if c.init.status != stopped {
		response.Processes = append(response.Processes, &tasktypes.ProcessInfo{Pid: c.init.pid})
	}
	for id, exec := range c.execs {
		if exec.status != running {
			continue
		}
		info, err := typeurl.MarshalAnyToProto(&options.ProcessDetails{ExecID: id})
		if err != nil {
			return nil, err
		}
		response.Processes = append(response.Processes, &tasktypes.ProcessInfo{Pid: exec.pid, Info: info})
	}
	return response, nil
}

func (t *tasks) pause(_ context.Context, r *taskapi.PauseRequest) (*emptypb.Empty, error) {
	if err := t.freeze(r.ID, true); err != nil {
		return nil, err
	}
	t.agent.publish(&eventsapi.TaskPaused{ContainerID: r.ID})
	return &emptypb.Empty{}, nil
}

func (t *tasks) resume(_ context.Context, r *taskapi.ResumeRequest) (*emptypb.Empty, error) {
	if err := t.freeze(r.ID, false); err != nil {
		return nil, err
	}
	t.agent.publish(&eventsapi.TaskResumed{ContainerID: r.ID})
	return &emptypb.Empty{}, nil
}

// freeze changes the state of a running container. Its programs do not notice.
func (t *tasks) freeze(id string, pause bool) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, err := t.container(id)
	if err != nil {
		return err
	}
	verb := map[bool]string{true: "pause", false: "resume"}[pause]
	switch {
	case c.init.status == created:
		return fmt.Errorf("cannot %s task in created state", verb)
	case c.init.status == stopped:
		return fmt.Errorf("cannot %s a stopped container", verb)
	case c.paused && pause:
		return errors.New("cannot pause a paused container")
	case !c.paused && !pause:
		return errors.New("cannot resume a running process")
	}
	c.paused = pause
	return nil
}

func (t *tasks) update(_ context.Context, r *taskapi.UpdateTaskRequest) (*emptypb.Empty, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, err := t.container(r.ID)
	if err != nil {
		return nil, err
	}
	if c.init.status == stopped {
		return nil, errors.New("cannot update a stopped container")
	}
	return &emptypb.Empty{}, nil
}

func (t *tasks) resize(_ context.Context, r *taskapi.ResizePtyRequest) (*emptypb.Empty, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, err := t.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if p.status == stopped && p.execID != "" {
		return nil, errors.New("cannot resize a stopped container")
	}
	return &emptypb.Empty{}, nil
}

func (t *tasks) closeIO(_ context.Context, r *taskapi.CloseIORequest) (*emptypb.Empty, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, err := t.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	if p.stdin != nil {
		p.stdin.release()
	}
	return &emptypb.Empty{}, nil
}

func (t *tasks) stats(_ context.Context, r *taskapi.StatsRequest) (*taskapi.StatsResponse, error) {
	t.mu.Lock()
	_, err := t.container(r.ID)
	t.mu.Unlock()
	if err != nil {
		return nil, err
	}
	metrics, err := typeurl.MarshalAnyToProto(&cgroupsapi.Metrics{
		Pids:   &cgroupsapi.PidsStat{Current: 1},
		CPU:    &cgroupsapi.CPUStat{UsageUsec: 1000},
		Memory: &cgroupsapi.MemoryStat{Usage: 1 << 20},
	})
	if err != nil {
		return nil, err
	}
	return &taskapi.StatsResponse{Stats: metrics}, nil
}

func (t *tasks) checkpoint(_ context.Context, r *taskapi.CheckpointTaskRequest) (*emptypb.Empty, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if _, err := t.container(r.ID); err != nil {
		return nil, err
	}
	return nil, errors.New("OCI runtime checkpoint failed: there is no criu in the guest")
}

// connect answers with the agent's pid, which is that of init (PID 1).
func (t *tasks) connect(_ context.Context, r *taskapi.ConnectRequest) (*taskapi.ConnectResponse, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	response := &taskapi.ConnectResponse{ShimPid: 1}
	if c := t.containers[r.ID]; c != nil {
		response.TaskPid = c.init.pid
	}
	return response, nil
}

func (t *tasks) shutdown(context.Context, *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	return &emptypb.Empty{}, nil
}
