package cgroup

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/cgroups/v3/cgroup1"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"
)

// legacy is version 1: a group of the same path in each controller's hierarchy
// (Documentation/admin-guide/cgroup-v1/cgroups.rst).
type legacy struct {
	path        string
	group, home cgroup1.Cgroup
}

func open1(path string, limits limits) (_ hierarchy, missing []string, err error) {
	home, err := groupsOf("self")
	if err != nil {
		return nil, nil, fmt.Errorf("the shim's own groups, which it goes back to: %w", err)
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
	return legacy{path, group, home}, missing, nil
}

func join1(pid int) error {
	groups, err := groupsOf(strconv.Itoa(pid))
	if err != nil {
		return err
	}
	if err := groups.AddProc(uint64(os.Getpid())); err != nil || cgroups.Mode() != cgroups.Hybrid {
		return err
	}
	return joinBeside(filepath.Join(unifiedRoot, "unified"), filepath.Join("/proc", strconv.Itoa(pid), "cgroup"))
}

// joinBeside moves this process to where another is, by its file (cgroups(7)), in the hierarchy of
// version 2 that is mounted beside those of version 1. It limits nothing, and systemd follows the
// processes of its units by it.
func joinBeside(root, file string) error {
	_, path, err := cgroups.ParseCgroupFileUnified(file)
	if err != nil {
		return err
	}
	procs, err := os.OpenFile(filepath.Join(root, path, "cgroup.procs"), os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	_, err = procs.WriteString(strconv.Itoa(os.Getpid()))
	return errors.Join(err, procs.Close())
}

// groupsOf are those that a process, a directory of /proc, is in.
func groupsOf(process string) (cgroup1.Cgroup, error) {
	path, err := pathOf(filepath.Join("/proc", process, "cgroup"))
	if err != nil {
		return nil, err
	}
	return cgroup1.Load(path, cgroup1.WithHierarchy(mounted))
}

// pathOf is where a process is in each hierarchy, as seen from the root of its mount, by its file
// (cgroups(7)). One that is not mounted here, such as systemd's of a container that runs systemd, is
// left out.
func pathOf(file string) (cgroup1.Path, error) {
	paths, err := cgroup1.ParseCgroupFile(file)
	if err != nil {
		return nil, fmt.Errorf("reading %s: %w", file, err)
	}
	mounts, err := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup"))
	if err != nil {
		return nil, err
	}
	return func(name cgroup1.Name) (string, error) {
		for _, option := range []string{string(name), "name=" + string(name)} {
			path, in := paths[option]
			root, isMounted := rootOf(mounts, option)
			if !in || !isMounted {
				continue
			}
			below, err := filepath.Rel(root, path)
			if err != nil {
				return "", fmt.Errorf("%s: %s of %s is not below its mount's root %s: %w", file, path, option, root, err)
			}
			return filepath.Join("/", below), nil
		}
		return "", cgroup1.ErrControllerNotActive
	}, nil
}

// rootOf is the directory of a hierarchy that is mounted (proc_pid_mountinfo(5)).
func rootOf(mounts []*mountinfo.Info, option string) (root string, isMounted bool) {
	for _, mount := range mounts {
		if slices.Contains(strings.Split(mount.VFSOptions, ","), option) {
			return mount.Root, true
		}
	}
	return "", false
}

// mounted are the controllers whose hierarchies are there: what would be written into
// the directory of another would be a plain file.
func mounted() ([]cgroup1.Subsystem, error) {
	subsystems, err := cgroup1.Default()
	if err != nil {
		return nil, fmt.Errorf("control groups of version 1: %w", err)
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
	return legacy{path: path, group: group}, err
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

func (l legacy) io() (string, dialect) {
	for _, subsystem := range l.group.Subsystems() {
		if tree, ok := subsystem.(interface{ Path(string) string }); ok && subsystem.Name() == cgroup1.Blkio {
			return tree.Path(l.path), legacyDialect
		}
	}
	return "", legacyDialect
}

func (l legacy) enter(pid int) error   { return l.group.AddProc(uint64(pid)) }
func (l legacy) leave(pid int) error   { return l.home.AddProc(uint64(pid)) }
func (l legacy) metrics() (any, error) { return l.group.Stat(cgroup1.IgnoreNotExist) }
func (l legacy) remove() error         { return l.group.Delete() }
