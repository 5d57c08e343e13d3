package task

import (
	"context"
	"fmt"
	"maps"
	"os"
	"slices"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
	"github.com/msb-runtime/containerd-shim-msb/shim/pod"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
)

// A pod's containers share one VM. Who makes it is its owner: the sandbox container (it
// pauses, and its namespaces are the pod's), or a sandbox of the Sandbox API. The others
// join, and come and go.

// joined finds the namespaces that a container shares with others of its VM, and returns
// of which it is to have the VM's. The host knows those of others by their placeholders.
func (s *Service) joined(p *sandbox.Prepared, plan *spec.Plan) (joined namespaces, err error) {
	if !plan.Users().Equal(p.Users()) {
		return namespaces{}, fmt.Errorf("the container's user namespace is not that of its pod, which all containers of a microVM share: give both the same mappings: %w", errdefs.ErrInvalidArgument)
	}
	if err := s.checkNetwork(p.Mounts(), p.Network(), plan.Network()); err != nil {
		return namespaces{}, err
	}
	joined = namespaces{paths: make(map[specs.LinuxNamespaceType]string), ofVM: slices.Clone(plan.HostNamespaces())}
	for kind, pid := range plan.Joins() {
		guestPid := s.guestPidOf(uint32(pid))
		switch {
		case guestPid != 0:
			joined.paths[kind] = namespacePath(guestPid, kind)
		case kind != specs.UserNamespace && isHosts(kind, pid):
			joined.ofVM = append(joined.ofVM, kind)
		default:
			return namespaces{}, fmt.Errorf("the %s namespace of process %d is not of this container's pod, and a microVM cannot join others: give the container one of its own: %w", kind, pid, errdefs.ErrInvalidArgument)
		}
	}
	if len(joined.ofVM) > 0 && !p.VMForHost() {
		return namespaces{}, plan.RefuseHost(joined.ofVM[0])
	}
	return joined, nil
}

// namespaces are those that a container shares with others of its VM.
type namespaces struct {
	paths map[specs.LinuxNamespaceType]string // in the guest
	ofVM  []specs.LinuxNamespaceType          // the VM's, which stand for the host's
}

func namespacePath(guestPid uint32, kind specs.LinuxNamespaceType) string {
	return api.NamespacePath(guestPid, spec.NamespaceName(kind))
}

// isHosts tells whether a namespace of a process is the host's, which the shim is in.
func isHosts(kind specs.LinuxNamespaceType, pid int) bool {
	name := spec.NamespaceName(kind)
	return sameFile(mountns.Namespace{}, fmt.Sprintf("/proc/%d/ns/%s", pid, name), "/proc/self/ns/"+name)
}

// sameFile tells whether two paths in a mount namespace lead to the same file, such as one
// namespace of another kind.
func sameFile(mounts mountns.Namespace, a, b string) bool {
	var first, second os.FileInfo
	err := mounts.Do(func() (err error) {
		if first, err = os.Stat(a); err != nil {
			return err
		}
		second, err = os.Stat(b)
		return err
	})
	return err == nil && os.SameFile(first, second)
}

// checkNetwork refuses a network namespace that is not the VM's: a VM has one network. Paths
// are those of a mount namespace.
func (s *Service) checkNetwork(mounts mountns.Namespace, has, want spec.Network) error {
	var pid uint32
	switch _, err := fmt.Sscanf(want.Path, "/proc/%d/ns/net", &pid); {
	case want.Path == "", want.Path == has.Path, err == nil && s.guestPidOf(pid) != 0:
		return nil
	case has.Path != "" && sameFile(mounts, want.Path, has.Path), has.Host && sameFile(mounts, want.Path, "/proc/self/ns/net"):
		return nil
	}
	return fmt.Errorf("the container asks for the network namespace %s, which is not that of its sandbox, and a microVM has one network: leave the path out: %w", want.Path, errdefs.ErrInvalidArgument)
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

// createPod makes in the guest what its containers share: with a sandbox container the pod's
// shared memory, and where namespaces of the VM stand for the host's, a process that holds
// some. They are not the agent's, which so is out of sight.
func (s *Service) createPod(ctx context.Context, sb *sandbox.Sandbox, c *container) error {
	size, err := sharedMemory(sb.Mounts(), c.plan)
	if err != nil {
		return err
	}
	request := &api.CreatePodRequest{SharedMemory: size}
	if sb.VMForHost() {
		name, err := os.Hostname()
		if err != nil {
			return err
		}
		request.Namespaces = &api.PodNamespaces{Hostname: name}
	}
	pid, err := sb.Guest.CreatePod(ctx, request)
	if err == nil && request.Namespaces != nil {
		s.pod.SetHolder(pod.Holder{Guest: pid})
	}
	return err
}

// sharedMemory is the size in bytes of a pod's shared memory, whose directory has its path in a
// mount namespace.
func sharedMemory(mounts mountns.Namespace, plan *spec.Plan) (int64, error) {
	dir := plan.SandboxMemory()
	if dir == "" {
		return pod.SharedMemory, nil
	}
	var stat unix.Statfs_t
	if err := mounts.Do(func() error { return unix.Statfs(dir, &stat) }); err != nil {
		return 0, fmt.Errorf("the size of the pod's shared memory %s: %w", dir, err)
	}
	return int64(stat.Blocks) * stat.Bsize, nil
}

// podPlaces are the places in the guest of what a container shares with others in its VM.
func (s *Service) podPlaces(c *container) (places spec.Places) {
	places.Joined = maps.Clone(c.attached.joined.paths)
	for _, kind := range c.attached.joined.ofVM {
		places.Joined[kind] = namespacePath(s.pod.Holder().Guest, kind)
	}
	if c.of.ID == "" {
		return places
	}
	places.SharedMemory = api.PodPath(api.PodSharedMemory)
	places.SharesIPC = c.of.Sandbox || places.Joined[specs.IPCNamespace] == namespacePath(s.podProcess(), specs.IPCNamespace)
	if s.pod.Held() {
		places.PodFiles = make(map[string]string)
		for _, name := range spec.PodFileNames {
			places.PodFiles[name] = api.PodPath(name)
		}
	}
	return places
}

// podProcess is the process in the guest whose namespaces are the pod's: the holder's, or
// that of the sandbox container.
func (s *Service) podProcess() uint32 {
	if s.pod.Held() {
		return s.pod.Holder().Guest
	}
	for _, member := range s.pod.Members() {
		if c, _ := member.(*container); c != nil && c.of.Sandbox {
			c.mu.Lock()
			defer c.mu.Unlock()
			return c.guestPid
		}
	}
	return 0
}
