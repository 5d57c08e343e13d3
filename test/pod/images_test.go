package pod

import (
	"path/filepath"
	"strings"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// layerSize is the size of writable layers of the erofs snapshotter.
const layerSize = "64MiB"

// Pods in the erofs snapshotter: containers of one image are alike, and as with overlayfs, but
// for what they write themselves; one that goes takes nothing from the other.
func TestPodImages(t *testing.T) {
	if err := host.ImportLayers(harness.KubernetesNamespace, harness.Erofs); err != nil {
		t.Fatal(err)
	}
	if !harness.Eventually(func() bool {
		response, err := images.ImageStatus(call(t), &cri.ImageStatusRequest{Image: &cri.ImageSpec{Image: harness.LayersImage}})
		return err == nil && response.Image != nil
	}) {
		t.Fatal("the CRI plugin does not see the image of twelve layers")
	}
	nothingLeft(t)
	overlay := startPod(t, harness.SandboxHandler, nil)
	want := overlay.start("overlayfs", ofLayers, sleeper...).tree()
	perHandlerOf(t, []string{harness.SandboxErofsHandler, harness.PauseErofsHandler}, func(t *testing.T, handler string) {
		p := startPod(t, handler, nil)
		one, two := p.start("one", ofLayers, sleeper...), p.start("two", ofLayers, sleeper...)
		for name, c := range map[string]*container{"one": one, "two": two} {
			sameTree(t, name, want, c.tree())
		}
		one.must("echo one >/written; rm -r /plain /links; echo changed >/large/mebibyte")
		two.want("a file", "cat /plain/file; ls -d /written 2>/dev/null; true")
		two.want("1", "dd if=/dev/zero of=/large/file bs=1M count=200 2>&1 | grep -c 'No space left'")
		one.want("one\nchanged", "cat /written /large/mebibyte")
		one.stop()
		one.delete()
		two.want("a file", "rm /large/file; cat /plain/file")
		sameTree(t, "one after it", want, p.start("one", ofLayers, sleeper...).tree())
	})
}

// ofLayers has a container be of the image of twelve layers, with the probe at a directory
// that is there.
func ofLayers(config *cri.ContainerConfig) {
	config.Image.Image = harness.LayersImage
	config.Mounts = append(config.Mounts, &cri.Mount{ContainerPath: "/mnt", HostPath: filepath.Join(host.Output, "tools"), Readonly: true})
}

// tree lists the container's root file system but for what is mounted there.
func (c *container) tree() string {
	c.t.Helper()
	return c.must("/mnt/probe tree / /dev /etc /mnt /proc /run /sys")
}

// sameTree compares the trees of two containers, and tells the first line that differs.
func sameTree(t *testing.T, name, want, got string) {
	t.Helper()
	wanted, lines := strings.Split(want, "\n"), strings.Split(got, "\n")
	for i := range max(len(wanted), len(lines)) {
		if i >= len(wanted) || i >= len(lines) || wanted[i] != lines[i] {
			t.Errorf("container %s has %d files, want %d; they differ at\n%.300s\nwant\n%.300s", name, len(lines), len(wanted),
				strings.Join(lines[min(i, len(lines)):], "\n"), strings.Join(wanted[min(i, len(wanted)):], "\n"))
			return
		}
	}
}
