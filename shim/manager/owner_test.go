package manager

import (
	"context"
	"errors"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"
)

// An owner is the shim that has a name. asked is closed when it is asked of a task.
type owner struct {
	taskapi.TTRPCTaskService
	task  tasktypes.Status // unknown: it has none
	hangs bool
	asked chan struct{}
}

func (o owner) State(ctx context.Context, r *taskapi.StateRequest) (*taskapi.StateResponse, error) {
	defer close(o.asked)
	switch {
	case o.hangs:
		<-ctx.Done()
		return nil, ctx.Err()
	case r.ID != "box" || o.task == tasktypes.Status_UNKNOWN:
		return nil, errgrpc.ToGRPC(errdefs.ErrNotFound)
	}
	return &taskapi.StateResponse{Status: o.task}, nil
}

// ownerSandboxes are those of an owner.
type ownerSandboxes struct {
	sandboxapi.TTRPCSandboxService
	state string // empty: it has none
}

func (s ownerSandboxes) SandboxStatus(_ context.Context, r *sandboxapi.SandboxStatusRequest) (*sandboxapi.SandboxStatusResponse, error) {
	if r.SandboxID != "box" || s.state == "" {
		return nil, errgrpc.ToGRPC(errdefs.ErrNotFound)
	}
	return &sandboxapi.SandboxStatusResponse{State: s.state}, nil
}

// A name whose container or sandbox runs is refused, and nobody waits for it to be free. Any other is
// waited for: its shim may be about to end.
func TestNameInUse(t *testing.T) {
	for name, test := range map[string]struct {
		owner   owner
		sandbox string
		refused bool
	}{
		"runs":                {owner{task: tasktypes.Status_RUNNING}, "", true},
		"is paused":           {owner{task: tasktypes.Status_PAUSED}, "", true},
		"a sandbox runs":      {owner{}, "SANDBOX_READY", true},
		"has not started":     {owner{task: tasktypes.Status_CREATED}, "", false},
		"has ended":           {owner{task: tasktypes.Status_STOPPED}, "", false},
		"is deleted":          {owner{}, "", false},
		"a sandbox has ended": {owner{}, "SANDBOX_NOTREADY", false},
		"does not answer":     {owner{hangs: true}, "", false},
	} {
		t.Run(name, func(t *testing.T) {
			t.Chdir(t.TempDir())             // the bundle
			dir, err := os.MkdirTemp("", "") // shorter than that, for sockets
			if err != nil {
				t.Fatal(err)
			}
			defer os.RemoveAll(dir)
			ctx := namespaces.WithNamespace(context.Background(), "test")
			params := &bootapi.BootstrapParams{InstanceID: "box", Namespace: "test", SocketDir: &dir}
			address, err := addressOf(ctx, params, "box")
			if err != nil {
				t.Fatal(err)
			}
			path := strings.TrimPrefix(address, "unix://")
			socket, err := net.Listen("unix", path)
			if err != nil {
				t.Fatal(err)
			}
			server, err := ttrpc.NewServer()
			if err != nil {
				t.Fatal(err)
			}
			test.owner.asked = make(chan struct{})
			taskapi.RegisterTTRPCTaskService(server, test.owner)
			sandboxapi.RegisterTTRPCSandboxService(server, ownerSandboxes{state: test.sandbox})
			go func() { _ = server.Serve(context.Background(), socket) }()
			defer server.Close()
			if !test.refused {
				go func() {
					<-test.owner.asked
					socket.Close()
				}()
			}
			if test.refused {
				_, err := start(ctx, params, time.Now())
				if !errors.Is(err, errdefs.ErrAlreadyExists) || !strings.Contains(err.Error(), "box runs already") {
					t.Errorf("starting: %v", err)
				}
				if made, err := os.ReadDir("."); len(made) > 0 || err != nil {
					t.Errorf("in the bundle are %v, %v", made, err)
				}
				return
			}
			if err := refuseInUse(address, "box"); err != nil {
				t.Fatal(err)
			}
			fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
			if err != nil {
				t.Fatal(err)
			}
			d := &daemon{socket: os.NewFile(uintptr(fd), "socket"), patience: time.Minute}
			defer d.close()
			if err := d.listen(address); err != nil {
				t.Errorf("listening: %v", err)
			}
		})
	}
}
