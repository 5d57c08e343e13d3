package harness

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
)

// Runtime handlers of a containerd with CRI.
const (
	// PauseHandler is the runtime under test with containerd's sandboxer of sandbox
	// containers, which pause.
	PauseHandler = "msb"
	// SandboxHandler is the runtime under test with the Sandbox API.
	SandboxHandler = "msb-sandbox"
	// PauseVMHandler and SandboxVMHandler are the same, where namespaces of the VM stand for the
	// host's. Their configuration is VMForHost.
	PauseVMHandler   = "msb-vm"
	SandboxVMHandler = "msb-sandbox-vm"
	// RuncHandler is runc, to compare with.
	RuncHandler = "runc"
)

// SandboxImage is the sandbox containers'.
const SandboxImage = "msb.test/pause:sandbox"

// KubernetesNamespace is containerd's namespace of pods, and critest's control group.
const KubernetesNamespace = "k8s.io"

// wrapper starts containerd with mounts that are its own, and shared among them as a
// host's are. Over the directories that neither containerd nor CNI's library can be
// told to leave alone there are empty ones, so that nobody else's are touched. The runtime's
// configuration is where the shim looks for it. AppArmor looks disabled, as containerd is
// told to take it.
const wrapper = `mount --make-rprivate /
mount --make-rshared /
for dir in /run/containerd /var/lib/cni /opt/containerd; do
	mkdir -p $dir
	mount -t tmpfs tmpfs $dir
done
if [ ! -d /etc/msb ]; then # the host does not get one
	mkdir /run/containerd/upper /run/containerd/work
	mount -t overlay -o lowerdir=/etc,upperdir=/run/containerd/upper,workdir=/run/containerd/work overlay /etc
	mkdir /etc/msb
fi
mount -t tmpfs tmpfs /etc/msb
cp "$1" /etc/msb/config.toml
shift
apparmor=/sys/module/apparmor/parameters/enabled
if [ -e $apparmor ]; then mount --bind /dev/null $apparmor; fi
exec "$@"`

// The plugin's configuration. root has no CAP_SYS_RESOURCE everywhere, hence
// restrict_oom_score_adj.
const criPlugins = `disabled_plugins = ["io.containerd.nri.v1.nri"]
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = %[1]q
[plugins."io.containerd.cri.v1.images".registry]
  config_path = %[2]q
[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  cdi_spec_dirs = []
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = [%[3]q]
  conf_dir = %[4]q
[plugins."io.containerd.cri.v1.runtime".containerd]
  default_runtime_name = "runc"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.msb]
  runtime_type = %[5]q
  sandboxer = "podsandbox"
  privileged_without_host_devices = true
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.msb-sandbox]
  runtime_type = %[5]q
  sandboxer = "shim"
  disable_pause_image_pull = true
  privileged_without_host_devices = true
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.msb-vm]
  runtime_type = %[5]q
  sandboxer = "podsandbox"
  options = { ConfigPath = %[6]q }
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.msb-sandbox-vm]
  runtime_type = %[5]q
  sandboxer = "shim"
  disable_pause_image_pull = true
  options = { ConfigPath = %[6]q }
`

// The same for containerd 1.7, which knows no Sandbox API.
const criPlugin17 = `disabled_plugins = ["io.containerd.nri.v1.nri"]
[plugins."io.containerd.grpc.v1.cri"]
  sandbox_image = %[1]q
  disable_apparmor = true
  restrict_oom_score_adj = true
  netns_mounts_under_state_dir = true
  cdi_spec_dirs = []
[plugins."io.containerd.grpc.v1.cri".registry]
  config_path = %[2]q
[plugins."io.containerd.grpc.v1.cri".cni]
  bin_dir = %[3]q
  conf_dir = %[4]q
[plugins."io.containerd.grpc.v1.cri".containerd]
  default_runtime_name = "msb"
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.msb]
  runtime_type = %[5]q
  privileged_without_host_devices = true
[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.msb-vm]
  runtime_type = %[5]q
  [plugins."io.containerd.grpc.v1.cri".containerd.runtimes.msb-vm.options]
    ConfigPath = %[6]q
`

// VMForHost is a configuration of the runtime in which namespaces of the VM stand for the
// host's.
func (h *Host) VMForHost() string { return filepath.Join(h.Dir, "msb-vm.toml") }

// VMHandlers are those of the runtime under test with that.
func (h *Host) VMHandlers() []string {
	if h.release == release17 {
		return []string{PauseVMHandler}
	}
	return []string{PauseVMHandler, SandboxVMHandler}
}

// Handlers are those of the runtime under test, in a containerd with CRI.
func (h *Host) Handlers() []string {
	if h.release == release17 {
		return []string{PauseHandler}
	}
	return []string{PauseHandler, SandboxHandler}
}

const podNetwork = `{
  "cniVersion": "1.0.0",
  "name": "pods",
  "plugins": [
    {
      "type": "bridge", "bridge": "pods", "isGateway": true, "ipMasq": %[2]t, "hairpinMode": true,
      "ipam": {
        "type": "host-local", "dataDir": %[1]q,
        "ranges": [[{"subnet": "10.98.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]
      }
    }%[3]s
  ]
}
`

