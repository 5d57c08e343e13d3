package e2e

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
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
func (i *installation) options(spec ...oci.SpecOpts) options {
	return options{spec: spec, container: func(id string, image client.Image) []client.NewContainerOpts {
		return []client.NewContainerOpts{
			client.WithNewSnapshot(id, image),
			client.WithRuntime(filepath.Join(i.dir, "bin/containerd-shim-msb-v2"), &runtimeoptions.Options{ConfigPath: i.config}),
		}
	}}
}

// spoil puts programs that understand no shim in the places of those that a shim may start as long as its
// VM runs.
func (i *installation) spoil() {
	i.t.Helper()
	for _, name := range []string{"msb-placeholder", "msb-shield"} {
		path := filepath.Join(i.dir, "lib/msb", name)
		if err := os.WriteFile(path+".new", []byte("#!/bin/false\n"), 0o755); err != nil {
			i.t.Fatal(err)
		}
		if err := os.Rename(path+".new", path); err != nil {
			i.t.Fatal(err)
		}
	}
}

// Shim, kit and configuration are replaced while containers run. These go on as they were
// started, whatever is called and whoever joins them, and the next one is of what is installed now. The new
// program cleans up after an old shim that was killed.
func TestUpgrade(t *testing.T) {
	nothingLeft(t)
	i := &installation{t: t, dir: t.TempDir()}
	i.install("192MiB")
	kept, killed := start(t, i.options(ofPod("sandbox", "")), sleeper...), start(t, i.options(), sleeper...)
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
	i.spoil()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("before"), 0o600); err != nil {
		t.Fatal(err)
	}
	joined := start(t, i.options(ofPod("container", kept.ID()), oci.WithMounts([]specs.Mount{bind(file, "/file")})), sleeper...)
	if now := joined.must(memory); now != before {
		t.Errorf("what joins the pod has %s, and not the %s of its VM", now, before)
	}
	joined.must("echo -n after >/file")
	if text := content(t, file); text != "after" {
		t.Errorf("the file has %q", text)
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
