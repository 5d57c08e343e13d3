package cgroup

import (
	"errors"
	"os"
	"slices"
	"syscall"

	"github.com/containerd/cgroups/v3/cgroup1"
	"golang.org/x/sys/unix"
)

// legacy is version 1: a group of the same path in each controller's hierarchy
// (Documentation/admin-guide/cgroup-v1/cgroups.rst).
type legacy struct {
	group, home cgroup1.Cgroup
}

func open1(path string, limits limits) (_ hierarchy, missing []string, err error) {
	home, err := cgroup1.Load(cgroup1.PidPath(os.Getpid()), cgroup1.WithHierarchy(mounted))
	if err != nil {
		return nil, nil, err
	}
	subsystems, err := mounted()
	if err != nil {
		return nil, nil, err
	}
	resources, missing, err := limits.settle(names(subsystems))
	if err != nil {
		return nil, nil, err
	}
	group, err := cgroup1.New(cgroup1.StaticPath(path), resources, cgroup1.WithHierarchy(mounted))
	if err != nil {
		return nil, nil, err
	}
	return legacy{group, home}, missing, nil
}

// mounted are the controllers whose hierarchies are there: what would be written into
// the directory of another would be a plain file.
func mounted() ([]cgroup1.Subsystem, error) {
	subsystems, err := cgroup1.Default()
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(subsystems, func(subsystem cgroup1.Subsystem) bool {
		tree, ok := subsystem.(interface{ Path(string) string })
		if !ok {
			return false
		}
		var file unix.Statfs_t
		err := unix.Statfs(tree.Path("/"), &file)
		return err != nil || file.Type != unix.CGROUP_SUPER_MAGIC
	}), nil
}

func names(subsystems []cgroup1.Subsystem) (names []string) {
	for _, subsystem := range subsystems {
		names = append(names, string(subsystem.Name()))
	}
	return names
}

func load1(path string) (hierarchy, error) {
	group, err := cgroup1.Load(cgroup1.StaticPath(path), cgroup1.WithHierarchy(mounted))
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

func (l legacy) update(limits limits) error {
	resources, _, err := limits.settle(names(l.group.Subsystems()))
	if err != nil {
		return err
	}
	return l.group.Update(resources)
}

func (l legacy) enter(pid int) error   { return l.group.AddProc(uint64(pid)) }
func (l legacy) leave(pid int) error   { return l.home.AddProc(uint64(pid)) }
func (l legacy) metrics() (any, error) { return l.group.Stat(cgroup1.IgnoreNotExist) }
func (l legacy) remove() error         { return l.group.Delete() }
