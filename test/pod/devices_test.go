package pod

import (
	"slices"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/msb-runtime/containerd-shim-msb/test/loop"
)

// A raw block volume (volumeMode: Block) is a device of each container that has it: one for the
// pod, so that what one writes another reads, and what is synchronised is on the node's.
func TestBlockVolume(t *testing.T) {
	nothingLeft(t)
	volume, _ := loop.New(t, 8<<20, false)
	device := func(path, permissions string) func(*cri.ContainerConfig) {
		return func(config *cri.ContainerConfig) {
			config.Devices = []*cri.Device{{HostPath: volume.Name(), ContainerPath: path, Permissions: permissions}}
		}
	}
	p := startPod(t, handlers[0], nil)
	before := p.shares()
	one, two := p.start("one", device("/dev/xvda", "mrw"), sleeper...), p.start("two", device("/dev/data", "mrw"), sleeper...)
	reader := p.start("reader", device("/dev/data", "mr"), sleeper...)
	one.want("8388608", "printf written | dd of=/dev/xvda bs=4096 seek=10 conv=fsync,notrunc 2>/dev/null; wc -c </dev/xvda")
	two.want("written", "dd if=/dev/data bs=4096 skip=10 count=1 2>/dev/null | head -c 7")
	reader.want("written", "dd if=/dev/data bs=4096 skip=10 count=1 2>/dev/null | head -c 7")
	reader.want("1", "echo 2>/dev/null >/dev/data; echo $?")
	one.stop()
	one.delete()
	two.want("written", "printf changed | dd of=/dev/data bs=4096 seek=20 conv=notrunc 2>/dev/null; dd if=/dev/data bs=4096 skip=10 count=1 2>/dev/null | head -c 7")
	two.stop()
	two.delete()
	reader.stop()
	reader.delete()
	on := make([]byte, 7)
	for offset, want := range map[int64]string{10 * 4096: "written", 20 * 4096: "changed"} {
		if _, err := volume.ReadAt(on, offset); err != nil || string(on) != want {
			t.Errorf("the node's device has %q, %v; want %q", on, err, want)
		}
	}
	if left := p.shares(); !slices.Equal(left, before) {
		t.Errorf("the pod is given %v, and was %v", left, before)
	}
}
