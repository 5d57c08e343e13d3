// Package cgroup puts a VM into the control group that the OCI spec names, so
// that the host's limits and accounting hold for it.
//
// The shim enters the group before it starts anything, so everything it starts
// is in it from the first instruction. At the end the shim goes back to where
// it came from and removes the group; what a killed shim left, Remove does.
// Groups are made through the file system in both forms of the path: a unit of
// systemd is a directory where systemd would have made it.
package cgroup

import (
	"errors"
	"fmt"
	"os"
	"syscall"
	"time"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"
)

// vmmAllowance is what the processes of a VM may use of a limited memory beside
// the guest's own, in bytes: VMM, file servers, shim, and the host's cache of what
// the guest has opened. docs/architecture.md has the measurement.
const vmmAllowance = 256 << 20

// removal is how long the processes of a group may take to end.
const removal = 5 * time.Second

// A Group is a control group with this process in it.
type Group struct {
	path string
	hierarchy
}

// hierarchy is a group in one of the two versions of the kernel's interface.
type hierarchy interface {
	// enter and leave move a process into the group and back.
	enter(pid int) error
	leave(pid int) error
	update(resources *specs.LinuxResources) error
	remove() error
	// metrics are containerd's of the group, in the version's own form.
	metrics() (any, error)
	// outside starts a process that is not in the group.
	outside(start func(*syscall.SysProcAttr) error) error
}

// Enter makes the group, sets the limits of the VM's host side, and moves this
// process into it. A nil Group, which an empty path gives, is none: everything
// stays where it is.
func Enter(cgroupsPath string, resources *specs.LinuxResources, guestMemory int64) (_ *Group, err error) {
	path, err := Path(cgroupsPath)
	if path == "" || err != nil {
		return nil, err
	}
	group, err := open(path, Resources(resources, guestMemory))
	if err != nil {
		return nil, failed(path, "making it", err)
	}
	g := &Group{path: path, hierarchy: group}
	if err := g.enter(os.Getpid()); err != nil {
		return nil, errors.Join(failed(path, "entering it", err), g.remove())
	}
	return g, nil
}

// Update sets the limits anew, after a request that changes them.
func (g *Group) Update(resources *specs.LinuxResources, guestMemory int64) error {
	if g == nil {
		return nil
	}
	if err := g.update(Resources(resources, guestMemory)); err != nil {
		return failed(g.path, "changing its limits", err)
	}
	return nil
}

// Metrics are what the group uses: the VMM, its file servers, the shim.
func (g *Group) Metrics() (*anypb.Any, error) {
	if g == nil {
		return nil, fmt.Errorf("the VM has no control group of its own, and so no metrics: %w", errdefs.ErrNotFound)
	}
	metrics, err := g.metrics()
	if err != nil {
		return nil, failed(g.path, "reading what it uses", err)
	}
	return typeurl.MarshalAnyToProto(metrics)
}

// Outside calls start, which starts a process with the attributes it gets (nil for
// none): where this process was before it entered the group. The calling goroutine
// has a thread of its own, which ends with it.
func (g *Group) Outside(start func(*syscall.SysProcAttr) error) error {
	if g == nil {
		return start(nil)
	}
	if err := g.outside(start); err != nil {
		return fmt.Errorf("outside of the control group %s: %w", g.path, err)
	}
	return nil
}

// Close moves this process back and removes the group, whose other processes
// have ended.
func (g *Group) Close() error {
	if g == nil {
		return nil
	}
	if err := g.leave(os.Getpid()); err != nil {
		return failed(g.path, "leaving it", err)
	}
	return removeSoon(g.path, g)
}

// Remove removes the group that a killed shim left, if it did.
func Remove(cgroupsPath string) error {
	path, err := Path(cgroupsPath)
	if path == "" || err != nil {
		return err
	}
	group, err := load(path)
	if err != nil || group == nil {
		return err
	}
	return removeSoon(path, group)
}

// removeSoon removes a group when its last process has ended: those of a killed
// shim are being killed, too.
func removeSoon(path string, group hierarchy) error {
	for deadline := time.Now().Add(removal); ; time.Sleep(10 * time.Millisecond) {
		err := group.remove()
		if err == nil {
			return nil
		}
		if time.Now().After(deadline) {
			return failed(path, "removing it", err)
		}
	}
}

func failed(path, what string, err error) error {
	return fmt.Errorf("control group %s: %s: %w (%w)", path, what, err, errdefs.ErrFailedPrecondition)
}

// Resources are the limits of a container for the host's side of its VM. CPU
// limits hold there as they are. Of a limited memory the VM may use its guest's
// RAM and an allowance. What concerns the processes of the container, such as
// pids and devices, holds in the guest.
func Resources(resources *specs.LinuxResources, guestMemory int64) *specs.LinuxResources {
	host := new(specs.LinuxResources)
	if resources == nil {
		return host
	}
	if resources.CPU != nil {
		cpu := *resources.CPU
		cpu.RealtimePeriod, cpu.RealtimeRuntime = nil, nil
		host.CPU = &cpu
	}
	if memory := resources.Memory; memory != nil && memory.Limit != nil && *memory.Limit > 0 {
		limit := guestMemory + vmmAllowance
		host.Memory = &specs.LinuxMemory{Limit: &limit}
	}
	return host
}

