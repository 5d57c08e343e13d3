// Package arm64 runs a container of arm64: QEMU emulates the machine, whatever this host is. The
// shim and the file servers are the host's.
package arm64

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

var host *harness.Host

func TestMain(m *testing.M) {
	os.Exit(harness.Main(func(h *harness.Host) int {
		host = h
		return m.Run()
	}))
}

// The kernel and the agent for arm64 boot, runc makes a container, and a file that is mounted
// is there, read-only.
func TestContainer(t *testing.T) {
	host.NothingLeft(t)
	dir := t.TempDir()
	file, config := filepath.Join(dir, "file"), filepath.Join(dir, "config.toml")
	settings := fmt.Sprintf("driver = \"qemu\"\nkit = %q\nqemu.path = %q\nvm.boot_timeout = %q\n",
		filepath.Join(host.Output, "arm64", "kit"), "qemu-system-aarch64", harness.Patience)
	for path, content := range map[string]string{file: "content", config: settings} {
		if err := os.WriteFile(path, []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	stdout, stderr, code := host.Ctr("run", "--rm", "--runtime", harness.Runtime, "--runtime-config-path", config,
		harness.Bind(file, "/mounted", "bind:ro"), "--rootfs", filepath.Join(host.Output, "arm64", "root"), "arm64", "/hello")
	if want := "arm64 aarch64 \"content\" <nil> open /mounted: read-only file system\n"; code != 0 || stdout != want {
		t.Errorf("code %d, %q, want %q\n%s", code, stdout, want, stderr)
	}
}
