package e2e

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// layerSize is the size of writable layers, where they are files.
const layerSize = 64 << 20

// Containers of the erofs snapshotter, whose layers are files, in both of its modes: with a
// directory and with a file for what a container writes. What runc and overlayfs make of the
// image is what a container sees.
func TestImages(t *testing.T) {
	nothingLeft(t)
	wanted := treeOf(t, runcRuntime)
	t.Run("of overlayfs", func(t *testing.T) { sameTree(t, wanted, treeOf(t, harness.Runtime)) })
	t.Run("written to a directory", func(t *testing.T) { imagesOn(t, wanted, "virtiofs") })
	t.Run("written to a file", func(t *testing.T) {
		imagesOn(t, wanted, "overlay", inFiles)
		t.Run("full", imageFull)
		t.Run("killed", imageKilled)
	})
}

// inFiles has writable layers be files.
var inFiles = harness.ErofsSize(fmt.Sprintf("%dMiB", layerSize>>20))

// imagesOn tries them, most of it in one container. What the guest has mounted at / tells who has
// made the root: it has an overlay of its own, or a share of the host's.
func imagesOn(t *testing.T, wanted, root string, options ...harness.Option) {
	t.Helper()
	onOwnHost(t, options...)
	nothingLeft(t)
	c := start(t, inErofs(t), sleeper...)
	c.keepShell()
	t.Run("who mounts", func(t *testing.T) {
		if got := c.on(t).must("awk '$2 == \"/\" {print $3}' /proc/self/mounts"); got != root {
			t.Errorf("the root is of type %s, want %s", got, root)
		}
	})
	t.Run("the tree", func(t *testing.T) { sameTree(t, wanted, c.on(t).must(listing)) })
	t.Run("read-only", imageReadOnly)
	t.Run("two containers", func(t *testing.T) { imageOfTwo(t, c.on(t)) })
	t.Run("a life after the other", func(t *testing.T) { imageLives(t, c.on(t)) })
}

// onOwnHost has the rest of a test run with a containerd of its own.
func onOwnHost(t *testing.T, options ...harness.Option) {
	t.Helper()
	own, err := harness.Start(options...)
	if err != nil {
		t.Fatal(err)
	}
	before := host
	host = own
	t.Cleanup(func() {
		host = before
		if err := own.Stop(); err != nil {
			t.Error(err)
		}
	})
}

// layersImage is the image of twelve layers, unpacked for a snapshotter.
func layersImage(t *testing.T, snapshotter string) client.Image {
	t.Helper()
	ctx, cancel := host.Context()
	defer cancel()
	image, err := host.Client.GetImage(ctx, harness.LayersImage)
	if err != nil {
		if err := host.ImportLayers(harness.Namespace); err != nil {
			t.Fatal(err)
		}
		if image, err = host.Client.GetImage(ctx, harness.LayersImage); err != nil {
			t.Fatal(err)
		}
	}
	if err := image.Unpack(ctx, snapshotter); err != nil {
		t.Fatal(err)
	}
	return image
}

// ofLayers is what a container of the image of twelve layers is made with.
func ofLayers(t *testing.T, runtime, snapshotter string) func(string, client.Image) []client.NewContainerOpts {
	t.Helper()
	image := layersImage(t, snapshotter)
	return func(id string, _ client.Image) []client.NewContainerOpts {
		made := []client.NewContainerOpts{client.WithSnapshotter(snapshotter), client.WithNewSnapshot(id, image)}
		if runtime == harness.Runtime {
			return append(made, host.WithRuntime())
		}
		return append(made, client.WithRuntime(runtime, nil))
	}
}

// inErofs is a container of the image in the erofs snapshotter.
func inErofs(t *testing.T) options {
	t.Helper()
	return options{spec: withProbe(), container: ofLayers(t, harness.Runtime, harness.Erofs)}
}

// probePlace is where the probe is in these containers: a directory of the image.
const probePlace = "/mnt"

func withProbe() []oci.SpecOpts {
	return []oci.SpecOpts{oci.WithMounts([]specs.Mount{bind(filepath.Join(host.Output, "tools"), probePlace, "ro")})}
}

// listing lists the root file system but for what is mounted there.
const listing = probePlace + "/probe tree / /dev /proc /run /sys " + probePlace

