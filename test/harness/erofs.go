package harness

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/pkg/namespaces"
)

// Erofs is containerd's snapshotter whose layers are files with an erofs.
const Erofs = "erofs"

// ErofsSize has the writable layer of a container of that snapshotter be a file with an ext4
// of a size, such as 64MiB, and not a directory (default_size in its documentation).
func ErofsSize(size string) Option {
	return func(h *Host) error {
		if h.release == release17 || h.release == "2.0" {
			return nil // they have no such snapshotter
		}
		h.plugins += fmt.Sprintf("[plugins.\"io.containerd.snapshotter.v1.erofs\"]\n  default_size = %q\n", size)
		return nil
	}
}

// Runtime handlers whose containers are in that snapshotter, with a containerd that has
// ErofsPods, as PauseHandler and SandboxHandler are.
const (
	PauseErofsHandler   = "msb-erofs"
	SandboxErofsHandler = "msb-sandbox-erofs"
)

const erofsPods = `[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.msb-erofs]
  runtime_type = %[1]q
  sandboxer = "podsandbox"
  snapshotter = "erofs"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.msb-sandbox-erofs]
  runtime_type = %[1]q
  sandboxer = "shim"
  disable_pause_image_pull = true
  snapshotter = "erofs"
`

// ErofsPods has CRI's containers of two more handlers be in that snapshotter. Earlier
// containerds, which may have none, stay as they are.
func ErofsPods(h *Host) error {
	if h.release == "" {
		h.plugins += fmt.Sprintf(erofsPods, Runtime)
	}
	return nil
}

// LayersImage is an image of twelve layers, which ImportLayers imports.
const LayersImage = "msb.test/layers:latest"

// ImportLayers imports LayersImage into a namespace of containerd, and unpacks it for
// snapshotters.
//
// The CRI plugin, which unpacks what is not, takes several layers at a time, each above
// nothing. Where mkfs.erofs is older than 1.7, the differ that containerd takes then has nothing
// to remove, and what a layer removes comes back (containerd's issue 13030, of which 2.4
// knows for overlayfs alone).
func (h *Host) ImportLayers(namespace string, snapshotters ...string) error {
	_, stderr, code := h.Ctr("--namespace", namespace, "image", "import", filepath.Join(h.Output, "images", "layers.tar"))
	if code != 0 {
		return fmt.Errorf("importing the image of twelve layers: %s", stderr)
	}
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(context.Background(), namespace), Patience)
	defer cancel()
	image, err := h.Client.GetImage(ctx, LayersImage)
	if err != nil {
		return err
	}
	for _, snapshotter := range snapshotters {
		if err := image.Unpack(ctx, snapshotter); err != nil {
			return fmt.Errorf("unpacking the image of twelve layers for %s: %w", snapshotter, err)
		}
	}
	return nil
}

// loopDevices are the files of a directory that loop devices hold, by device
// (Documentation/ABI/stable/sysfs-block, loop/backing_file).
func loopDevices(dir string) (held []string) {
	files, _ := filepath.Glob("/sys/block/loop*/loop/backing_file")
	for _, file := range files {
		if backing, err := os.ReadFile(file); err == nil && strings.HasPrefix(string(backing), dir+"/") {
			held = append(held, fmt.Sprintf("loop device %s of %s", strings.Split(file, "/")[3], strings.TrimSpace(string(backing))))
		}
	}
	return held
}
