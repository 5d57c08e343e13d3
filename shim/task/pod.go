package task

import (
	"context"
	"errors"
	"fmt"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
)

// A pod's containers share one VM. Who makes it is the first: the sandbox container
// (it pauses, and its namespaces are the pod's), or CreateSandbox of the Sandbox API.
// The others join, and come and go. With the first, the VM goes.

// defaultSharedMemory is the size in bytes of a pod's /dev/shm where nobody says,
// as with containerd's CRI plugin.
const defaultSharedMemory = 64 << 20

// killPatience is how long containers may take to end with their pod.
const killPatience = 10 * time.Second

// sandboxOfPod is the running VM for a container that joins a pod.
func (s *Service) sandboxOfPod(pod string) (*sandbox.Sandbox, error) {
	sb, err := s.guest()
	s.mu.Lock()
	defer s.mu.Unlock()
	if sb == nil || s.podID != pod {
		if err == nil {
			err = errors.New("this shim runs another")
		}
		return nil, fmt.Errorf("the sandbox %s of the container's pod does not run, create the pod anew: %v: %w", pod, err, errdefs.ErrFailedPrecondition)
	}
	return sb, nil
}

// joined finds the namespaces that a container shares with others of its VM. The
// host knows them by the processes that stand for those.
func (s *Service) joined(sb *sandbox.Sandbox, plan *spec.Plan) (map[specs.LinuxNamespaceType]string, error) {
	if !plan.Users().Equal(sb.Users()) {
		return nil, fmt.Errorf("the container's user namespace is not that of its pod, which all containers of a microVM share: give both the same mappings: %w", errdefs.ErrInvalidArgument)
	}
	paths := make(map[specs.LinuxNamespaceType]string)
	for kind, pid := range plan.Joins() {
		guestPid := s.guestPidOf(uint32(pid))
		if guestPid == 0 {
			return nil, fmt.Errorf("the %s namespace of process %d is not of this container's pod, and a microVM cannot join others: %w", kind, pid, errdefs.ErrInvalidArgument)
		}
		paths[kind] = api.NamespacePath(guestPid, spec.NamespaceName(kind))
	}
	return paths, nil
}

// guestPidOf is the process in the guest for the one that stands for it on the
// host, or 0. What has ended has none: its pid may be another's.
func (s *Service) guestPidOf(pid uint32) uint32 {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pod != nil && s.pod.pid == pid {
		return s.pod.guestPid
	}
	for _, c := range s.containers {
		if c.created && c.anchor.Load() != nil && c.pid.Load() == pid {
			return c.guestPid
		}
	}
	return 0
}

// createPod makes in the guest what the containers of a pod with a sandbox container
// share.
func (s *Service) createPod(ctx context.Context, sb *sandbox.Sandbox, plan *spec.Plan) error {
	size := int64(defaultSharedMemory)
	if dir := plan.SandboxMemory(); dir != "" {
		var stat unix.Statfs_t
		if err := unix.Statfs(dir, &stat); err != nil {
			return fmt.Errorf("the size of the pod's shared memory %s: %w", dir, err)
		}
		size = int64(stat.Blocks) * stat.Bsize
	}
	_, err := sb.Guest.CreatePod(ctx, &api.CreatePodRequest{SharedMemory: size})
	return s.native(sb, err)
}

// podPlaces are the places in the guest of what a container has of its pod.
func (s *Service) podPlaces(c *container) (places spec.Places) {
	if c.pod.ID == "" {
		return places
	}
	places.SharedMemory = api.PodPath(api.PodSharedMemory)
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pod != nil {
		places.PodFiles = make(map[string]string)
		for _, name := range spec.PodFileNames {
			places.PodFiles[name] = api.PodPath(name)
		}
	}
	return places
}

// endPod ends the VM of a pod in order: what still runs in it is killed, its data is
// written back, and nothing on the host is in use any more. Its containers are
// left for their clients to delete.
func (s *Service) endPod(ctx context.Context) error {
	s.mu.Lock()
	sb := s.sandbox
	var rest []*container
	for _, c := range s.containers {
		if c.created {
			rest = append(rest, c)
		}
	}
	s.mu.Unlock()
	if sb == nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), killPatience)
	defer cancel()
	var errs []error
	for _, c := range rest {
		errs = append(errs, s.endMember(ctx, sb, c))
	}
	return errors.Join(append(errs, s.closeSandbox())...)
}

// endMember ends a container of a pod that ends.
func (s *Service) endMember(ctx context.Context, sb *sandbox.Sandbox, c *container) error {
	c.deletion.Lock()
	defer c.deletion.Unlock()
	if sb.Running() {
		s.mu.Lock()
		init := c.processes[""]
		s.mu.Unlock()
		if !init.hasExited() {
			if _, err := sb.Tasks.Kill(ctx, &taskapi.KillRequest{ID: c.id, Signal: uint32(unix.SIGKILL), All: true}); err != nil {
				log.G(ctx).WithError(err).WithField("id", c.id).Debug("killing a container with its pod")
			}
			select {
			case <-init.exited:
			case <-ctx.Done():
			}
		}
		if err := s.removeBundle(ctx, sb, c); err != nil {
			log.G(ctx).WithError(err).WithField("id", c.id).Warn("writing a container's data back at the end of its pod")
		}
	}
	return s.unshare(sb, c)
}
