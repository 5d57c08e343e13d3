package spec

import (
	"errors"
	"maps"
	"path"
	"slices"
	"strconv"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// Annotations by which containerd's CRI plugin tells which pod a container is of
// (containerd, internal/cri/annotations).
const (
	criContainerType = "io.kubernetes.cri.container-type"
	criSandboxID     = "io.kubernetes.cri.sandbox-id"
)

// Annotations of a sandbox container that tell the limits of its pod. Its own limits are
// those of a process that pauses.
const (
	criCPUQuota  = "io.kubernetes.cri.sandbox-cpu-quota"
	criCPUPeriod = "io.kubernetes.cri.sandbox-cpu-period"
	criCPUShares = "io.kubernetes.cri.sandbox-cpu-shares"
	criMemory    = "io.kubernetes.cri.sandbox-memory"
)

// vmResources are the limits that a VM is for: those of its container, or of the pod.
func vmResources(spec *specs.Spec, pod Pod, own *specs.LinuxResources) (*specs.LinuxResources, error) {
	if !pod.Sandbox {
		return own, nil
	}
	var errs []error
	number := func(name string) int64 {
		value, set := spec.Annotations[name]
		if !set {
			return 0
		}
		n, err := strconv.ParseInt(value, 10, 64)
		if err != nil {
			errs = append(errs, invalid("annotation %s: %q is not a number", name, value))
		}
		return n
	}
	resources := podResources(number(criCPUShares), number(criCPUQuota), number(criCPUPeriod), number(criMemory))
	return resources, errors.Join(errs...)
}

// podResources are the limits of a pod; what is not positive is none.
func podResources(shares, quota, period, memory int64) *specs.LinuxResources {
	resources := &specs.LinuxResources{CPU: &specs.LinuxCPU{}, Memory: &specs.LinuxMemory{}}
	if shares > 0 {
		value := uint64(shares)
		resources.CPU.Shares = &value
	}
	if quota > 0 {
		value := uint64(defaultPeriod)
		if period > 0 {
			value = uint64(period)
		}
		resources.CPU.Quota, resources.CPU.Period = &quota, &value
	}
	if memory > 0 {
		resources.Memory.Limit = &memory
	}
	return resources
}

// A Pod is what a container is part of.
type Pod struct {
	// ID is the sandbox's; empty means that the container is no pod's.
	ID string
	// Sandbox tells the pod's sandbox container, the one that pauses, from those
	// that join it.
	Sandbox bool
}

// PodOf reads the annotations of a container.
func PodOf(annotations map[string]string) Pod {
	switch annotations[criContainerType] {
	case "sandbox":
		return Pod{ID: annotations[criSandboxID], Sandbox: true}
	case "container":
		return Pod{ID: annotations[criSandboxID]}
	}
	return Pod{}
}

// Pod is the container's.
func (p *Plan) Pod() Pod { return p.pod }

// sharedMemory is where POSIX shared memory is (shm_overview(7)).
const sharedMemory = "/dev/shm"

// isSandboxMemory tells whether a bind is that of the directory which the CRI plugin
// makes for a pod's shared memory. The guest's own serves instead: mappings of it
// are shared, which those of a file server are not.
func isSandboxMemory(pod Pod, bind Bind) bool {
	source := path.Clean(bind.Source)
	return pod.ID != "" && !bind.Socket && bind.Destination == sharedMemory &&
		path.Base(source) == "shm" && path.Base(path.Dir(source)) == pod.ID
}

// SandboxMemory is the host's directory of the pod's shared memory, whose size tells
// that of the guest's; empty if the configuration names none.
func (p *Plan) SandboxMemory() string { return p.sandboxMemory }

// ResolvConf is where a container's resolver has its configuration (resolv.conf(5)).
const ResolvConf = "/etc/resolv.conf"

// Files of a pod, by the place where its containers find them.
var podFiles = map[string]string{"/etc/hostname": "hostname", "/etc/hosts": "hosts", ResolvConf: "resolv.conf"}

// PodFileNames are the names of the files that a pod's sandbox makes, if the client
// does not.
var PodFileNames = slices.Sorted(maps.Values(podFiles))

// podMounts replaces, in the mounts of a pod's container, its shared memory, and
// with files adds those that the configuration does not mount.
func podMounts(mounts []specs.Mount, memory string, files map[string]string, readOnly bool) []specs.Mount {
	taken := make(map[string]bool)
	for i, mount := range mounts {
		taken[mount.Destination] = true
		if memory != "" && mount.Destination == sharedMemory && mount.Type == "tmpfs" {
			mounts[i] = sharedMemoryMount(memory)
		}
	}
	if memory != "" && !taken[sharedMemory] {
		mounts = append(mounts, sharedMemoryMount(memory))
	}
	for _, place := range slices.Sorted(maps.Keys(podFiles)) {
		source, have := files[podFiles[place]]
		if !have || taken[place] {
			continue
		}
		options := []string{"bind", "rprivate"}
		if readOnly {
			options = append(options, "ro")
		}
		mounts = append(mounts, specs.Mount{Destination: place, Type: "bind", Source: source, Options: options})
	}
	return mounts
}

func sharedMemoryMount(source string) specs.Mount {
	return specs.Mount{Destination: sharedMemory, Type: "bind", Source: source, Options: []string{"bind", "rprivate", "rw", "nosuid", "nodev", "noexec"}}
}
