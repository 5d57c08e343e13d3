package cgroup

import (
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// vmmAllowance is what the processes of a VM may use of memory beside the guest's own,
// in bytes: VMM, file servers, shim, and the host's cache of what the guest has opened.
// docs/decisions has the measurement.
const vmmAllowance = 256 << 20

// maxTasks is how many processes and threads a VM may have on the host, so that an
// intruder in one of them does not take the host's. Counted on a host with two
// processors, VMM, file servers, shim and msb-shield have about 60, and each container 2:
// one is msb-placeholder's, one is the shim's that watches it. With 64 processors, where VMM
// and shim may have a thread for each, more than 300 containers of a pod still fit.
const maxTasks = 1024

// Names of controllers, the same in both versions.
const (
	cpuController    = "cpu"
	cpusetController = "cpuset"
	memoryController = "memory"
	pidsController   = "pids"
)

// Resources are the limits of a container for the host's side of its VM. CPU limits hold
// there as they are. Memory and the number of processes and threads are always limited,
// whatever the spec says: the VM may use its guest's RAM, which is sized by the spec's
// limit if there is one, and an allowance. What else concerns the processes of the
// container, such as its own pids limit and devices, holds in the guest.
func Resources(resources *specs.LinuxResources, guestMemory int64) *specs.LinuxResources {
	memory, tasks := guestMemory+vmmAllowance, int64(maxTasks)
	host := &specs.LinuxResources{
		Memory: &specs.LinuxMemory{Limit: &memory},
		Pids:   &specs.LinuxPids{Limit: &tasks},
	}
	if resources != nil && resources.CPU != nil {
		cpu := *resources.CPU
		cpu.RealtimePeriod, cpu.RealtimeRuntime = nil, nil
		host.CPU = &cpu
	}
	return host
}

// limits are those of a VM's group.
type limits struct {
	all   *specs.LinuxResources
	asked []string // controllers of those that the spec asks for
}

func limitsOf(resources *specs.LinuxResources, guestMemory int64) limits {
	l := limits{all: Resources(resources, guestMemory)}
	if cpu := l.all.CPU; cpu != nil {
		if cpu.Shares != nil || cpu.Quota != nil || cpu.Period != nil || cpu.Burst != nil || cpu.Idle != nil {
			l.asked = append(l.asked, cpuController)
		}
		if cpu.Cpus != "" || cpu.Mems != "" {
			l.asked = append(l.asked, cpusetController)
		}
	}
	if resources != nil && resources.Memory != nil && resources.Memory.Limit != nil && *resources.Memory.Limit > 0 {
		l.asked = append(l.asked, memoryController)
	}
	return l
}

// settle leaves out what the active controllers cannot limit, and names the missing ones:
// a container runs where runc would run it. That a limit of the spec cannot be set is an
// error.
func (l limits) settle(active []string) (_ *specs.LinuxResources, missing []string, err error) {
	for _, controller := range l.asked {
		if !slices.Contains(active, controller) {
			missing = append(missing, controller)
		}
	}
	if len(missing) > 0 {
		return nil, nil, fmt.Errorf("the spec's limits cannot be set: %s: mount the controller (version 1), or let the groups above pass it on (version 2, cgroup.subtree_control): %w", noController(missing), errdefs.ErrFailedPrecondition)
	}
	possible := *l.all
	if !slices.Contains(active, memoryController) {
		possible.Memory, missing = nil, append(missing, memoryController)
	}
	if !slices.Contains(active, pidsController) {
		possible.Pids, missing = nil, append(missing, pidsController)
	}
	return &possible, missing, nil
}

func noController(names []string) string {
	return "the host has no controller " + strings.Join(names, ", ") + " here"
}
