package fake

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/emptypb"

	eventsapi "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"google.golang.org/protobuf/types/known/timestamppb"
)

// tasks is containerd's task service for runc (cmd/containerd-shim-runc-v2): its states,
// the classes and texts of its errors, its events and their order. Where that service
// has no class for an error, as for the deletion of a running process, there is none here.
type tasks struct {
	agent *Agent

	mu         sync.Mutex
	containers map[string]*container // guarded by mu
	lastPid    uint32                // guarded by mu
}

// container is one of the guest's. Its fields are guarded by tasks.mu.
type container struct {
	id, bundle string
	init       *process
	execs      map[string]*process
	paused     bool
}

// firstPid is that of the guest's first process, after the agent's and a kernel's.
const firstPid = 100

func newTasks(a *Agent) *tasks {
	t := &tasks{agent: a, containers: make(map[string]*container), lastPid: firstPid - 1}
	context.AfterFunc(a.life(), t.endAll)
	return t
}

// endAll ends what runs when the machine has ended; nothing starts any more.
func (t *tasks) endAll() {
	t.mu.Lock()
	defer t.mu.Unlock()
	for _, c := range t.containers {
		c.init.end(killedStatus)
		for _, exec := range c.execs {
			exec.end(killedStatus)
		}
	}
}

// nextPid is called with mu held.
func (t *tasks) nextPid() uint32 {
	t.lastPid++
	return t.lastPid
}

// container finds a container. The caller holds mu.
func (t *tasks) container(id string) (*container, error) {
	c := t.containers[id]
	if c == nil {
		return nil, fmt.Errorf("container not created: %w", errdefs.ErrNotFound)
	}
	return c, nil
}

// process finds a process. The caller holds mu.
func (t *tasks) process(id, execID string) (*process, error) {
	c, err := t.container(id)
	if err != nil {
		return nil, err
	}
	if execID == "" {
		return c.init, nil
	}
	p := c.execs[execID]
	if p == nil {
		return nil, fmt.Errorf("process does not exist %s: %w", execID, errdefs.ErrNotFound)
	}
	return p, nil
}

func (t *tasks) create(_ context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	spec, err := t.agent.bundles.spec(r.Bundle)
	if err != nil {
		return nil, fmt.Errorf("OCI runtime create failed: %w", err)
	}
	var args []string
	if spec.Process != nil {
		args = spec.Process.Args
	}
	c := &container{id: r.ID, bundle: r.Bundle, execs: make(map[string]*process)}
	c.init = newProcess(c, "", args)
	c.init.files, c.init.terminal = [3]string{r.Stdin, r.Stdout, r.Stderr}, r.Terminal
	if err := errors.Join(c.init.lookPath(), c.init.open(t.agent.stdio)); err != nil {
		return nil, fmt.Errorf("OCI runtime create failed: %w", err)
	}
	t.mu.Lock()
	if t.containers[r.ID] != nil {
		t.mu.Unlock()
		return nil, errors.New("OCI runtime create failed: container with given ID already exists")
	}
	t.containers[r.ID] = c
	pid := t.nextPid()
	c.init.pid = pid
	t.mu.Unlock()
	t.agent.publish(&eventsapi.TaskCreate{
		ContainerID: r.ID, Bundle: r.Bundle, Rootfs: r.Rootfs, Checkpoint: r.Checkpoint, Pid: pid,
		IO: &eventsapi.TaskIO{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal},
	})
	return &taskapi.CreateTaskResponse{Pid: pid}, nil
}

func (t *tasks) exec(_ context.Context, r *taskapi.ExecProcessRequest) (*emptypb.Empty, error) {
	var spec specs.Process
	if err := json.Unmarshal(r.Spec.GetValue(), &spec); err != nil {
		return nil, err
	}
	if err := t.addExec(r, spec.Args); err != nil {
		return nil, err
	}
	t.agent.publish(&eventsapi.TaskExecAdded{ContainerID: r.ID, ExecID: r.ExecID})
	return &emptypb.Empty{}, nil
}

func (t *tasks) addExec(r *taskapi.ExecProcessRequest, args []string) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	c, err := t.container(r.ID)
	switch {
	case err != nil:
		return err
	case c.execs[r.ExecID] != nil || r.ExecID == "":
		return fmt.Errorf("id %s: %w", r.ExecID, errdefs.ErrAlreadyExists)
	case c.init.status == stopped:
		return errors.New("cannot exec in a stopped state")
	case c.paused:
		return errors.New("cannot exec in a paused state")
	}
	p := newProcess(c, r.ExecID, args)
	p.files, p.terminal = [3]string{r.Stdin, r.Stdout, r.Stderr}, r.Terminal
	c.execs[r.ExecID] = p
	return nil
}

func (t *tasks) start(_ context.Context, r *taskapi.StartRequest) (*taskapi.StartResponse, error) {
	p, pid, err := t.begin(r)
	if err != nil {
		return nil, err
	}
	if r.ExecID == "" {
		t.agent.publish(&eventsapi.TaskStart{ContainerID: r.ID, Pid: pid})
	} else {
		t.agent.publish(&eventsapi.TaskExecStarted{ContainerID: r.ID, ExecID: r.ExecID, Pid: pid})
	}
	go func() { t.finish(p, p.run()) }()
	return &taskapi.StartResponse{Pid: pid}, nil
}