func open(path string, resources *specs.LinuxResources) (hierarchy, error) {
	if cgroups.Mode() == cgroups.Unified {
		return open2(path, resources)
	}
	return open1(path, resources)
}

func load(path string) (hierarchy, error) {
	if cgroups.Mode() == cgroups.Unified {
		return load2(path)
	}
	return load1(path)
}

// unified is version 2 (Documentation/admin-guide/cgroup-v2.rst).
type unified struct {
	group, home *cgroup2.Manager
	here        string // path of home
}

const unifiedRoot = "/sys/fs/cgroup"

func open2(path string, resources *specs.LinuxResources) (hierarchy, error) {
	here, err := cgroup2.PidGroupPath(os.Getpid())
	if err != nil {
		return nil, err
	}
	home, err := cgroup2.Load(here)
	if err != nil {
		return nil, err
	}
	group, err := cgroup2.NewManager(unifiedRoot, path, unifiedResources(resources))
	if err != nil {
		return nil, err
	}
	if err := enableControllers(group); err != nil {
		return nil, errors.Join(err, group.Delete())
	}
	return unified{group, home, here}, nil
}

// enableControllers turns all of them on for the group, as runc does: without limits yet
// it may get some, and its metrics are the controllers' files. One that the groups above
// cannot pass on (cgroup-v2.rst, "No Internal Process Constraint") is missed when a limit
// needs it.
func enableControllers(group *cgroup2.Manager) error {
	controllers, err := group.RootControllers()
	if err != nil {
		return err
	}
	for _, controller := range controllers {
		_ = group.ToggleControllers([]string{controller}, cgroup2.Enable)
	}
	return nil
}

func (u unified) outside(start func(*syscall.SysProcAttr) error) error {
	dir, err := os.Open(unifiedRoot + u.here)
	if err != nil {
		return err
	}
	defer dir.Close()
	return start(&syscall.SysProcAttr{UseCgroupFD: true, CgroupFD: int(dir.Fd())})
}

// defaultPeriod of the CPU quota, in microseconds (cgroup-v2.rst, cpu.max).
const defaultPeriod = 100_000

// unifiedResources are limits in version 2's terms. The two numbers of cpu.max go
// together, and no limit is the word max.
func unifiedResources(resources *specs.LinuxResources) *cgroup2.Resources {
	if resources.CPU != nil && resources.CPU.Quota != nil {
		cpu := *resources.CPU
		if cpu.Period == nil || *cpu.Period == 0 {
			period := uint64(defaultPeriod)
			cpu.Period = &period
		}
		if *cpu.Quota <= 0 {
			cpu.Quota = nil
		}
		resources = &specs.LinuxResources{CPU: &cpu, Memory: resources.Memory}
	}
	return cgroup2.ToResources(resources)
}

func load2(path string) (hierarchy, error) {
	if _, err := os.Stat(unifiedRoot + path); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	group, err := cgroup2.Load(path)
	return unified{group: group}, err
}

func (u unified) enter(pid int) error   { return u.group.AddProc(uint64(pid)) }
func (u unified) leave(pid int) error   { return u.home.AddProc(uint64(pid)) }
func (u unified) metrics() (any, error) { return u.group.Stat() }
func (u unified) remove() error         { return u.group.Delete() }
func (u unified) update(resources *specs.LinuxResources) error {
	return u.group.Update(unifiedResources(resources))
}

// legacy is version 1: a group of the same path in each controller's hierarchy
// (Documentation/admin-guide/cgroup-v1/cgroups.rst).
type legacy struct {
	group, home cgroup1.Cgroup
}

func open1(path string, resources *specs.LinuxResources) (hierarchy, error) {
	home, err := cgroup1.Load(cgroup1.PidPath(os.Getpid()))
	if err != nil {
		return nil, err
	}
	group, err := cgroup1.New(cgroup1.StaticPath(path), resources)
	if err != nil {
		return nil, err
	}
	return legacy{group, home}, nil
}

func load1(path string) (hierarchy, error) {
	group, err := cgroup1.Load(cgroup1.StaticPath(path))
	if errors.Is(err, cgroup1.ErrCgroupDeleted) {
		return nil, nil
	}
	return legacy{group: group}, err
}

// outside moves the thread: its children are where it is.
func (l legacy) outside(start func(*syscall.SysProcAttr) error) error {
	if err := l.home.AddTask(cgroup1.Process{Pid: unix.Gettid()}); err != nil {
		return err
	}
	return start(nil)
}

func (l legacy) enter(pid int) error                          { return l.group.AddProc(uint64(pid)) }
func (l legacy) leave(pid int) error                          { return l.home.AddProc(uint64(pid)) }
func (l legacy) metrics() (any, error)                        { return l.group.Stat(cgroup1.IgnoreNotExist) }
func (l legacy) remove() error                                { return l.group.Delete() }
func (l legacy) update(resources *specs.LinuxResources) error { return l.group.Update(resources) }
