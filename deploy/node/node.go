// Package node installs msb on a node of Kubernetes and takes it off again: the kit,
// and what containerd is told of it.
package node

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/deploy/containerd"
	"github.com/msb-runtime/containerd-shim-msb/deploy/kit"
)

// Node is what is changed on a node.
type Node struct {
	Kit        kit.Store
	Containerd containerd.Containerd
}

// Install installs the kit in source, or upgrades to it, for holder: it is for holder
// to take it off, unless somebody else installs after. After an error the node is as
// it was before.
func (n Node) Install(ctx context.Context, source fs.FS, holder string) (err error) {
	unlock, err := n.Kit.Lock()
	if err != nil {
		return err
	}
	defer unlock()
	before, err := n.Kit.Current()
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.back(before))
		}
	}()
	version, err := n.Kit.Put(source)
	if err != nil {
		return err
	}
	if err := n.Kit.Use(version); err != nil {
		return err
	}
	if err := n.Containerd.Add(ctx); err != nil {
		return err
	}
	if err := n.Kit.Hold(holder); err != nil {
		return err
	}
	inUse, err := n.Kit.Prune()
	if err != nil {
		return err
	}
	slog.Info("installed", "version", version, "before", before, "processes of earlier versions", inUse)
	return nil
}

// back undoes an installation that failed.
func (n Node) back(before string) error {
	if err := n.Kit.Use(before); err != nil {
		return err
	}
	inUse, err := n.Kit.Prune()
	if err != nil || before != "" || len(inUse) > 0 {
		return err
	}
	return n.removeEmpty()
}

// removeEmpty removes the store unless something is in it: versions in use, or a note
// of a restart of containerd that failed.
func (n Node) removeEmpty() error {
	if err := n.Kit.Remove(); !errors.Is(err, unix.ENOTEMPTY) {
		return err
	}
	return nil
}

// poll is how often Uninstall looks whether the VMs have ended.
const poll = time.Second

// Uninstall takes off what holder installed, and returns at once if somebody else
// installed after. New pods are refused from the beginning; those that run keep their
// kit, and Uninstall waits for them as long as ctx lets it.
func (n Node) Uninstall(ctx context.Context, holder string) error {
	mine, err := n.withdraw(ctx, holder)
	if !mine || err != nil {
		return err
	}
	for said := 0; ; {
		gone, inUse, err := n.remove()
		if gone || err != nil {
			return err
		}
		if said != len(inUse) {
			said = len(inUse)
			slog.Info("waiting for the VMs that run from this kit", "processes", inUse)
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("processes %v still run from the kit, which is left in %s", inUse, n.Kit.Dir)
		case <-time.After(poll):
		}
	}
}

// withdraw makes the kit known to nobody, if it is holder's.
func (n Node) withdraw(ctx context.Context, holder string) (mine bool, err error) {
	unlock, err := n.Kit.Lock()
	if err != nil {
		return false, err
	}
	defer unlock()
	now, err := n.Kit.Holder()
	if err != nil {
		return false, err
	}
	switch now {
	case holder:
	case "":
		return false, n.removeEmpty()
	default:
		slog.Info("left as it is: another has installed since", "holder", now)
		return false, nil
	}
	if err := n.Containerd.Remove(ctx); err != nil {
		return false, err
	}
	if err := n.Kit.Use(""); err != nil {
		return false, err
	}
	return true, n.Kit.Hold("")
}

// remove removes what no process runs from. It is gone also when another has
// installed: then the rest is the other's.
func (n Node) remove() (gone bool, inUse []int, err error) {
	unlock, err := n.Kit.Lock()
	if err != nil {
		return false, nil, err
	}
	defer unlock()
	if holder, err := n.Kit.Holder(); err != nil || holder != "" {
		return true, nil, err
	}
	if inUse, err = n.Kit.Prune(); err != nil || len(inUse) > 0 {
		return false, inUse, err
	}
	return true, nil, n.Kit.Remove()
}
