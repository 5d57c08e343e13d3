package guest

import (
	"context"
	"fmt"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/vm"
)

// The agent's own service. See guest/api for what each call does.

// Start is the first call to a guest. Its budget is the boot's, which ctx has.
func (c *Client) Start(ctx context.Context, r *api.StartRequest) error {
	_, err := wait(ctx, c, "Start", func() (*api.StartResponse, error) { return c.agent.Start(ctx, r) })
	return err
}

// CreateBundle returns the bundle's directory in the guest.
func (c *Client) CreateBundle(ctx context.Context, r *api.CreateBundleRequest) (string, error) {
	response, err := invoke(ctx, c, "CreateBundle", c.budgets.Load().Lengthy, c.agent.CreateBundle, r)
	return response.GetPath(), err
}

// SetSockets describes the sockets of the host in a container's directories. A guest that
// does not answer in time keeps its VM: a file system of the host may hold it up.
func (c *Client) SetSockets(ctx context.Context, r *api.SetSocketsRequest) error {
	bounded, cancel := context.WithTimeout(ctx, c.budgets.Load().Prompt)
	defer cancel()
	_, err := wait(bounded, c, "SetSockets", func() (*api.SetSocketsResponse, error) { return c.agent.SetSockets(bounded, r) })
	return err
}

// RemoveBundle lets the guest write everything of a container back and let go of its
// shares.
func (c *Client) RemoveBundle(ctx context.Context, r *api.RemoveBundleRequest) (*api.RemoveBundleResponse, error) {
	return invoke(ctx, c, "RemoveBundle", c.budgets.Load().Prompt, c.agent.RemoveBundle, r)
}

// CloseStdio ends streams of standard input and output in the guest.
func (c *Client) CloseStdio(ctx context.Context, ids []string) error {
	_, err := invoke(ctx, c, "CloseStdio", c.budgets.Load().Prompt, c.agent.CloseStdio, &api.CloseStdioRequest{Ids: ids})
	return err
}

// SetNetwork describes the containers' network. The text in the response is one line, and no
// longer than an error's.
func (c *Client) SetNetwork(ctx context.Context, r *api.SetNetworkRequest) (*api.SetNetworkResponse, error) {
	response, err := invoke(ctx, c, "SetNetwork", c.budgets.Load().Lengthy, c.agent.SetNetwork, r)
	if err != nil {
		return nil, err
	}
	return &api.SetNetworkResponse{ResolversError: vm.Printable(response.GetResolversError(), maxText)}, nil
}

// CreatePod makes what the containers of a pod share, and returns the process in the guest
// that holds their namespaces; 0 if there is none.
func (c *Client) CreatePod(ctx context.Context, r *api.CreatePodRequest) (uint32, error) {
	response, err := invoke(ctx, c, "CreatePod", c.budgets.Load().Lengthy, c.agent.CreatePod, r)
	return response.GetPid(), err
}

// Events are the task service's in the guest, until the connection breaks.
func (c *Client) Events(ctx context.Context) (api.Guest_EventsClient, error) {
	return c.agent.Events(ctx, &api.EventsRequest{})
}

// containerd's task service in the guest.

// Create makes a container, and returns its init's process id in the guest.
func (c *Client) Create(ctx context.Context, r *taskapi.CreateTaskRequest) (uint32, error) {
	response, err := invoke(ctx, c, "Create", c.budgets.Load().Lengthy, c.tasks.Create, r)
	return response.GetPid(), err
}

// StartProcess starts a container's init or an exec.
func (c *Client) StartProcess(ctx context.Context, r *taskapi.StartRequest) error {
	_, err := invoke(ctx, c, "Start", c.budgets.Load().Lengthy, c.tasks.Start, r)
	return err
}

// Exec adds a process to a container.
func (c *Client) Exec(ctx context.Context, r *taskapi.ExecProcessRequest) error {
	_, err := invoke(ctx, c, "Exec", c.budgets.Load().Lengthy, c.tasks.Exec, r)
	return err
}