// begin makes a process a running one.
func (t *tasks) begin(r *taskapi.StartRequest) (*process, uint32, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, err := t.process(r.ID, r.ExecID)
	if err != nil {
		return nil, 0, err
	}
	if init := p.container.init; p != init && init.dying {
		return nil, 0, fmt.Errorf("container %s init process is not running: %w", r.ID, errdefs.ErrFailedPrecondition)
	}
	switch {
	case t.agent.life().Err() != nil:
		return nil, 0, errEnded
	case p.status == stopped || p.dying:
		return nil, 0, errors.New("cannot start a stopped process")
	case p.container.paused:
		return nil, 0, errors.New("cannot start a paused process")
	case p.status == running:
		return nil, 0, errors.New("cannot start a running process")
	}
	if p != p.container.init {
		if err := errors.Join(p.lookPath(), p.open(t.agent.stdio)); err != nil {
			p.neverStarts()
			return nil, 0, fmt.Errorf("OCI runtime exec failed: exec failed: %w", err)
		}
		p.pid = t.nextPid()
	}
	p.status = running
	return p, p.pid, nil
}

// finish records the end of a process and tells of it: init's end is that of its execs,
// and is told last.
func (t *tasks) finish(p *process, status uint32) {
	p.closeStdio()
	t.mu.Lock()
	p.end(status) // so that nothing starts in the container any more
	var execs []*process
	if p == p.container.init {
		for _, exec := range p.container.execs {
			if exec.status == running {
				exec.end(killedStatus)
				execs = append(execs, exec)
			}
		}
	}
	t.mu.Unlock()
	for _, exec := range execs {
		if wait(t.agent.life(), exec.told) != nil {
			return
		}
	}
	t.mu.Lock()
	p.status, p.exit, p.at = stopped, status, time.Now()
	if p == p.container.init {
		p.container.paused = false
	}
	pid := p.pid
	t.mu.Unlock()
	close(p.exited)
	t.agent.publish(&eventsapi.TaskExit{
		ContainerID: p.container.id, ID: p.id(), Pid: pid, ExitStatus: status, ExitedAt: timestamppb.New(p.at),
	})
	close(p.told)
}

// killedStatus is the exit status of a process that SIGKILL ended.
const killedStatus = 128 + 9

func (t *tasks) kill(_ context.Context, r *taskapi.KillRequest) (*emptypb.Empty, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, err := t.process(r.ID, r.ExecID)
	if err != nil {
		return nil, err
	}
	switch {
	case p.status == created && p.execID != "":
		return nil, fmt.Errorf("process not created: %w", errdefs.ErrFailedPrecondition)
	case p.status == stopped:
		return nil, fmt.Errorf("process already finished: %w", errdefs.ErrNotFound)
	}
	if r.All && p.execID == "" {
		for _, exec := range p.container.execs {
			if exec.status == running && !exec.survives(r.Signal) {
				exec.end(128 + r.Signal)
			}
		}
	}
	if !p.survives(r.Signal) {
		t.end(p, 128+r.Signal)
	}
	return &emptypb.Empty{}, nil
}

// end lets a process that has not exited do so. The caller holds mu.
func (t *tasks) end(p *process, status uint32) {
	if p.dying {
		return
	}
	p.end(status)
	if p.status == created {
		go t.finish(p, status)
	}
}

func (t *tasks) delete(ctx context.Context, r *taskapi.DeleteRequest) (*taskapi.DeleteResponse, error) {
	p, over, err := t.stopForDelete(r)
	if err != nil {
		return nil, err
	}
	if over != nil {
		if err := wait(ctx, over); err != nil {
			return nil, err
		}
	}
	response, err := t.remove(r, p)
	if err == nil && p.execID == "" {
		t.agent.publish(&eventsapi.TaskDelete{
			ContainerID: r.ID, Pid: response.Pid, ExitStatus: response.ExitStatus, ExitedAt: response.ExitedAt,
		})
	}
	return response, err
}

// stopForDelete refuses a process that runs, and ends an init that was never started. What
// it returns beside the process is closed when that has ended; nil: nothing has to.
func (t *tasks) stopForDelete(r *taskapi.DeleteRequest) (*process, <-chan struct{}, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	p, err := t.process(r.ID, r.ExecID)
	switch {
	case err != nil:
		return nil, nil, err
	case p.status == running && p.container.paused && p.execID == "":
		return nil, nil, errors.New("cannot delete a paused process")
	case p.status == running:
		return nil, nil, errors.New("cannot delete a running process")
	case p.status == created && p.execID != "":
		return p, nil, nil
	case p.status == created:
		t.end(p, killedStatus)
	}
	return p, p.told, nil
}

// remove forgets a process that was not running. Only one of two that delete it does.
func (t *tasks) remove(r *taskapi.DeleteRequest, p *process) (*taskapi.DeleteResponse, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if current, err := t.process(r.ID, r.ExecID); err != nil || current != p {
		return nil, fmt.Errorf("container not created: %w", errdefs.ErrNotFound)
	}
	if r.ExecID == "" {
		delete(t.containers, r.ID)
	} else {
		delete(p.container.execs, r.ExecID)
	}
	return &taskapi.DeleteResponse{Pid: p.pid, ExitStatus: p.exit, ExitedAt: timestamppb.New(p.at)}, nil
}

func (t *tasks) left() (names []string) {
	t.mu.Lock()
	defer t.mu.Unlock()
	for id, c := range t.containers {
		names = append(names, "container "+id)
		for exec := range c.execs {
			names = append(names, fmt.Sprintf("exec %s of container %s", exec, id))
		}
	}
	return names
}
