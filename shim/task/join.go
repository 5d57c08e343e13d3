package task

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/pod"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
)

// A pod's containers share one VM. Who makes it is its owner: the sandbox container (it
// pauses, and its namespaces are the pod's), or a sandbox of the Sandbox API. The others
// join, and come and go.

// joined finds the namespaces that a container shares with others of its VM. The
// host knows them by the placeholders of those.
func (s *Service) joined(p *sandbox.Prepared, plan *spec.Plan) (map[specs.LinuxNamespaceType]string, error) {
	if !plan.Users().Equal(p.Users()) {
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

// guestPidOf is the process in the guest for a placeholder of the host, or 0. What has
// ended has none: its pid may be another's.
func (s *Service) guestPidOf(pid uint32) uint32 {
	if holder := s.pod.Holder(); holder.Pid == pid {
		return holder.Guest
	}
	for _, member := range s.pod.Members() {
		c, _ := member.(*container)
		if c == nil {
			continue
		}
		c.mu.Lock()
		stands := c.created && c.stand != nil && c.taskPid == pid
		guestPid := c.guestPid
		c.mu.Unlock()
		if stands {
			return guestPid
		}
	}
	return 0
}

// createPod makes in the guest what the containers of a pod with a sandbox container
// share.
func createPod(ctx context.Context, sb *sandbox.Sandbox, plan *spec.Plan) error {
	size := int64(pod.SharedMemory)
	if dir := plan.SandboxMemory(); dir != "" {
		var stat unix.Statfs_t
		if err := unix.Statfs(dir, &stat); err != nil {
			return fmt.Errorf("the size of the pod's shared memory %s: %w", dir, err)
		}
		size = int64(stat.Blocks) * stat.Bsize
	}
	_, err := sb.Guest.CreatePod(ctx, &api.CreatePodRequest{SharedMemory: size})
	return err
}

// podPlaces are the places in the guest of what a container has of its pod.
func (s *Service) podPlaces(c *container) (places spec.Places) {
	if c.of.ID == "" {
		return places
	}
	places.SharedMemory = api.PodPath(api.PodSharedMemory)
	if s.pod.Held() {
		places.PodFiles = make(map[string]string)
		for _, name := range spec.PodFileNames {
			places.PodFiles[name] = api.PodPath(name)
		}
	}
	return places
}
