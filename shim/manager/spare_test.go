package manager

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/msb-runtime/containerd-shim-msb/shim/config"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
)

// A start looks for a spare only for what a spare fits: one that is handed over is not given back.
func TestSparedSize(t *testing.T) {
	byDefault := spec.Size{CPUs: 1, Memory: 512 << 20}
	var own []specs.LinuxNamespace
	for _, kind := range []specs.LinuxNamespaceType{specs.MountNamespace, specs.PIDNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.NetworkNamespace} {
		own = append(slices.Clone(own), specs.LinuxNamespace{Type: kind})
	}
	hosts := own[:len(own)-1]
	for name, test := range map[string]struct {
		linux *specs.Linux // nil: there is no configuration
		size  spec.Size
		fits  bool
	}{
		"a sandbox of the Sandbox API": {nil, byDefault, true},
		"a container":                  {&specs.Linux{Namespaces: own}, byDefault, true},
		"one with limits": {
			&specs.Linux{Namespaces: own, Resources: &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: new(int64(64 << 20))}}},
			spec.Size{CPUs: 1, Memory: 192 << 20},
			true,
		},
		"the host's network": {&specs.Linux{Namespaces: hosts}, byDefault, false},
		"refused":            {&specs.Linux{Namespaces: []specs.LinuxNamespace{own[0], own[4]}}, byDefault, false},
		"a user namespace": {
			&specs.Linux{
				Namespaces:  append(slices.Clone(own), specs.LinuxNamespace{Type: specs.UserNamespace}),
				UIDMappings: []specs.LinuxIDMapping{{HostID: 1000, Size: 10}}, GIDMappings: []specs.LinuxIDMapping{{HostID: 1000, Size: 10}},
			}, byDefault, false,
		},
	} {
		t.Run(name, func(t *testing.T) {
			bundle := t.TempDir()
			if test.linux != nil {
				data, err := json.Marshal(specs.Spec{Version: specs.Version, Root: &specs.Root{Path: "rootfs"}, Process: &specs.Process{Args: []string{"x"}, Cwd: "/"}, Linux: test.linux})
				if err != nil {
					t.Fatal(err)
				}
				if err := os.WriteFile(filepath.Join(bundle, "config.json"), data, 0o600); err != nil {
					t.Fatal(err)
				}
			}
			size, fits, err := sparedSize(bundle, config.Default())
			if err != nil || size != test.size || fits != test.fits {
				t.Errorf("%+v, fits %t, %v; want %+v, %t", size, fits, err, test.size, test.fits)
			}
		})
	}
}
