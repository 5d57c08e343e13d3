package task

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"runtime"
	"time"

	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/timestamppb"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/config"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
	"github.com/msb-runtime/containerd-shim-msb/vm/jail"
)

// pod is the sandbox of the Sandbox API (containerd, docs/runtime-v2.md): a VM that no
// container stands for. Its life is a line: created, started, ended.
type pod struct {
	id, bundle string
	plan       *spec.Sandbox
	config     config.Config

	// Guarded by Service.mu.
	state     podState
	anchor    *jail.Process // stands for it on the host
	pid       uint32        // of that, also after its end
	guestPid  uint32        // holds its namespaces in the guest
	createdAt time.Time
	exited    chan struct{} // closed when exit is set
	exit      exit
}

type podState int

const (
	podCreated podState = iota
	podStarted
	podEnded
)

// resolvConf is the node's (resolv.conf(5)).
const resolvConf = "/etc/resolv.conf"

// CreateSandbox implements the Sandbox API: it plans, and refuses what cannot be had.
func (s *Service) CreateSandbox(_ context.Context, r *sandboxapi.CreateSandboxRequest) (_ *sandboxapi.CreateSandboxResponse, err error) {
	if err := api.CheckName("sandbox id", r.SandboxID); err != nil {
		return nil, err
	}
	p := &pod{id: r.SandboxID, bundle: r.BundlePath, exited: make(chan struct{})}
	var cri cri.PodSandboxConfig
	if r.Options != nil {
		if err := typeurl.UnmarshalTo(r.Options, &cri); err != nil {
			return nil, fmt.Errorf("the sandbox's configuration is not a PodSandboxConfig: %w (%w)", err, errdefs.ErrInvalidArgument)
		}
	}
	if p.plan, err = spec.NewSandbox(r.SandboxID, &cri); err != nil {
		return nil, err
	}
	if p.config, err = config.LoadSaved(r.BundlePath); err != nil {
		return nil, err
	}
	host, err := sandbox.HostSize()
	if err != nil {
		return nil, err
	}
	size, err := p.plan.Size(p.config.VM.PodAnnotations, spec.Size{CPUs: p.config.VM.CPUs, Memory: int64(p.config.VM.Memory)}, host)
	if err != nil {
		return nil, err
	}
	if err := s.addPod(p); err != nil {
		return nil, err
	}
	_, err = s.openSandbox(p.id, p.bundle, p.config.Kit, sandbox.Host{
		Size:        size,
		CgroupsPath: p.plan.CgroupsPath(), Resources: p.plan.Resources(),
		Network: spec.Network{Path: r.NetnsPath}, Users: p.plan.Users(), Pod: true,
	})
	if err != nil {
		s.mu.Lock()
		s.pod = nil
		s.mu.Unlock()
		return nil, err
	}
	return &sandboxapi.CreateSandboxResponse{}, nil
}

func (s *Service) addPod(p *pod) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pod != nil {
		return fmt.Errorf("sandbox %s: %w", s.pod.id, errdefs.ErrAlreadyExists)
	}
	s.pod = p
	return nil
}

// podOf finds the sandbox.
func (s *Service) podOf(id string) (*pod, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pod == nil || s.pod.id != id {
		return nil, fmt.Errorf("sandbox %s: %w", id, errdefs.ErrNotFound)
	}
	return s.pod, nil
}

// StartSandbox implements the Sandbox API: it boots the VM. After an error the
// sandbox has ended.
func (s *Service) StartSandbox(ctx context.Context, r *sandboxapi.StartSandboxRequest) (_ *sandboxapi.StartSandboxResponse, err error) {
	p, err := s.podOf(r.SandboxID)
	if err != nil {
		return nil, err
	}
	s.traceStart(ctx)
	s.lifecycle.Lock()
	s.mu.Lock()
	sb, state := s.sandbox, p.state
	s.mu.Unlock()
	if state != podCreated || sb == nil {
		s.lifecycle.Unlock()
		return nil, fmt.Errorf("sandbox %s was started before: %w", p.id, errdefs.ErrFailedPrecondition)
	}
	err = s.startPod(ctx, sb, p)
	s.lifecycle.Unlock()
	if err != nil {
		if stopErr := s.stopPod(ctx, p, exit{sandbox.ExitKilled, time.Now()}); stopErr != nil {
			log.G(ctx).WithError(stopErr).Warn("undoing a failed start of a sandbox")
		}
		return nil, err
	}
	return &sandboxapi.StartSandboxResponse{Pid: p.pid, CreatedAt: timestamppb.New(p.createdAt)}, nil
}

