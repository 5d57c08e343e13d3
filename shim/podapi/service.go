// Package podapi has the calls of containerd's Sandbox API (containerd, docs/runtime-v2.md):
// a pod that no container stands for. The sandbox owns the shim's VM (shim/pod).
package podapi

import (
	"context"
	"fmt"
	"strings"
	"sync"
	"time"

	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/config"
	"github.com/msb-runtime/containerd-shim-msb/shim/count"
	"github.com/msb-runtime/containerd-shim-msb/shim/pod"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec/cri"
)

// A Shim is what the service needs of its shim.
type Shim struct {
	// Shutdown ends the shim.
	Shutdown func()
	// Platform is what VMs are made with, by configuration.
	Platform func(config.Config) sandbox.Platform
}

// Service is the Sandbox API of one shim.
type Service struct {
	shim Shim
	pod  *pod.Pod

	mu      sync.Mutex
	sandbox *podSandbox // nil if there is none; guarded by mu
}

// New returns the service for the shim's pod.
func New(shim Shim, pod *pod.Pod) *Service { return &Service{shim: shim, pod: pod} }

// podSandbox is the one sandbox of the service.
type podSandbox struct {
	id     string
	plan   *spec.Sandbox
	vm     count.VM      // how it comes to its VM
	exited chan struct{} // closed when exit is set: nothing of the VM is left

	// Guarded by Service.mu.
	starting  bool // it was started, or is being
	stopping  bool // somebody asked for its end
	pid       uint32
	createdAt time.Time
	exit      exit
}

// exit is how a sandbox ended, and when.
type exit struct {
	status uint32
	at     time.Time
}

// CreateSandbox implements the Sandbox API: it plans, and refuses what is not supported.
func (s *Service) CreateSandbox(ctx context.Context, r *sandboxapi.CreateSandboxRequest) (_ *sandboxapi.CreateSandboxResponse, err error) {
	defer func() {
		if err != nil {
			count.AddRefusal(err)
		}
	}()
	if err := api.CheckName("sandbox id", r.SandboxID); err != nil {
		return nil, err
	}
	configuration, err := config.LoadSaved(r.BundlePath)
	if err != nil {
		return nil, err
	}
	plan, err := planOf(r, configuration)
	if err != nil {
		return nil, err
	}
	if missed := strings.Join(plan.Missed(), "; "); missed != "" {
		log.G(ctx).WithField("sandbox", r.SandboxID).Warnf("the sandbox goes without what it asks for here: %s", missed)
	}
	if err := s.pod.Hold(r.SandboxID); err != nil {
		return nil, err
	}
	vm, err := s.prepare(r, plan, configuration)
	if err != nil {
		s.pod.Release()
		return nil, err
	}
	sb := &podSandbox{id: r.SandboxID, plan: plan, vm: vm, exited: make(chan struct{})}
	s.mu.Lock()
	s.sandbox = sb
	s.mu.Unlock()
	go s.recordExit(sb)
	return &sandboxapi.CreateSandboxResponse{}, nil
}

// planOf understands what the sandbox is to be: a pod of the CRI plugin, or what another client
// has in its bundle.
func planOf(r *sandboxapi.CreateSandboxRequest, configuration config.Config) (*spec.Sandbox, error) {
	if r.Options.GetTypeUrl() == "" && len(r.Options.GetValue()) == 0 {
		return spec.LoadSandbox(r.BundlePath)
	}
	pod, err := cri.PodOf(r.Options)
	if err != nil {
		return nil, fmt.Errorf("the sandbox's configuration is not a PodSandboxConfig: %w (%w)", err, errdefs.ErrInvalidArgument)
	}
	return spec.NewSandbox(r.SandboxID, pod, configuration.Compat.VMForHost())
}

// prepare makes the VM's place on the host, and tells how the sandbox comes to that.
func (s *Service) prepare(r *sandboxapi.CreateSandboxRequest, plan *spec.Sandbox, configuration config.Config) (count.VM, error) {
	size, err := sandbox.SizeOf(configuration.VM, func(byDefault, host spec.Size) (spec.Size, error) {
		return plan.Size(configuration.VM.PodAnnotations, byDefault, host)
	})
	if err != nil {
		return count.NoVM, err
	}
	place, err := s.pod.Prepare(r.SandboxID, "", func() (*sandbox.Prepared, error) {
		return sandbox.Prepare(r.BundlePath, s.shim.Platform(configuration), sandbox.Config{
			Size:        size,
			CgroupsPath: plan.CgroupsPath(), Resources: plan.Resources(),
			Network: plan.Network(r.NetnsPath), Users: plan.Users(), Pod: true,
			VMForHost: configuration.Compat.VMForHost(), GuestImages: configuration.Images.InGuest(),
		})
	})
	if err != nil {
		return count.NoVM, err
	}
	return place.Origin(configuration.Spare), nil
}

// recordExit notes the end of the sandbox: in order, or with its VM.
func (s *Service) recordExit(sb *podSandbox) {
	<-s.pod.Gone()
	s.mu.Lock()
	defer s.mu.Unlock()
	sb.exit = exit{sandbox.ExitKilled, time.Now()}
	if sb.stopping {
		sb.exit.status = 0
	}
	close(sb.exited)
}

// find finds the sandbox.
func (s *Service) find(id string) (*podSandbox, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sandbox == nil || s.sandbox.id != id {
		return nil, fmt.Errorf("sandbox %s: %w", id, errdefs.ErrNotFound)
	}
	return s.sandbox, nil
}
