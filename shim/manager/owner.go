package manager

import (
	"context"
	"fmt"
	"net"
	"slices"
	"strings"
	"time"

	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"

	"github.com/msb-runtime/containerd-shim-msb/shim/spec/cri"
)

// ownerPatience is how long the earlier shim of a name may take to say whether it is in use.
const ownerPatience = time.Second

// refuseInUse is an error if the shim at an address has something by an id that runs.
func refuseInUse(address, id string) error {
	if !inUse(address, id) {
		return nil
	}
	return fmt.Errorf("%s runs already, in the shim whose socket is %s: end and delete it, or take another id: %w", id, address, errdefs.ErrAlreadyExists)
}

// inUse tells whether the shim at an address has a task or a sandbox by an id that runs. One that ends
// has none any more, and one that does not answer may end. A task that does not run may be a creation
// that is being undone.
func inUse(address, id string) bool {
	conn, err := net.DialTimeout("unix", strings.TrimPrefix(address, "unix://"), ownerPatience)
	if err != nil {
		return false
	}
	client := ttrpc.NewClient(conn)
	defer client.Close()
	ctx, cancel := context.WithTimeout(context.Background(), ownerPatience)
	defer cancel()
	if task, err := taskapi.NewTTRPCTaskClient(client).State(ctx, &taskapi.StateRequest{ID: id}); err == nil {
		return slices.Contains([]tasktypes.Status{tasktypes.Status_RUNNING, tasktypes.Status_PAUSING, tasktypes.Status_PAUSED}, task.GetStatus())
	}
	sandbox, err := sandboxapi.NewTTRPCSandboxClient(client).SandboxStatus(ctx, &sandboxapi.SandboxStatusRequest{SandboxID: id})
	return err == nil && sandbox.GetState() == cri.PodSandboxState_SANDBOX_READY.String()
}
