package nerdctl

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// A container in the erofs snapshotter: what it has written is there when it is started
// again. What containerd and nerdctl can only do with a root file system of the host's they do,
// or they say that they cannot (docs/images.md).
func TestErofs(t *testing.T) {
	before := host.Leftovers()
	in := func(arguments ...string) []string {
		return append([]string{"--snapshotter", harness.Erofs}, arguments...)
	}
	must(t, append(append(in("run", "-d", "--network", "none"), container("--name", "erofs")...), harness.Sleeper...)...)
	must(t, in("exec", "erofs", "sh", "-c", "echo written >/file; rm /etc/group; ln /file /name; chmod 4711 /file")...)
	t.Run("cp, running", func(t *testing.T) { copiedOrRefused(t, in) })
	t.Run("commit", func(t *testing.T) {
		// containerd's walking differ takes no mounts that only its mount manager understands.
		if output, err := nerdctl(t, in("commit", "erofs", "msb.test/made:latest")...); err == nil {
			must(t, in("rmi", "msb.test/made:latest")...)
		} else {
			want(t, "failed to export layer", output)
		}
	})
	must(t, in("stop", "--time", "1", "erofs")...)
	t.Run("cp, stopped", func(t *testing.T) { copiedOrRefused(t, in) })
	must(t, in("start", "erofs")...)
	shown := must(t, in("exec", "erofs", "sh", "-c", "cat /file; stat -c '%a %h' /name; ls -d /etc/group 2>&1 || true")...)
	if !strings.HasPrefix(shown, "written\n4711 2\nls: ") {
		t.Errorf("started again, the container has %q", shown)
	}
	must(t, in("rm", "-f", "erofs")...)
	if left := host.New(before); len(left) > 0 {
		t.Errorf("left behind:\n%s", strings.Join(left, "\n"))
	}
}

// copiedOrRefused copies a file into the container, and back what it got: what nerdctl says is
// copied is the file.
func copiedOrRefused(t *testing.T, in func(...string) []string) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	if output, err := nerdctl(t, in("cp", file, "erofs:/copied")...); err != nil {
		t.Logf("refused: %s", output)
		return
	}
	must(t, in("cp", "erofs:/copied", file+".back")...)
	if content, err := os.ReadFile(file + ".back"); string(content) != "content" {
		t.Errorf("came back as %q, %v", content, err)
	}
	if output, err := nerdctl(t, in("exec", "erofs", "cat", "/copied")...); err == nil || !strings.Contains(output, "not running") {
		want(t, "content", output)
	}
}
