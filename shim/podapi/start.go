package podapi

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/count"
	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
	"github.com/msb-runtime/containerd-shim-msb/shim/pod"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
)

// resolvConf is the node's (resolv.conf(5)).
const resolvConf = "/etc/resolv.conf"

// StartSandbox implements the Sandbox API: it boots the VM. After an error the
// sandbox has ended.
func (s *Service) StartSandbox(ctx context.Context, r *sandboxapi.StartSandboxRequest) (*sandboxapi.StartSandboxResponse, error) {
	sb, err := s.find(r.SandboxID)
	if err != nil {
		return nil, s.notCreated(err)
	}
	if err := s.beginStart(sb); err != nil {
		return nil, err
	}
	err = s.start(ctx, sb)
	count.AddStart(sb.vm, err == nil)
	if err != nil {
		if endErr := s.pod.End(context.WithoutCancel(ctx)); endErr != nil {
			log.G(ctx).WithError(endErr).Warn("undoing a failed start of a sandbox")
		}
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return &sandboxapi.StartSandboxResponse{Pid: sb.pid, CreatedAt: timestamppb.New(sb.createdAt)}, nil
}

// notCreated is the error for a start, which is too early where there is no sandbox at all.
func (s *Service) notCreated(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sandbox != nil {
		return err
	}
	return fmt.Errorf("this shim has no sandbox to start, CreateSandbox comes first: %w", errdefs.ErrFailedPrecondition)
}

// beginStart refuses a second start.
func (s *Service) beginStart(sb *podSandbox) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if sb.starting || sb.stopping {
		return fmt.Errorf("sandbox %s was started or stopped before: %w", sb.id, errdefs.ErrFailedPrecondition)
	}
	sb.starting = true
	return nil
}

// start boots the VM and makes in it what the pod's containers share.
func (s *Service) start(ctx context.Context, sb *podSandbox) error {
	booted, err := s.pod.Boot(ctx, func(ctx context.Context, place *sandbox.Prepared) (*sandbox.Sandbox, error) {
		request, err := sb.guestRequest(place.Mounts())
		if err != nil {
			return nil, err
		}
		for _, file := range request.Files {
			if file.Name == filepath.Base(spec.ResolvConf) {
				place.Sockets.Resolvers.Add(file.Content)
			}
		}
		var placeholder sandbox.Process
		running, err := place.Boot(ctx, func(placeholders sandbox.Placeholders) (err error) {
			placeholder, err = placeholders.ForPod()
			return err
		})
		if err != nil {
			return nil, err
		}
		guestPid, err := running.Guest.CreatePod(ctx, request)
		if err != nil {
			return nil, err
		}
		s.pod.SetHolder(pod.Holder{Pid: uint32(placeholder.Pid()), Guest: guestPid})
		go s.watchPlaceholder(running, placeholder)
		return running, nil
	})
	if err != nil {
		return fmt.Errorf("starting sandbox %s: %w", sb.id, err)
	}
	booted.Refill()
	s.mu.Lock()
	defer s.mu.Unlock()
	sb.pid, sb.createdAt = s.pod.Holder().Pid, time.Now()
	return nil
}

// watchPlaceholder ends the pod with the process that stands for it: who kills that kills
// the pod. At the end of the pod it ends, too, before the VM does.
func (s *Service) watchPlaceholder(sb *sandbox.Sandbox, placeholder sandbox.Process) {
	select {
	case <-placeholder.Exited():
		if s.pod.State() >= pod.Ending {
			return
		}
		sb.End(fmt.Errorf("the pod's placeholder, process %d, was killed: %w", placeholder.Pid(), errdefs.ErrUnavailable))
	case <-sb.Done():
	}
}

// guestRequest is what the pod's containers share, for the agent. The node's files are those of
// a mount namespace.
func (p *podSandbox) guestRequest(mounts mountns.Namespace) (*api.CreatePodRequest, error) {
	hostname, err := p.plan.Hostname()
	if err != nil {
		return nil, err
	}
	node, err := readFile(mounts, resolvConf)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, err
	}
	request := &api.CreatePodRequest{
		SharedMemory: pod.SharedMemory,
		Namespaces:   &api.PodNamespaces{Hostname: hostname, Sysctls: p.plan.Sysctls()},
	}
	for name, content := range p.plan.Files(hostname, node) {
		request.Files = append(request.Files, &api.PodFile{Name: name, Content: content})
	}
	return request, nil
}

func readFile(mounts mountns.Namespace, path string) ([]byte, error) {
	file, err := mounts.OpenFile(path, os.O_RDONLY, 0)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	return io.ReadAll(file)
}