// hostPorts are for a machine with iptables.
const hostPorts = `,
    {"type": "portmap", "capabilities": {"portMappings": true}, "snat": true}`

// podNetwork is the pods' (CNI's specification). Without iptables, as in the emulated
// host, they have no ports of the host and no way out of it.
func (h *Host) podNetwork() []byte {
	_, err := exec.LookPath("iptables")
	ports := ""
	if err == nil {
		ports = hostPorts
	}
	return fmt.Appendf(nil, podNetwork, filepath.Join(h.Dir, "ipam"), err == nil, ports)
}

// CRI has containerd serve Kubernetes' container runtime interface, in mount and IPC
// namespaces of its own besides that of the network.
func CRI(h *Host) error {
	h.wrapper = []string{"/bin/sh", "-ec", wrapper, "sh", h.Config}
	h.namespaces |= syscall.CLONE_NEWNS | syscall.CLONE_NEWIPC
	// A pod with a user namespace has to get through to its root file system.
	if err := os.Chmod(h.Dir, 0o711); err != nil {
		return err
	}
	networks := filepath.Join(h.Dir, "cni")
	plugins := criPlugins
	if h.release == release17 {
		plugins = criPlugin17
	}
	h.plugins = fmt.Sprintf(plugins, SandboxImage, h.registries(), filepath.Join(h.Output, "cni"), networks, Runtime, h.VMForHost())
	config, err := os.ReadFile(h.Config)
	if err != nil {
		return err
	}
	if err := os.WriteFile(h.VMForHost(), append(config, "[compat]\nhost_namespaces = \"vm\"\n"...), 0o600); err != nil {
		return err
	}
	if err := os.MkdirAll(networks, 0o700); err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(networks, "pods.conflist"), h.podNetwork(), 0o600)
}

// AwaitRuntime waits until the CRI plugin serves, which it does after containerd itself.
func AwaitRuntime(runtime cri.RuntimeServiceClient) error {
	ctx, cancel := context.WithTimeout(context.Background(), Patience)
	defer cancel()
	for {
		_, err := runtime.Status(ctx, &cri.StatusRequest{})
		if err == nil {
			return nil
		}
		select {
		case <-ctx.Done():
			return fmt.Errorf("the CRI plugin does not serve: %w", err)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

// PodsCgroup is the control group for pods of a test.
func (h *Host) PodsCgroup() string { return "/" + filepath.Base(h.Dir) }

// RemoveGroup removes an empty control group, in version 2 and in each hierarchy of 1.
func RemoveGroup(path string) {
	for _, dir := range groupDirs(path) {
		_ = unix.Rmdir(dir) // not while it has somebody else's
	}
}

// groupDirs are the directories of a control group: in each hierarchy of version 1, and in
// version 2.
func groupDirs(path string) []string {
	one, _ := filepath.Glob(filepath.Join("/sys/fs/cgroup/*", path))
	return append(one, filepath.Join("/sys/fs/cgroup", path))
}

func (h *Host) registries() string { return filepath.Join(h.Dir, "registries") }

// UseRegistry has containerd pull all images, whatever their registry, from the one at
// an address in its network.
func (h *Host) UseRegistry(address string) error {
	dir := filepath.Join(h.registries(), "_default")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	hosts := fmt.Sprintf("server = \"http://%[1]s\"\n[host.\"http://%[1]s\"]\n  capabilities = [\"pull\", \"resolve\"]\n", address)
	return os.WriteFile(filepath.Join(dir, "hosts.toml"), []byte(hosts), 0o600)
}

// StartCommand starts a command in containerd's namespaces.
func (h *Host) StartCommand(cmd *exec.Cmd) error {
	return thread.Run(func() error {
		if err := enter(h.Pid(), h.namespaces); err != nil {
			return err
		}
		return cmd.Start()
	})
}

// Crictl runs crictl and returns all that it printed.
func (h *Host) Crictl(arguments ...string) (string, error) {
	cmd := exec.Command(filepath.Join(h.Output, "tools", "crictl"),
		append([]string{"--config", os.DevNull, "--runtime-endpoint", "unix://" + h.Address(), "--timeout", Patience.String()}, arguments...)...)
	output, err := cmd.CombinedOutput()
	return string(output), err
}

// StopPods removes all pods and the control group around them, and then ends shims
// that are left, which it reports.
func (h *Host) StopPods() error {
	output, err := h.Crictl("rmp", "--all", "--force")
	if err != nil {
		err = fmt.Errorf("crictl rmp: %w\n%s", err, output)
	}
	Eventually(func() bool { return len(h.shims()) == 0 })
	for _, pid := range h.shims() {
		err = fmt.Errorf("shim %d outlived its pods; %w", pid, err)
		_ = unix.Kill(pid, unix.SIGKILL)
	}
	RemoveGroup("/" + KubernetesNamespace)
	return err
}

// shims are the shims of this containerd, without spares: they have its address among their
// arguments.
func (h *Host) shims() (found []int) {
	for pid, name := range Processes() {
		arguments, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
		if name == "containerd-shim" && strings.Contains(string(arguments), h.Address()) && !IsSpare(pid) {
			found = append(found, pid)
		}
	}
	return found
}
