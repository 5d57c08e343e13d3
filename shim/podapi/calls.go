package podapi

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"strconv"
	"time"

	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/msb-runtime/containerd-shim-msb/shim/pod"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec/cri"
)

// StopSandbox implements the Sandbox API. One that has ended may be stopped again, and one
// that is being started. What fails after the end of the VM is told in the log.
func (s *Service) StopSandbox(ctx context.Context, r *sandboxapi.StopSandboxRequest) (*sandboxapi.StopSandboxResponse, error) {
	sb, err := s.find(r.SandboxID)
	if err != nil {
		return nil, err
	}
	if err := s.stop(ctx, sb); err != nil {
		return nil, err
	}
	return &sandboxapi.StopSandboxResponse{}, nil
}

// stop ends the sandbox, which goes on when the client leaves.
func (s *Service) stop(ctx context.Context, sb *podSandbox) error {
	s.mu.Lock()
	if _, err := s.pod.Sandbox(); err == nil || s.pod.State() != pod.Running {
		sb.stopping = true // or else it has ended with its VM, before
	}
	s.mu.Unlock()
	go func() {
		if err := s.pod.End(context.WithoutCancel(ctx)); err != nil {
			log.G(ctx).WithError(err).WithField("sandbox", sb.id).Error("the sandbox is stopped, but cleaning up after it failed")
		}
	}()
	select {
	case <-sb.exited:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// WaitSandbox implements the Sandbox API.
func (s *Service) WaitSandbox(ctx context.Context, r *sandboxapi.WaitSandboxRequest) (*sandboxapi.WaitSandboxResponse, error) {
	sb, err := s.find(r.SandboxID)
	if err != nil {
		return nil, err
	}
	select {
	case <-sb.exited:
		return &sandboxapi.WaitSandboxResponse{ExitStatus: sb.exit.status, ExitedAt: timestamppb.New(sb.exit.at)}, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// The states' names are those of the CRI, whose plugin takes them as they are.
var (
	ready    = cri.PodSandboxState_SANDBOX_READY.String()
	notReady = cri.PodSandboxState_SANDBOX_NOTREADY.String()
)

// SandboxStatus implements the Sandbox API.
func (s *Service) SandboxStatus(_ context.Context, r *sandboxapi.SandboxStatusRequest) (*sandboxapi.SandboxStatusResponse, error) {
	sb, err := s.find(r.SandboxID)
	if err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	response := &sandboxapi.SandboxStatusResponse{SandboxID: sb.id, Pid: sb.pid, State: notReady}
	if !sb.createdAt.IsZero() && s.pod.State() == pod.Running {
		response.State = ready
	}
	if !sb.createdAt.IsZero() {
		response.CreatedAt = timestamppb.New(sb.createdAt)
	}
	if !sb.exit.at.IsZero() {
		response.ExitedAt = timestamppb.New(sb.exit.at)
	}
	if r.Verbose {
		response.Info, err = s.info(sb, response.State)
	}
	return response, err
}

// info is what the sandbox is on the host: pid and state by themselves, as containerd's
// conformance suite for shims asks, and all of it as JSON, which crictl prints.
func (s *Service) info(sb *podSandbox, state string) (map[string]string, error) {
	info := map[string]any{"pid": sb.pid}
	if running, err := s.pod.Sandbox(); err == nil && state == ready {
		info["vmm"] = running.Pid()
	}
	text, err := json.Marshal(info)
	return map[string]string{"pid": strconv.FormatUint(uint64(sb.pid), 10), "state": state, "info": string(text)}, err
}

// Platform implements the Sandbox API.
func (s *Service) Platform(context.Context, *sandboxapi.PlatformRequest) (*sandboxapi.PlatformResponse, error) {
	return &sandboxapi.PlatformResponse{Platform: &types.Platform{OS: "linux", Architecture: runtime.GOARCH}}, nil
}

// PingSandbox implements the Sandbox API.
func (s *Service) PingSandbox(_ context.Context, r *sandboxapi.PingRequest) (*sandboxapi.PingResponse, error) {
	_, err := s.find(r.SandboxID)
	return &sandboxapi.PingResponse{}, err
}

// shutdownDelay is how long the answer to ShutdownSandbox may take to be sent: containerd
// takes a connection that ends before the answer for a failure.
const shutdownDelay = 50 * time.Millisecond

// ShutdownSandbox implements the Sandbox API: the sandbox and the shim end.
func (s *Service) ShutdownSandbox(ctx context.Context, r *sandboxapi.ShutdownSandboxRequest) (*sandboxapi.ShutdownSandboxResponse, error) {
	sb, err := s.find(r.SandboxID)
	switch {
	case err == nil:
		err = s.stop(ctx, sb)
	case errdefs.IsNotFound(err):
		err = nil // its create failed
	}
	time.AfterFunc(shutdownDelay, s.shim.Shutdown)
	return &sandboxapi.ShutdownSandboxResponse{}, err
}

// SandboxMetrics implements the Sandbox API with what the VM uses on the host.
func (s *Service) SandboxMetrics(_ context.Context, r *sandboxapi.SandboxMetricsRequest) (*sandboxapi.SandboxMetricsResponse, error) {
	if _, err := s.find(r.SandboxID); err != nil {
		return nil, err
	}
	running, err := s.pod.Sandbox()
	if err != nil {
		return nil, err
	}
	metrics, err := running.Metrics()
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
