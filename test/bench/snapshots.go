package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/image-spec/identity"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// furniture is where a layer of an image has what the jobs are done to.
const furniture = "/furniture"

// furnished is a committed snapshot with what the jobs are done to, above the image.
func furnished(ctx context.Context, host *harness.Host, snapshotter string, files int) (name string, err error) {
	image, err := imageSnapshot(ctx, host, snapshotter)
	if err != nil {
		return "", err
	}
	name = fmt.Sprintf("furnished-%d", files)
	return name, committed(ctx, host, snapshotter, name, image, func(dir string) error {
		return furnish(host, filepath.Join(dir, furniture), files)
	})
}

// layered is a committed snapshot of layers with a small file each above another, each above
// the one before. Those of the same bottom with fewer layers are its lower part.
func layered(ctx context.Context, host *harness.Host, snapshotter, bottom string, layers int) (name string, err error) {
	name = bottom
	for i := range layers {
		parent := name
		name = fmt.Sprintf("%s-and-%d", bottom, i+1)
		err := committed(ctx, host, snapshotter, name, parent, func(dir string) error {
			return os.WriteFile(filepath.Join(dir, fmt.Sprintf("layer%d", i+1)), []byte(name), 0o644)
		})
		if err != nil {
			return "", fmt.Errorf("layer %d: %w", i+1, err)
		}
	}
	return name, nil
}

// imageSnapshot is the committed snapshot of the image, which has one layer.
func imageSnapshot(ctx context.Context, host *harness.Host, snapshotter string) (name string, err error) {
	image, err := host.Client.GetImage(ctx, harness.Image)
	if err != nil {
		return "", err
	}
	if err := image.Unpack(ctx, snapshotter); err != nil {
		return "", err
	}
	layers, err := image.RootFS(ctx)
	if err != nil {
		return "", err
	}
	if len(layers) != 1 {
		return "", fmt.Errorf("image %s has %d layers, and one is counted on", harness.Image, len(layers))
	}
	return identity.ChainID(layers).String(), nil
}

// committed commits a snapshot with what fill does above another, unless it is there.
func committed(ctx context.Context, host *harness.Host, snapshotter, name, parent string, fill func(dir string) error) error {
	const key = "furnishing"
	kept := snapshots.WithLabels(map[string]string{"containerd.io/gc.root": time.Now().UTC().Format(time.RFC3339)})
	service := host.Client.SnapshotService(snapshotter)
	if _, err := service.Stat(ctx, name); !errdefs.IsNotFound(err) {
		return err
	}
	mounts, err := service.Prepare(ctx, key, parent, kept)
	if err != nil {
		return err
	}
	if err := mounted(ctx, host, mounts, fill); err != nil {
		return err
	}
	return service.Commit(ctx, name, key, kept)
}

// mounted does something where a snapshot is mounted.
func mounted(ctx context.Context, host *harness.Host, mounts []mount.Mount, do func(dir string) error) (err error) {
	// What is mounted would be garbage without a lease.
	ctx, release, err := host.Client.WithLease(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release(ctx)) }()
	manager := host.Client.MountManager()
	active, err := manager.Activate(ctx, "furnishing", mounts)
	if err == nil {
		defer func() { err = errors.Join(err, manager.Deactivate(ctx, active.Name)) }()
		mounts = active.System
	}
	dir, err := os.MkdirTemp(host.Dir, "furnishing-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(dir)) }()
	if err := mount.All(mounts, dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mount.UnmountAll(dir, 0)) }()
	return do(dir)
}

// furnish has the probe make what the jobs are done to.
func furnish(host *harness.Host, dir string, files int) error {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	tools := filepath.Join(host.Output, "tools")
	output, err := exec.Command(filepath.Join(tools, "probe"), "furnish", dir, strconv.Itoa(files), busybox, filepath.Join(tools, "containerd")).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, output)
	}
	return nil
}
