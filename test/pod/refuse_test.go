package pod

import (
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// namespaces has a pod ask for some.
func namespaces(options *cri.NamespaceOption) func(*cri.PodSandboxConfig) {
	return func(config *cri.PodSandboxConfig) { config.Linux.SecurityContext.NamespaceOptions = options }
}

// TestPodRefused: what a microVM cannot have is refused in a sentence, and leaves nothing.
func TestPodRefused(t *testing.T) {
	perHandler(t, func(t *testing.T, handler string) {
		t.Run("pods", func(t *testing.T) { testRefusedPods(t, handler) })
		t.Run("containers", func(t *testing.T) { testRefusedContainers(t, startPod(t, handler, nil)) })
	})
}

func testRefusedPods(t *testing.T, handler string) {
	for name, c := range map[string]struct {
		change func(*cri.PodSandboxConfig)
		says   string
	}{
		"hostNetwork": {
			namespaces(&cri.NamespaceOption{Network: cri.NamespaceMode_NODE, Pid: cri.NamespaceMode_CONTAINER}),
			"the pod asks for the host's network (hostNetwork), which a microVM cannot share",
		},
		"hostPID": {
			namespaces(&cri.NamespaceOption{Pid: cri.NamespaceMode_NODE}),
			"(hostPID), which a microVM cannot share",
		},
		"hostIPC": {
			namespaces(&cri.NamespaceOption{Pid: cri.NamespaceMode_CONTAINER, Ipc: cri.NamespaceMode_NODE}),
			"(hostIPC), which a microVM cannot share",
		},
		"bigger than the host": {
			func(config *cri.PodSandboxConfig) {
				config.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 1 << 40}
			},
			"the VM would need 1TiB of memory and the host has",
		},
	} {
		config := podConfig(t)
		config.Metadata.Name = strings.ReplaceAll(strings.ToLower(name), " ", "-")
		c.change(config)
		_, err := runtime.RunPodSandbox(call(t), &cri.RunPodSandboxRequest{Config: config, RuntimeHandler: handler})
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func testRefusedContainers(t *testing.T, p *pod) {
	dir := t.TempDir()
	device, fifo := filepath.Join(dir, "block"), filepath.Join(dir, "fifo")
	if err := unix.Mknod(device, unix.S_IFBLK|0o600, int(unix.Mkdev(8, 255))); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mkfifo(fifo, 0o600); err != nil {
		t.Fatal(err)
	}
	good := mount(dir, "/good")
	before := p.shares()
	for name, c := range map[string]struct {
		change func(*cri.ContainerConfig)
		says   string
	}{
		"a raw block volume that is not there": {func(config *cri.ContainerConfig) {
			config.Devices = []*cri.Device{{HostPath: device, ContainerPath: "/dev/block", Permissions: "rwm"}}
		}, "device /dev/block cannot be opened"},
		"a block device as a file": {mounting(good, mount(device, "/d")), "is a block device"},
		"a mount that cannot be staged": {
			mounting(good, mount(fifo, "/f")),
			"mount /f: source " + fifo + " is a FIFO; msb can mount regular files, directories and sockets",
		},
		"a target that is refused": {mounting(good, mount(dir, "/etc/passwd")), "/etc/passwd"},
		"bidirectional propagation": {
			mounting(good, &cri.Mount{HostPath: dir, ContainerPath: "/d", Propagation: cri.MountPropagation_PROPAGATION_BIDIRECTIONAL}),
			"shared",
		},
	} {
		refused, err := p.create(strings.ReplaceAll(name, " ", "-"), c.change, "true")
		if err == nil || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
		if refused != nil {
			refused.delete()
		}
	}
	if left := p.shares(); !slices.Equal(left, before) {
		t.Errorf("the pod is given %v, and was %v", left, before)
	}
	p.start("after", nil, sleeper...).want("fine", "echo fine")
}
