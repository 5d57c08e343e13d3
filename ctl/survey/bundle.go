package survey

import (
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
)

// The directories of containerd's plugins, below its state directory, that have bundles.
const (
	taskDir    = "io.containerd.runtime.v2.task"
	sandboxDir = "io.containerd.sandbox.controller.v1.shim"
)

// A bundle is the directory of a container, or of a sandbox of the Sandbox API.
type bundle struct {
	namespace, id, dir string
	isSandbox          bool            // of the Sandbox API: it is no container
	record             *sandbox.Record // nil where the VM was not made for it, or has ended
	address            string          // of the shim
}

// A group is the bundles of one shim.
type group struct {
	address string
	bundles []bundle
}

// owner is the bundle that the VM was made for, as far as that is known.
func (g group) owner() bundle {
	for _, is := range []func(bundle) bool{
		func(b bundle) bool { return b.record != nil },
		func(b bundle) bool { return b.isSandbox },
		bundle.hasShim,
	} {
		if i := slices.IndexFunc(g.bundles, is); i >= 0 {
			return g.bundles[i]
		}
	}
	return g.bundles[0]
}

func (g group) containers() []Container {
	containers := []Container{}
	for _, b := range g.bundles {
		if !b.isSandbox {
			containers = append(containers, Container{ID: b.id})
		}
	}
	return containers
}

// bundles are those of this runtime, grouped by shim.
func (h Host) bundles() (groups []group, err error) {
	for _, plugin := range []string{sandboxDir, taskDir} {
		dirs, err := filepath.Glob(filepath.Join(glob(h.State), plugin, "*", "*"))
		if err != nil {
			return nil, err
		}
		for _, dir := range dirs {
			b := bundle{
				namespace: filepath.Base(filepath.Dir(dir)), id: filepath.Base(dir), dir: dir, isSandbox: plugin == sandboxDir,
				address: addressIn(dir),
			}
			if b.record, err = sandbox.ReadRecord(dir); err != nil {
				b.record = nil // it is damaged, and the shim answers for itself
			}
			i := slices.IndexFunc(groups, func(g group) bool { return g.address == b.address && b.address != "" })
			if i < 0 {
				groups, i = append(groups, group{address: b.address}), len(groups)
			}
			groups[i].bundles = append(groups[i].bundles, b)
		}
	}
	return slices.DeleteFunc(groups, func(g group) bool { return !slices.ContainsFunc(g.bundles, bundle.ours) }), nil
}

// glob is a path whose characters mean themselves in a pattern.
func glob(path string) string {
	return strings.NewReplacer(`\`, `\\`, `*`, `\*`, `?`, `\?`, `[`, `\[`).Replace(path)
}

// ours tells whether the shim of a bundle is this runtime's: those of others leave none of
// these files.
func (b bundle) ours() bool { return b.record != nil || b.has("task.json") || b.has("runtime-options") }

// hasShim tells whether the shim was started for this bundle.
func (b bundle) hasShim() bool { return b.has("address") }

func (b bundle) has(name string) bool {
	_, err := os.Lstat(filepath.Join(b.dir, name))
	return err == nil
}

// addressIn is the address of a bundle's shim, by containerd's note, or else by the shim's own;
// empty if there is none yet.
func addressIn(dir string) string {
	var noted struct{ Address string }
	data, err := os.ReadFile(filepath.Join(dir, "bootstrap.json"))
	if err == nil && json.Unmarshal(data, &noted) == nil && noted.Address != "" {
		return noted.Address
	}
	data, err = os.ReadFile(filepath.Join(dir, "address"))
	if errors.Is(err, os.ErrNotExist) {
		return ""
	}
	return strings.TrimSpace(string(data))
}
