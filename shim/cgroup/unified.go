package cgroup

import (
	"errors"
	"os"
	"syscall"

	"github.com/containerd/cgroups/v3/cgroup2"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// unified is version 2 (Documentation/admin-guide/cgroup-v2.rst).
type unified struct {
	group, home *cgroup2.Manager
	path        string // of group
	here        string // of home
}

const unifiedRoot = "/sys/fs/cgroup"

func open2(path string, limits limits) (_ hierarchy, missing []string, err error) {
	home, here, err := groupOf(os.Getpid())
	if err != nil {
		return nil, nil, err
	}
	group, err := cgroup2.NewManager(unifiedRoot, path, &cgroup2.Resources{})
	if err != nil {
		return nil, nil, err
	}
	u := unified{group, home, path, here}
	missing, err = u.limit(limits)
	if err != nil {
		return nil, nil, errors.Join(err, group.Delete())
	}
	return u, missing, nil
}

// groupOf is the one that a process is in, and its path.
func groupOf(pid int) (group *cgroup2.Manager, path string, err error) {
	if path, err = cgroup2.PidGroupPath(pid); err != nil {
		return nil, "", err
	}
	group, err = cgroup2.Load(path)
	return group, path, err
}

func join2(pid int) error {
	group, _, err := groupOf(pid)
	if err != nil {
		return err
	}
	return group.AddProc(uint64(os.Getpid()))
}

// limit sets what the group's controllers can, after turning all of them on.
func (u unified) limit(limits limits) (missing []string, err error) {
	turnedOn := enableControllers(u.group)
	active, err := u.group.Controllers()
	if err != nil {
		return nil, err
	}
	resources, missing, err := limits.settle(active)
	if err != nil {
		return nil, errors.Join(err, turnedOn) // which says why
	}
	return missing, u.group.Update(unifiedResources(resources))
}

// enableControllers turns all of them on for the group, as runc does: without limits of
// the spec yet it may get some, and its metrics are the controllers' files. One that the
// groups above cannot pass on (cgroup-v2.rst, "No Internal Process Constraint") is missed
// when a limit needs it.
func enableControllers(group *cgroup2.Manager) error {
	controllers, err := group.RootControllers()
	if err != nil {
		return err
	}
	var errs []error
	for _, controller := range controllers {
		errs = append(errs, group.ToggleControllers([]string{controller}, cgroup2.Enable))
	}
	return errors.Join(errs...)
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
		changed := *resources
		changed.CPU = &cpu
		resources = &changed
	}
	return cgroup2.ToResources(resources)
}

func load2(path string) (hierarchy, error) {
	if _, err := os.Stat(unifiedRoot + path); errors.Is(err, os.ErrNotExist) {
		return nil, nil
	}
	group, err := cgroup2.Load(path)
	return unified{group: group, path: path}, err
}

func (u unified) io() (string, dialect) { return unifiedRoot + u.path, unifiedDialect }

func (u unified) enter(pid int) error   { return u.group.AddProc(uint64(pid)) }
func (u unified) leave(pid int) error   { return u.home.AddProc(uint64(pid)) }
func (u unified) metrics() (any, error) { return u.group.Stat() }
func (u unified) remove() error         { return u.group.Delete() }
func (u unified) update(limits limits) error {
	_, err := u.limit(limits)
	return err
}