// startPod boots the VM and makes in it what its containers share. The caller holds
// lifecycle.
func (s *Service) startPod(ctx context.Context, sb *sandbox.Sandbox, p *pod) error {
	if err := sb.Boot(ctx, p.config, func() error { return s.startPodAnchor(sb, p) }); err != nil {
		return err
	}
	request, err := p.guestRequest()
	if err != nil {
		return err
	}
	response, err := sb.Guest.CreatePod(ctx, request)
	if err != nil {
		return s.native(sb, err)
	}
	if err := s.markStarted(p, response.Pid); err != nil {
		return err
	}
	go func() {
		s.watch(sb)
		if err := s.stopPod(s.ctx, p, exit{sandbox.ExitKilled, time.Now()}); err != nil {
			log.G(s.ctx).WithError(err).Error("cleaning up after the end of a VM")
		}
	}()
	return nil
}

// markStarted fails if the sandbox was stopped while it was being started.
func (s *Service) markStarted(p *pod, guestPid uint32) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if p.state == podEnded {
		return fmt.Errorf("sandbox %s was stopped while it was being started: %w", p.id, errdefs.ErrFailedPrecondition)
	}
	p.state, p.guestPid, p.createdAt = podStarted, guestPid, time.Now()
	return nil
}

// startPodAnchor starts the process by whose namespaces the host knows the pod. Who
// kills it kills the pod.
func (s *Service) startPodAnchor(sb *sandbox.Sandbox, p *pod) error {
	anchor, err := sb.Anchor("")
	if err != nil {
		return err
	}
	s.mu.Lock()
	p.anchor, p.pid = anchor, uint32(anchor.Pid())
	s.mu.Unlock()
	go func() {
		<-anchor.Exited()
		s.mu.Lock()
		ended := p.state == podEnded
		s.mu.Unlock()
		if !ended {
			sb.Kill()
		}
	}()
	return nil
}

// guestRequest is what the pod's containers share, for the agent.
func (p *pod) guestRequest() (*api.CreatePodRequest, error) {
	hostname, err := p.plan.Hostname()
	if err != nil {
		return nil, err
	}
	node, err := os.ReadFile(resolvConf)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	request := &api.CreatePodRequest{
		SharedMemory: defaultSharedMemory,
		Namespaces:   &api.PodNamespaces{Hostname: hostname, Sysctls: p.plan.Sysctls()},
	}
	for name, content := range p.plan.Files(hostname, node) {
		request.Files = append(request.Files, &api.PodFile{Name: name, Content: content})
	}
	return request, nil
}

// stopPod ends the sandbox, once.
func (s *Service) stopPod(ctx context.Context, p *pod, e exit) error {
	s.mu.Lock()
	ended, anchor := p.state == podEnded, p.anchor
	p.state = podEnded
	s.mu.Unlock()
	if ended {
		<-p.exited
		return nil
	}
	if anchor != nil {
		anchor.End(0)
	}
	err := s.endPod(ctx)
	p.exit = e
	close(p.exited)
	return err
}

// StopSandbox implements the Sandbox API. One that has ended may be stopped again.
func (s *Service) StopSandbox(ctx context.Context, r *sandboxapi.StopSandboxRequest) (*sandboxapi.StopSandboxResponse, error) {
	p, err := s.podOf(r.SandboxID)
	if err != nil {
		return nil, err
	}
	if err := s.stopPod(ctx, p, exit{0, time.Now()}); err != nil {
		return nil, fmt.Errorf("sandbox %s is stopped, but cleaning up after it failed: %w", p.id, err)
	}
	return &sandboxapi.StopSandboxResponse{}, nil
}