// treeOf is the root file system of a container, from overlayfs, as a program in it sees it.
func treeOf(t *testing.T, runtime string) string {
	t.Helper()
	c := start(t, options{spec: withProbe(), container: ofLayers(t, runtime, "overlayfs")}, sleeper...)
	tree := c.must(listing)
	c.end()
	return tree
}

// sameTree compares two trees, and tells the first lines that differ.
func sameTree(t *testing.T, want, got string) {
	t.Helper()
	wanted, had := make(map[string]bool), make(map[string]bool)
	for line := range strings.Lines(want) {
		wanted[strings.TrimSpace(line)] = true
	}
	for line := range strings.Lines(got) {
		had[strings.TrimSpace(line)] = true
	}
	const most = 10
	told := 0
	for word, lines := range map[string][2]map[string]bool{"is missing": {wanted, had}, "should not be there": {had, wanted}} {
		for line := range lines[0] {
			if told < most && !lines[1][line] {
				t.Errorf("%s: %.300s", word, line)
				told++
			}
		}
	}
	if len(wanted) < 300 {
		t.Errorf("a tree of %d files, which is not the image's", len(wanted))
	}
}

func imageReadOnly(t *testing.T) {
	image := layersImage(t, harness.Erofs)
	c := start(t, options{
		spec: append(withProbe(), oci.WithRootFSReadonly()),
		container: func(id string, _ client.Image) []client.NewContainerOpts {
			return []client.NewContainerOpts{client.WithSnapshotter(harness.Erofs), client.WithNewSnapshotView(id, image), host.WithRuntime()}
		},
	}, sleeper...)
	c.mustFail("echo >/new", "Read-only file system")
	c.mustFail("echo >/plain/file", "Read-only file system")
	c.mustFail("rm /plain/file", "Read-only file system")
	if got := c.must("cat /plain/file; " + probePlace + "/probe tree /large | wc -l"); got != "a file\n3" {
		t.Errorf("printed %q", got)
	}
}

// Two containers of one image do not see what the other writes.
func imageOfTwo(t *testing.T, one *task) {
	two := start(t, inErofs(t), sleeper...)
	one.must("echo one >/written; echo changed >/plain/file; rm -r /links; mkdir /links")
	if got := two.must("cat /plain/file /links/one; ls /written 2>&1 || true"); !strings.HasPrefix(got, "a file\nof three names\nls: ") {
		t.Errorf("the other container sees %q", got)
	}
	two.must("echo two >/written")
	if got := one.must("cat /written /plain/file; ls -A /links"); got != "one\nchanged" {
		t.Errorf("the first container sees %q", got)
	}
}

// What a container writes is in its snapshot, for the next task of the container and for the
// host.
func imageLives(t *testing.T, c *task) {
	c.must(`echo kept >/kept; rm -r /plain/sticky /removed; mkdir -m 750 /removed; chown 5:6 /plain/file
		ln -s kept /link; mkfifo /fifo; ` + probePlace + `/probe setxattr /kept user.name value; head -c 3000000 /dev/urandom >/data`)
	tree := c.must(listing)
	c.end()
	imageOnHost(t, c.container)

	next := c.again()
	defer next.end()
	sameTree(t, tree, next.must(listing))
	next.must("echo more >>/kept; rm /data")
}

// again starts the next task of a container, whose last one was deleted.
func (k *task) again() *task {
	k.t.Helper()
	next, err := k.container.NewTask(k.ctx, cio.NullIO)
	if err != nil {
		k.t.Fatal(err)
	}
	k.t.Cleanup(func() {
		ctx, cancel := host.Context()
		defer cancel()
		_, _ = next.Delete(ctx, client.WithProcessKill)
	})
	exit, err := next.Wait(k.ctx)
	if err != nil {
		k.t.Fatal(err)
	}
	if err := next.Start(k.ctx); err != nil {
		k.t.Fatal(err)
	}
	return &task{Task: next, t: k.t, ctx: k.ctx, container: k.container, exit: exit}
}

// end kills a task and deletes it.
func (k *task) end() {
	k.t.Helper()
	if _, err := k.Delete(k.ctx, client.WithProcessKill); err != nil {
		k.t.Errorf("deleting a task: %v", err)
	}
}

