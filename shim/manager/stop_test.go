package manager

import (
	"context"
	"encoding/json"
	"errors"
	"math"
	"os"
	"path/filepath"
	"runtime/debug"
	"testing"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/msb-runtime/containerd-shim-msb/shim/hook"
)

// Who ends soon does not look for what it can free, as pkg/shim would have it.
func TestEndsSoon(t *testing.T) {
	defer debug.SetMemoryLimit(debug.SetMemoryLimit(-1))
	for name, action := range map[string]func(context.Context) error{
		"start": func(ctx context.Context) error {
			_, err := start(ctx, new(bootapi.BootstrapParams), time.Now())
			return err
		},
		"delete": func(ctx context.Context) error { _, err := (Manager{}).Stop(ctx, "c"); return err },
	} {
		t.Chdir(t.TempDir())
		if err := os.WriteFile("config.json", []byte("nonsense"), 0o600); err != nil { // it ends there
			t.Fatal(err)
		}
		debug.SetMemoryLimit(math.MaxInt64)
		percent := debug.SetGCPercent(40)
		err := action(context.WithValue(t.Context(), shim.OptsKey{}, shim.Opts{BundlePath: "."}))
		if collects := debug.SetGCPercent(percent); collects != -1 || debug.SetMemoryLimit(-1) == math.MaxInt64 {
			t.Errorf("%s, which ended with %v, collects garbage at %d %%", name, err, collects)
		}
	}
}

// The poststop hooks of a container whose shim was killed run if they are pending, once. Where none
// are, its configuration is not looked at: it may be what was refused.
func TestStopHooks(t *testing.T) {
	bundle := t.TempDir()
	ran := filepath.Join(bundle, "ran")
	configuration, err := json.Marshal(specs.Spec{
		Version: specs.Version, Root: &specs.Root{Path: "rootfs"}, Process: &specs.Process{Args: []string{"x"}, Cwd: "/"},
		Linux: &specs.Linux{Namespaces: []specs.LinuxNamespace{{Type: specs.MountNamespace}, {Type: specs.PIDNamespace}, {Type: specs.NetworkNamespace}}},
		Hooks: &specs.Hooks{Poststop: []specs.Hook{{Path: "/bin/sh", Args: []string{"sh", "-c", "echo ran >>" + ran}}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(bundle, "config.json")
	ctx := context.WithValue(t.Context(), shim.OptsKey{}, shim.Opts{BundlePath: bundle})
	stop := func() {
		t.Helper()
		if _, err := (Manager{}).Stop(ctx, "c"); err != nil {
			t.Error(err)
		}
		if err := runHooks(ctx, "c", bundle); err != nil {
			t.Error(err)
		}
	}
	if err := os.WriteFile(path, []byte("refused"), 0o600); err != nil {
		t.Fatal(err)
	}
	stop()
	if err := errors.Join(os.WriteFile(path, configuration, 0o600), hook.SetPending(bundle)); err != nil {
		t.Fatal(err)
	}
	stop()
	if content, err := os.ReadFile(ran); string(content) != "ran\n" {
		t.Errorf("the hooks ran: %q, %v", content, err)
	}
}
