package shell

import (
	"context"
	"errors"
	"fmt"
	"path"

	"github.com/containerd/errdefs"

	guestapi "github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/share"
)

// add shares a directory of the host, read-only and without what is mounted below it.
func add(sb *sandbox.Sandbox, tools string) (share.Share, error) {
	if !path.IsAbs(tools) {
		return share.Share{}, fmt.Errorf("the directory of programs %q has no absolute path: %w", tools, errdefs.ErrInvalidArgument)
	}
	source, err := share.OpenSource(sb.HostMounts(), tools)
	if err != nil {
		return share.Share{}, err
	}
	defer source.Close()
	if !source.IsDir() {
		return share.Share{}, fmt.Errorf("%s is no directory: %w", tools, errdefs.ErrInvalidArgument)
	}
	return sb.Trees.Add(source, share.Attributes{ReadOnly: true})
}

// remove undoes add: first the guest lets go, then the host.
func remove(ctx context.Context, sb *sandbox.Sandbox, id string, shared share.Share) error {
	if !sb.Trees.Release(shared) {
		return nil // a container has it, too
	}
	var err error
	if sb.Running() {
		// Of the bundle there is nothing.
		_, err = sb.Guest.RemoveBundle(ctx, &guestapi.RemoveBundleRequest{Container: id, Shares: []string{shared.Tag}})
	}
	return errors.Join(err, sb.Trees.Remove(shared))
}

// name is the id of a stream by its FIFO in the guest; empty if there is none.
func name(fifo string) string {
	if fifo == "" {
		return ""
	}
	return path.Base(fifo)
}
