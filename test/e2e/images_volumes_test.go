package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// volumeSize is that of an ext4 image, in bytes.
const volumeSize = 16 << 20

// ext4Image makes an ext4 file system in a file, with what is in a directory.
func ext4Image(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	content, file := filepath.Join(dir, "content"), filepath.Join(dir, "volume.img")
	if err := os.Mkdir(content, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(content, "old"), []byte("from the host\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if output, err := exec.Command("mkfs.ext4", "-q", "-d", content, file, "16m").CombinedOutput(); err != nil {
		t.Fatalf("mkfs.ext4: %v\n%s", err, output)
	}
	return file
}

// erofsImage makes an erofs file system of a directory with one file.
func erofsImage(t *testing.T) string {
	t.Helper()
	dir := t.TempDir()
	content, file := filepath.Join(dir, "content"), filepath.Join(dir, "volume.erofs")
	if err := os.MkdirAll(filepath.Join(content, "below"), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(content, "below", "file"), []byte("of an image\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if output, err := exec.Command("mkfs.erofs", "--quiet", file, content).CombinedOutput(); err != nil {
		t.Fatalf("mkfs.erofs: %v\n%s", err, output)
	}
	return file
}

func volume(kind, source, destination string, options ...string) oci.SpecOpts {
	return oci.WithMounts([]specs.Mount{{Type: kind, Source: source, Destination: destination, Options: options}})
}

// An image that a container mounts is mounted by the guest: what it writes is in the file, which
// keeps its size and has one VM at a time.
func TestVolumeImages(t *testing.T) {
	nothingLeft(t)
	data, files := ext4Image(t), erofsImage(t)
	c := start(t, options{spec: []oci.SpecOpts{
		volume("ext4", data, "/data", "nosuid", "nodev", "noatime"), volume("ext4", data, "/again", "noexec"), volume("erofs", files, "/files"),
	}}, sleeper...)
	c.keepShell()
	for _, want := range []struct{ command, printed string }{
		{"cat /data/old /files/below/file", "from the host\nof an image"},
		{"awk '$2 == \"/data\" {print $3, $4}' /proc/self/mounts | cut -d, -f1-4", "ext4 rw,nosuid,nodev,noatime"},
		{"awk '$2 == \"/files\" {print $3, substr($4, 1, 2)}' /proc/self/mounts", "erofs ro"},
		{"echo new >/data/new; cat /again/new", "new"},
		{"cp /bin/busybox /data/; /data/busybox echo runs; /again/busybox echo runs 2>&1 | grep -c runs || true", "runs\n0"},
	} {
		if got := c.must(want.command); got != want.printed {
			t.Errorf("%s\nprinted %q, want %q", want.command, got, want.printed)
		}
	}
	c.mustFail("echo >/files/new", "Read-only file system")
	c.mustFail("dd if=/dev/zero of=/data/large bs=1M count=32", "No space left on device")
	c.must("rm /data/large")

	wantNoTask(t, data+" is in use by another container", image("ext4", data))
	wantNoTask(t, data+" is in use by another container", image("ext4", data)+",options=ro")
	c.end()
	if info, err := os.Stat(data); err != nil || info.Size() != volumeSize {
		t.Errorf("the image: %v, %v", info, err)
	}
	wantCleanImage(t, data)

	// Read-only, by two VMs at once.
	readOnly := options{spec: []oci.SpecOpts{volume("ext4", data, "/data", "ro")}}
	one, two := start(t, readOnly, sleeper...), start(t, readOnly, sleeper...)
	for _, c := range []*task{one, two} {
		if got := c.must("cat /data/new"); got != "new" {
			t.Errorf("the next container reads %q", got)
		}
		c.mustFail("echo >/data/newer", "Read-only file system")
	}
	wantNoTask(t, data+" is in use by another container", image("ext4", data))
	one.end()
	two.end()
	wantCleanImage(t, data)
}

// What is no image is refused, in a sentence that names it.
func TestVolumeImagesRefused(t *testing.T) {
	nothingLeft(t)
	dir := t.TempDir()
	data, files := ext4Image(t), erofsImage(t)
	link, empty, device := filepath.Join(dir, "link"), filepath.Join(dir, "empty"), filepath.Join(dir, "device")
	for _, err := range []error{
		os.Symlink(data, link), os.WriteFile(empty, nil, 0o600), unix.Mknod(device, unix.S_IFBLK|0o600, int(unix.Mkdev(7, 200))),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	for want, options := range map[string][]string{
		dir + "/gone":                     {image("erofs", filepath.Join(dir, "gone"))},
		link + " is a symbolic link":      {image("erofs", link)},
		dir + " is a directory":           {image("ext4", dir)},
		device + " is a block device":     {image("ext4", device)},
		empty + " cannot be mounted":      {image("ext4", empty)},
		files + " cannot be mounted":      {image("ext4", files)},
		data + " cannot be mounted":       {image("erofs", data)},
		"option errors=panic of an image": {image("ext4", data) + ",options=errors=panic"},
		"has the host's network":          {image("ext4", data), "--net-host"},
	} {
		wantNoTask(t, want, options...)
	}
	wantCleanImage(t, data)
}

// image is ctr's option to mount one at /data.
func image(kind, file string) string { return "--mount=type=" + kind + ",src=" + file + ",dst=/data" }

// An image whose disk on the host is full cannot take what it has room for: the container is told,
// goes on, and ends; what was synchronised before is there.
func TestVolumeImageFullDisk(t *testing.T) {
	nothingLeft(t)
	small := filepath.Join(t.TempDir(), "small")
	if err := os.Mkdir(small, 0o755); err != nil {
		t.Fatal(err)
	}
	// The containerd of this test finds it in its own mount namespace, as it does any mount.
	if err := unix.Mount("tmpfs", small, "tmpfs", 0, "size=8m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(small, 0); err != nil {
			t.Error(err)
		}
	})
	data := filepath.Join(small, "volume.img")
	if output, err := exec.Command("cp", "--sparse=always", ext4Image(t), data).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, output)
	}
	withData := options{spec: []oci.SpecOpts{volume("ext4", data, "/data")}}
	c := start(t, withData, sleeper...)
	c.must("echo kept >/data/kept; sync")
	c.mustFail("dd if=/dev/zero of=/data/large bs=1M count=12 conv=fsync", "No space left on device")
	if got := c.must("cat /data/kept"); got != "kept" {
		t.Errorf("the full container reads %q", got)
	}
	c.end()

	// With space the next one has it as it was, by its journal.
	if err := unix.Mount("", small, "", unix.MS_REMOUNT, "size=32m"); err != nil {
		t.Fatal(err)
	}
	c = start(t, withData, sleeper...)
	if got := c.must("cat /data/kept; rm -f /data/large; dd if=/dev/zero of=/data/large bs=1M count=12 conv=fsync 2>/dev/null; wc -c </data/large"); got != "kept\n12582912" {
		t.Errorf("the next container prints %q", got)
	}
	c.end()
	// Its header tells of errors, so only the rest is looked at.
	if output, err := exec.Command("e2fsck", "-fn", data).CombinedOutput(); err != nil {
		t.Errorf("checking the image: %v\n%s", err, output)
	}
}
