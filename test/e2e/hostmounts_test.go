package e2e

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// containerd's mount manager mounts the layers of the erofs snapshotter after it has
// started the shim.
func TestMountManager(t *testing.T) {
	nothingLeft(t)
	ctx, cancel := host.Context()
	defer cancel()
	image, err := host.Client.GetImage(ctx, harness.Image)
	if err != nil {
		t.Fatal(err)
	}
	if err := image.Unpack(ctx, "erofs"); err != nil {
		t.Fatal(err)
	}
	before := len(host.Log())
	for _, options := range [][]string{{"--snapshotter", "erofs"}, {"--snapshotter", "erofs", "--read-only"}} {
		out, stderr, code := host.Run("manager", options, "sh", "-c", "cat /proc/sys/kernel/ostype; ls /bin | wc -l; : >/made && echo made")
		lines := strings.Split(strings.TrimSpace(out), "\n")
		if len(lines) < 2 || lines[0] != "Linux" || len(lines[1]) < 2 {
			t.Errorf("%q: code %d: %q %s", options, code, out, stderr)
		}
		if readOnly := len(options) > 2; readOnly != strings.Contains(stderr, "Read-only file system") || readOnly == strings.HasSuffix(out, "made\n") {
			t.Errorf("%q: code %d: %q %s", options, code, out, stderr)
		}
	}
	if strings.Contains(host.Log()[before:], "runtime-allow-mounts") {
		t.Error("containerd had to ask for what the shim mounts itself")
	}
}

// The host's root with all that is mounted below it: its files are shared, the file systems
// of its kernel are not.
func TestHostsRoot(t *testing.T) {
	nothingLeft(t)
	dir := t.TempDir()
	write(t, filepath.Join(dir, "file"), "of the host")
	link := filepath.Join(dir, "link")
	if err := os.Symlink("/proc/1", link); err != nil {
		t.Fatal(err)
	}
	before := len(host.Log())
	out, stderr, code := host.Run("root", []string{harness.Bind("/", "/host", "rbind:ro")}, "sh", "-c",
		"cat /host"+dir+"/file; cat /host/proc/meminfo; cat /host/sys/kernel/uevent_seqnum; ls -A /host/proc /host/sys /host/dev/pts")
	if want := "of the host/host/dev/pts:\n\n/host/proc:\n\n/host/sys:\n"; code != 0 || out != want {
		t.Errorf("code %d: %q, want %q", code, out, want)
	}
	for _, file := range []string{"/host/proc/meminfo", "/host/sys/kernel/uevent_seqnum"} {
		if !strings.Contains(stderr, file+"': No such file or directory") {
			t.Errorf("reading %s: %s", file, stderr)
		}
	}
	const warning = "mount /host: file systems of the host's kernel are not shared with a microVM and are left out: "
	if told := strings.Count(host.Log()[before:], warning); told != 1 {
		t.Errorf("told %d times", told)
	}
	if out, stderr, code := host.Run("link", []string{harness.Bind(link, "/of", "rbind:ro")}, "ls", "/of"); code == 0 ||
		!strings.Contains(stderr, "source "+link+" is on proc, which is of the host's kernel") {
		t.Errorf("code %d: %q %s", code, out, stderr)
	}
}