// WaitSandbox implements the Sandbox API.
func (s *Service) WaitSandbox(ctx context.Context, r *sandboxapi.WaitSandboxRequest) (*sandboxapi.WaitSandboxResponse, error) {
	p, err := s.podOf(r.SandboxID)
	if err != nil {
		return nil, err
	}
	select {
	case <-p.exited:
		return &sandboxapi.WaitSandboxResponse{ExitStatus: p.exit.status, ExitedAt: timestamppb.New(p.exit.at)}, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// SandboxStatus implements the Sandbox API. The states' names are those of the CRI,
// whose plugin is the caller.
func (s *Service) SandboxStatus(_ context.Context, r *sandboxapi.SandboxStatusRequest) (*sandboxapi.SandboxStatusResponse, error) {
	p, err := s.podOf(r.SandboxID)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	response := &sandboxapi.SandboxStatusResponse{SandboxID: p.id, Pid: p.pid, State: cri.PodSandboxState_SANDBOX_NOTREADY.String()}
	if p.state == podStarted {
		response.State = cri.PodSandboxState_SANDBOX_READY.String()
	}
	if !p.createdAt.IsZero() {
		response.CreatedAt = timestamppb.New(p.createdAt)
	}
	select {
	case <-p.exited:
		response.ExitedAt = timestamppb.New(p.exit.at)
	default:
	}
	if r.Verbose {
		info := map[string]any{"pid": p.pid}
		if s.sandbox != nil && p.state == podStarted {
			info["vmm"] = s.sandbox.Pid()
		}
		text, err := json.Marshal(info)
		if err != nil {
			return nil, err
		}
		response.Info = map[string]string{"info": string(text)}
	}
	return response, nil
}

// Platform implements the Sandbox API.
func (s *Service) Platform(context.Context, *sandboxapi.PlatformRequest) (*sandboxapi.PlatformResponse, error) {
	return &sandboxapi.PlatformResponse{Platform: &types.Platform{OS: "linux", Architecture: runtime.GOARCH}}, nil
}

// PingSandbox implements the Sandbox API.
func (s *Service) PingSandbox(_ context.Context, r *sandboxapi.PingRequest) (*sandboxapi.PingResponse, error) {
	_, err := s.podOf(r.SandboxID)
	return &sandboxapi.PingResponse{}, err
}

// ShutdownSandbox implements the Sandbox API: the sandbox and the shim end.
func (s *Service) ShutdownSandbox(ctx context.Context, r *sandboxapi.ShutdownSandboxRequest) (*sandboxapi.ShutdownSandboxResponse, error) {
	p, err := s.podOf(r.SandboxID)
	switch {
	case err == nil:
		err = s.stopPod(ctx, p, exit{0, time.Now()})
	case errdefs.IsNotFound(err):
		err = nil // its create failed
	}
	// containerd takes a connection that ends before the answer for a failure.
	time.AfterFunc(shutdownDelay, s.shutdown.Shutdown)
	return &sandboxapi.ShutdownSandboxResponse{}, err
}

// shutdownDelay is how long the answer to ShutdownSandbox may take to be sent.
const shutdownDelay = 50 * time.Millisecond

// SandboxMetrics implements the Sandbox API.
func (s *Service) SandboxMetrics(_ context.Context, r *sandboxapi.SandboxMetricsRequest) (*sandboxapi.SandboxMetricsResponse, error) {
	if _, err := s.podOf(r.SandboxID); err != nil {
		return nil, err
	}
	sb, err := s.guest()
	if err != nil {
		return nil, err
	}
	metrics, err := sb.Metrics()
	if err != nil {
		return nil, err
	}
	return &sandboxapi.SandboxMetricsResponse{
		Metrics: &types.Metric{Timestamp: timestamppb.Now(), ID: r.SandboxID, Data: metrics},
	}, nil
}

// UpdateSandbox implements the Sandbox API by saying that a VM cannot be changed.
func (s *Service) UpdateSandbox(_ context.Context, r *sandboxapi.UpdateSandboxRequest) (*sandboxapi.UpdateSandboxResponse, error) {
	return nil, fmt.Errorf("sandbox %s: a microVM cannot be given another size: %w", r.SandboxID, errdefs.ErrNotImplemented)
}
