package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/v2/client"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// installation is a shim with its kit and configuration, which a test replaces.
type installation struct {
	t           *testing.T
	dir, config string
}

// install puts each file there as a new one, as package managers and install(1) do: what runs
// from the old ones keeps them.
func (i *installation) install(memory string) {
	i.t.Helper()
	for _, dir := range []string{"bin", "lib/msb"} {
		target := filepath.Join(i.dir, dir)
		if err := os.RemoveAll(target); err != nil {
			i.t.Fatal(err)
		}
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			i.t.Fatal(err)
		}
		if err := os.CopyFS(target, os.DirFS(filepath.Join(host.Output, dir))); err != nil {
			i.t.Fatal(err)
		}
	}
	i.config = config(i.t, i.dir, fmt.Sprintf("kit = %q\nvm.memory = %q\nvm.boot_timeout = %q", filepath.Join(i.dir, "lib/msb"), memory, harness.Patience))[1]
}

// options are those of a container that the installation runs.
func (i *installation) options() options {
	return options{container: func(id string, image client.Image) []client.NewContainerOpts {
		return []client.NewContainerOpts{
			client.WithNewSnapshot(id, image),
			client.WithRuntime(filepath.Join(i.dir, "bin/containerd-shim-msb-v2"), &runtimeoptions.Options{ConfigPath: i.config}),
		}
	}}
}

// Shim, kit and configuration are replaced while containers run. These go on as they were
// started, whatever is called, and the next one is of what is installed now. The new program
// cleans up after an old shim that was killed.
func TestUpgrade(t *testing.T) {
	nothingLeft(t)
	i := &installation{t: t, dir: t.TempDir()}
	i.install("192MiB")
	kept, killed := start(t, i.options(), sleeper...), start(t, i.options(), sleeper...)
	const memory = "grep MemTotal /proc/meminfo"
	before := kept.must(memory)
	i.install("256MiB")

	if now := kept.must(memory); now != before {
		t.Errorf("it had %s, and has %s", before, now)
	}
	metricsOf(kept)
	newer := start(t, i.options(), sleeper...)
	if now := newer.must(memory); now == before {
		t.Errorf("a container that was started after the upgrade has %s, too", now)
	}
	vmm := killed.vmm()
	if err := unix.Kill(shimOf(t, killed.ID()), unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	ended(t, killed.exit)
	waitFor(t, "its VMM to be gone", func() bool { return unix.Kill(vmm, 0) != nil })
	waitFor(t, "its bundle to be gone", func() bool { _, err := os.Stat(host.Bundle(killed.ID())); return err != nil })

	if err := kept.Kill(kept.ctx, unix.SIGKILL); err != nil {
		t.Fatal(err)
	}
	if code := await(t, kept.exit); code != 137 {
		t.Errorf("exit code %d", code)
	}
	if _, err := kept.Delete(kept.ctx); err != nil {
		t.Errorf("deleting: %v", err)
	}
}
