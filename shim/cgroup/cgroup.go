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
	"sync"
	"syscall"
	"time"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"
)

// removal is how long the processes of a group may take to end.
const removal = 5 * time.Second

// A Group is a control group with this process in it.
type Group struct {
	path string
	hierarchy

	leaving sync.Once
	left    error // why this process is still in it; set by leaving
}

// hierarchy is a group in one of the two versions of the kernel's interface.
type hierarchy interface {
	// enter and leave move a process into the group and back.
	enter(pid int) error
	leave(pid int) error
	update(limits limits) error
	remove() error
	// metrics are containerd's of the group, in the version's own form.
	metrics() (any, error)
	// io is the directory of the group for limits of input and output, empty where the host
	// has no controller for them, and how they are written.
	io() (dir string, dialect dialect)
	// outside starts a process that is not in the group.
	outside(start func(*syscall.SysProcAttr) error) error
}

// Enter makes the group, sets the limits of the VM's host side (Resources), and moves
// this process into it, and others, which run already, or have just ended: what they have
// used before stays where it was charged (cgroup-v2.rst, "Memory Ownership"). guestMemory is
// the guest's RAM, in bytes. A nil Group, which an empty path gives, is none: everything
// stays where it is, without limits. Where the host has no controller for a limit, one that the spec asks for is an error, of the
// class errdefs.ErrFailedPrecondition, and the others are missed with a warning: so are
// limits of input and output that the host's kernel or its disks do not have.
func Enter(cgroupsPath string, resources *specs.LinuxResources, guestMemory int64, others ...int) (_ *Group, err error) {
	path, err := Path(cgroupsPath)
	if path == "" || err != nil {
		return nil, err
	}
	group, missing, err := open(path, limitsOf(resources, guestMemory))
	if err != nil {
		return nil, failed(path, "making it", err)
	}
	if len(missing) > 0 {
		log.L.Warnf("control group %s: %s: the VM has no such limit on the host; mount the controller (version 1), or let the groups above pass it on (version 2, cgroup.subtree_control)",
			path, noController(missing))
	}
	g := &Group{path: path, hierarchy: group}
	if err := g.limitIO(resources); err != nil {
		return nil, errors.Join(failed(path, "limiting input and output", err), g.remove())
	}
	for _, pid := range others {
		if err := g.enter(pid); err != nil && !hasEnded(err) {
			return nil, errors.Join(failed(path, "entering it", err), g.back(others))
		}
	}
	if err := g.enter(os.Getpid()); err != nil {
		return nil, errors.Join(failed(path, "entering it", err), g.back(others))
	}
	return g, nil
}

// hasEnded tells that a process cannot be moved because it is not there any more.
func hasEnded(err error) bool { return errors.Is(err, unix.ESRCH) }

// back moves processes back to where this one came from, and removes the group.
func (g *Group) back(others []int) error {
	var errs []error
	for _, pid := range others {
		if err := g.leave(pid); err != nil && !hasEnded(err) {
			errs = append(errs, err)
		}
	}
	return errors.Join(append(errs, g.remove())...)
}

// Update sets the limits anew, after a request that changes them. Those that the group
// always has, it keeps.
func (g *Group) Update(resources *specs.LinuxResources, guestMemory int64) error {
	if g == nil {
		return nil
	}
	if err := g.update(limitsOf(resources, guestMemory)); err != nil {
		return failed(g.path, "changing its limits", err)
	}
	if err := g.limitIO(resources); err != nil {
		return failed(g.path, "limiting input and output", err)
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

// Join moves this process to where another is.
func Join(pid int) error {
	join := join1
	if cgroups.Mode() == cgroups.Unified {
		join = join2
	}
	if err := join(pid); err != nil {
		return fmt.Errorf("joining the control groups of process %d: %w", pid, err)
	}
	return nil
}

// Leave moves this process back, once. The kernel takes its time for that, a grace period in each
// hierarchy, in which other processes of the group may end.
func (g *Group) Leave() error {
	if g == nil {
		return nil
	}
	g.leaving.Do(func() {
		if err := g.leave(os.Getpid()); err != nil {
			g.left = failed(g.path, "leaving it", err)
		}
	})
	return g.left
}

// Close moves this process back and removes the group, whose other processes
// have ended.
func (g *Group) Close() error {
	if g == nil {
		return nil
	}
	if err := g.Leave(); err != nil {
		return err
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

// open makes the group with its limits and names the controllers of those that were
// missed.
func open(path string, limits limits) (_ hierarchy, missing []string, err error) {
	if cgroups.Mode() == cgroups.Unified {
		return open2(path, limits)
	}
	return open1(path, limits)
}

func load(path string) (hierarchy, error) {
	if cgroups.Mode() == cgroups.Unified {
		return load2(path)
	}
	return load1(path)
}