// imageOnHost looks at the snapshot of a container without a task as the host mounts it.
func imageOnHost(t *testing.T, container client.Container) {
	t.Helper()
	ctx, cancel := host.Context()
	defer cancel()
	mounts := mountsOf(t, ctx, container)
	wantClean(t, mounts)
	// What is mounted would be garbage without a lease.
	ctx, release, err := host.Client.WithLease(ctx)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := release(ctx); err != nil {
			t.Error(err)
		}
	}()
	activation, err := host.Client.MountManager().Activate(ctx, container.ID()+"-looked-at", mounts)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := host.Client.MountManager().Deactivate(ctx, activation.Name); err != nil {
			t.Error(err)
		}
	}()
	dir := t.TempDir()
	if err := mount.All(activation.System, dir); err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := mount.UnmountAll(dir, 0); err != nil {
			t.Error(err)
		}
	}()
	wantContent(t, filepath.Join(dir, "kept"), "kept\n")
	var s unix.Stat_t
	if err := unix.Stat(filepath.Join(dir, "plain/file"), &s); err != nil || s.Uid != 5 || s.Gid != 6 {
		t.Errorf("plain/file is of %d:%d, %v", s.Uid, s.Gid, err)
	}
	if left := harness.Names(t, filepath.Join(dir, "removed")); len(left) > 0 {
		t.Errorf("removed has %q", left)
	}
	if _, err := os.Lstat(filepath.Join(dir, "plain/sticky")); !os.IsNotExist(err) {
		t.Errorf("plain/sticky: %v", err)
	}
}

func mountsOf(t *testing.T, ctx context.Context, container client.Container) []mount.Mount {
	t.Helper()
	info, err := container.Info(ctx)
	if err != nil {
		t.Fatal(err)
	}
	mounts, err := host.Client.SnapshotService(info.Snapshotter).Mounts(ctx, info.SnapshotKey)
	if err != nil {
		t.Fatal(err)
	}
	return mounts
}

// writableLayer is the file that a container's writable layer is, or empty.
func writableLayer(mounts []mount.Mount) string {
	if base := filepath.Base(mounts[0].Source); base == "rwlayer.img" {
		return mounts[0].Source
	}
	return ""
}

// wantClean has the file system of a writable layer checked.
func wantClean(t *testing.T, mounts []mount.Mount) {
	t.Helper()
	if layer := writableLayer(mounts); layer != "" {
		wantCleanImage(t, layer)
	}
}

// wantCleanImage has an ext4 image checked (e2fsck(8), -f: also one that says it is clean, -n:
// changes nothing).
func wantCleanImage(t *testing.T, file string) {
	t.Helper()
	if output, err := exec.Command("e2fsck", "-fn", file).CombinedOutput(); err != nil {
		t.Errorf("checking %s: %v\n%s", file, err, output)
	}
	header, err := exec.Command("dumpe2fs", "-h", file).Output()
	if err != nil || !strings.Contains(string(header), "clean\n") || strings.Contains(string(header), "needs_recovery") {
		t.Errorf("%s was not unmounted: %v\n%s", file, err, header)
	}
}

// A writable layer that is full is ENOSPC in its container, and nothing else.
func imageFull(t *testing.T) {
	c := start(t, inErofs(t), sleeper...)
	c.mustFail(fmt.Sprintf("dd if=/dev/zero of=/large/file bs=1M count=%d", 2*layerSize>>20), "No space left on device")
	if got := c.must("cat /plain/file; ls /large | wc -l; rm /large/file; echo again >/plain/file; sync; cat /plain/file"); got != "a file\n3\nagain" {
		t.Errorf("a full container printed %q", got)
	}
	c.must(fmt.Sprintf("dd if=/dev/zero of=/large/file bs=1M count=%d; sync", layerSize>>22))
	mounts := mountsOf(t, c.ctx, c.container)
	c.end()
	var s unix.Stat_t
	if err := unix.Stat(writableLayer(mounts), &s); err != nil || s.Size != layerSize || s.Blocks*512 > layerSize+1<<20 {
		t.Errorf("the writable layer is of %d bytes and takes %d, %v", s.Size, s.Blocks*512, err)
	}
	wantClean(t, mounts)
}
