// Package task serves containerd's Task API for the containers of one microVM.
// It runs no container itself: the guest runs containerd's own task service for
// runc, and each call is translated (paths, streams, process ids) and forwarded
// there.
//
// What is kept here is what must outlive the VM or must not be the guest's to
// decide: which containers and processes there are, how they ended, and which
// events go to containerd.
//
// Process ids. To the host a task is its anchor: a process with no rights that stands for
// the container (sandbox.Anchor). Its id is that of the task, and of every exec in it, in
// answers and in events alike. Only Pids lists what runs inside, by the guest's ids,
// with the anchor's in the place of init's.
package task

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/hook"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
)

const (
	// deathNotice is how long a call whose stream broke waits to learn that
	// the machine died, and why.
	deathNotice = time.Second
	// eventGrace is how long a deletion waits for its event to come through.
	eventGrace = 2 * time.Second
	// guestPatience is how long the guest may take to kill or delete a container.
	// Then its VM is ended: a guest must not keep the host from cleaning up.
	guestPatience = 30 * time.Second
	// stopTimeout bounds the end of the machine's processes.
	stopTimeout = 10 * time.Second
)

// Service is the Task API of one shim.
type Service struct {
	ctx       context.Context // carries namespace and logger, ends with the shim
	publisher shim.Publisher
	shutdown  shutdown.Service
	hooks     hook.Runner

	began       time.Time // when containerd started the shim
	firstCreate sync.Once

	// lifecycle is held while the sandbox is made or taken down.
	lifecycle sync.Mutex

	mu         sync.Mutex
	sandbox    *sandbox.Sandbox      // nil while there is none; guarded by mu
	podID      string                // of the pod that the sandbox is of; guarded by mu
	pod        *pod                  // of the Sandbox API, nil if there is none; guarded by mu
	containers map[string]*container // guarded by mu
}

// New returns the service. ctx ends with the shim, which was started at began.
func New(ctx context.Context, publisher shim.Publisher, sd shutdown.Service, hooks hook.Runner, began time.Time) *Service {
	s := &Service{ctx: ctx, publisher: publisher, shutdown: sd, hooks: hooks, began: began, containers: make(map[string]*container)}
	sd.RegisterCallback(func(context.Context) error { return errors.Join(s.closeSandbox(), publisher.Close()) })
	return s
}

// guest is the running VM's sandbox, or an error that says what became of it.
func (s *Service) guest() (*sandbox.Sandbox, error) {
	s.mu.Lock()
	sb := s.sandbox
	s.mu.Unlock()
	if sb == nil {
		return nil, fmt.Errorf("the VM is gone: %w", errdefs.ErrUnavailable)
	}
	if !sb.Running() {
		return nil, s.gone(sb)
	}
	return sb, nil
}

func (s *Service) gone(sb *sandbox.Sandbox) error {
	if cause := sb.Err(); cause != nil {
		return fmt.Errorf("the VM is gone: %w", cause)
	}
	return fmt.Errorf("the VM is gone: %w", errdefs.ErrUnavailable)
}

// forward makes a call in the guest. Its error is native, and tells why the
// machine died if that is what broke the call.
func forward[Request, Response any](ctx context.Context, s *Service, request Request,
	call func(taskapi.TTRPCTaskService, context.Context, Request) (Response, error),
) (response Response, err error) {
	sb, err := s.guest()
	if err != nil {
		return response, err
	}
	response, err = call(sb.Tasks, ctx, request)
	return response, s.native(sb, err)
}

// native turns an error of a call to the guest into one of errdefs.
func (s *Service) native(sb *sandbox.Sandbox, err error) error {
	if err == nil {
		return nil
	}
	if errors.Is(err, ttrpc.ErrClosed) {
		select {
		case <-sb.Done():
			return s.gone(sb)
		case <-time.After(deathNotice):
		}
		return fmt.Errorf("the agent's stream broke: %w (%w)", err, errdefs.ErrUnavailable)
	}
	return errgrpc.ToNative(err)
}

// endVM ends a VM whose guest does not do what it must. The exits of what ran in
// it are reported as after any other end.
func (s *Service) endVM(why string) {
	s.mu.Lock()
	sb := s.sandbox
	s.mu.Unlock()
	if sb != nil && sb.Running() {
		log.G(s.ctx).Errorf("ending the VM: %s within %v", why, guestPatience)
		sb.Kill()
	}
}

// publish sends an event to containerd.
func (s *Service) publish(event any) {
	if err := s.publisher.Publish(s.ctx, runtime.GetTopic(event), event); err != nil {
		log.G(s.ctx).WithError(err).WithField("topic", runtime.GetTopic(event)).Error("publishing an event")
	}
}

// closeSandbox takes the VM and everything it was given away, if there is one.
func (s *Service) closeSandbox() error {
	s.lifecycle.Lock()
	defer s.lifecycle.Unlock()
	s.mu.Lock()
	sb := s.sandbox
	s.sandbox = nil
	s.mu.Unlock()
	if sb == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(s.ctx), stopTimeout)
	defer cancel()
	return sb.Close(ctx)
}

// Connect implements the Task API.
func (s *Service) Connect(_ context.Context, r *taskapi.ConnectRequest) (*taskapi.ConnectResponse, error) {
	response := &taskapi.ConnectResponse{ShimPid: uint32(os.Getpid())}
	if c, err := s.container(r.ID); err == nil {
		response.TaskPid = c.pid.Load()
	}
	return response, nil
}

// Shutdown implements the Task API: the shim ends unless it has containers, or a
// sandbox that ShutdownSandbox is for. It
// comes after a Delete, but a second client's may come during the first's, and
// that for a create whose client is gone may come before the create has failed.
func (s *Service) Shutdown(_ context.Context, r *taskapi.ShutdownRequest) (*emptypb.Empty, error) {
	if c, err := s.container(r.ID); err == nil {
		c.deletion.Lock()
		defer c.deletion.Unlock()
	}
	s.mu.Lock()
	if c := s.containers[r.ID]; c != nil && !c.created {
		c.abandoned = true
	}
	busy := len(s.containers) > 0 || s.pod != nil
	s.mu.Unlock()
	if !busy {
		s.shutdown.Shutdown()
	}
	return &emptypb.Empty{}, nil
}

// closeStdio ends a process's streams on both sides.
func (s *Service) closeStdio(ctx context.Context, p *process) {
	streams := p.streams.Load()
	if streams == nil {
		return
	}
	if sb, err := s.guest(); err == nil {
		if _, err := sb.Guest.CloseStdio(ctx, &api.CloseStdioRequest{Ids: streams.IDs()}); err != nil {
			log.G(ctx).WithError(err).Debug("closing stdio in the guest")
		}
	}
	streams.Close()
}