// Delete deletes a container or an exec, and returns its exit status as the guest tells it.
func (c *Client) Delete(ctx context.Context, r *taskapi.DeleteRequest) (uint32, error) {
	response, err := invoke(ctx, c, "Delete", c.budgets.Load().Prompt, c.tasks.Delete, r)
	return response.GetExitStatus(), err
}

// Kill signals a process.
func (c *Client) Kill(ctx context.Context, r *taskapi.KillRequest) error {
	_, err := invoke(ctx, c, "Kill", c.budgets.Load().Prompt, c.tasks.Kill, r)
	return err
}

// Pause freezes a container.
func (c *Client) Pause(ctx context.Context, r *taskapi.PauseRequest) error {
	_, err := invoke(ctx, c, "Pause", c.budgets.Load().Prompt, c.tasks.Pause, r)
	return err
}

// Resume thaws a container.
func (c *Client) Resume(ctx context.Context, r *taskapi.ResumeRequest) error {
	_, err := invoke(ctx, c, "Resume", c.budgets.Load().Prompt, c.tasks.Resume, r)
	return err
}

// ResizePty gives a process's terminal a size.
func (c *Client) ResizePty(ctx context.Context, r *taskapi.ResizePtyRequest) error {
	_, err := invoke(ctx, c, "ResizePty", c.budgets.Load().Prompt, c.tasks.ResizePty, r)
	return err
}

// CloseIO ends a process's standard input.
func (c *Client) CloseIO(ctx context.Context, r *taskapi.CloseIORequest) error {
	_, err := invoke(ctx, c, "CloseIO", c.budgets.Load().Prompt, c.tasks.CloseIO, r)
	return err
}

// Update changes a container's limits.
func (c *Client) Update(ctx context.Context, r *taskapi.UpdateTaskRequest) error {
	_, err := invoke(ctx, c, "Update", c.budgets.Load().Prompt, c.tasks.Update, r)
	return err
}

// metricsType is what Stats answers: io.containerd.cgroups.v2.Metrics.
const metricsType = "io.containerd.cgroups.v2.Metrics"

// Stats are a container's metrics. A guest that has none in time keeps its VM, and the
// error is of the class that containerd's collector skips. The guest chooses the numbers, and
// nothing else: see checkedMetrics.
func (c *Client) Stats(ctx context.Context, id string) (*anypb.Any, error) {
	if time.Now().UnixNano() < c.mute.Load() {
		return nil, fmt.Errorf("task %s: the guest has just not answered a request for metrics: %w", id, errdefs.ErrNotFound)
	}
	select {
	case c.stats <- struct{}{}:
	default:
		return nil, fmt.Errorf("task %s: the guest has not answered %d earlier requests for metrics: %w", id, maxStats, errdefs.ErrNotFound)
	}
	bounded, cancel := context.WithTimeout(ctx, c.budgets.Load().Stats)
	defer cancel()
	response, err := wait(bounded, c, "Stats", func() (*taskapi.StatsResponse, error) {
		defer func() { <-c.stats }()
		return c.tasks.Stats(bounded, &taskapi.StatsRequest{ID: id})
	})
	if err != nil && bounded.Err() != nil && ctx.Err() == nil {
		c.mute.Store(time.Now().Add(muteFor).UnixNano())
		return nil, fmt.Errorf("task %s: the guest has no metrics within %v: %w", id, c.budgets.Load().Stats, errdefs.ErrNotFound)
	}
	if err != nil {
		return nil, err
	}
	if kind := response.GetStats().GetTypeUrl(); kind != metricsType {
		return nil, fmt.Errorf("task %s: the guest answered %.100q instead of cgroup v2 metrics: %w", id, kind, errdefs.ErrNotFound)
	}
	checked, err := checkedMetrics(response.GetStats().GetValue())
	if err != nil {
		return nil, fmt.Errorf("task %s: the guest answered %d bytes that cannot be read instead of cgroup v2 metrics: %w", id, len(response.GetStats().GetValue()), errdefs.ErrNotFound)
	}
	return &anypb.Any{TypeUrl: metricsType, Value: checked}, nil
}
