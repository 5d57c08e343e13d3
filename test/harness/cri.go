package harness

import (
	"fmt"
	"os"
	"path/filepath"
)

// Runtime handlers of a containerd that StartCRI has started.
const (
	// PauseHandler is for pods with a sandbox container.
	PauseHandler = "msb"
	// SandboxHandler is for pods by the Sandbox API.
	SandboxHandler = "msb-sandbox"
)

// PauseImage is the sandbox container's.
const PauseImage = "msb.test/pause:latest"

// KubernetesNamespace is containerd's namespace of pods.
const KubernetesNamespace = "k8s.io"

// PodsCgroup is the control group that tests put pods into.
const PodsCgroup = "/msb-pods"

// criConfig is containerd's configuration of its CRI plugin: all that it would keep
// elsewhere is below the harness's directory. Root may lack what it takes to lower OOM
// scores, so they are only raised.
const criConfig = `
[plugins."io.containerd.cri.v1.images"]
  [plugins."io.containerd.cri.v1.images".pinned_images]
    sandbox = %[1]q
[plugins."io.containerd.cri.v1.runtime"]
  restrict_oom_score_adj = true
  disable_apparmor = true
  netns_mounts_under_state_dir = true
  [plugins."io.containerd.cri.v1.runtime".cni]
    bin_dirs = [%[2]q]
    conf_dir = %[3]q
  [plugins."io.containerd.cri.v1.runtime".containerd]
    default_runtime_name = "msb"
`

const criRuntime = `
    [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.%[1]s]
      runtime_type = %[2]q
      sandboxer = %[3]q
      disable_pause_image_pull = %[4]t
      privileged_without_host_devices = true
      pod_annotations = ["io.containerd.msb.*"]
      container_annotations = ["io.containerd.msb.*"]
      [plugins."io.containerd.cri.v1.runtime".containerd.runtimes.%[1]s.options]
        ConfigPath = %[5]q
`

// podNetwork is the pods' (CNI's specification, "Network configuration format").
const podNetwork = `{
  "cniVersion": "1.0.0", "name": "pods",
  "plugins": [{
    "type": "bridge", "bridge": "msbpods", "isGateway": true, "ipMasq": false,
    "ipam": {"type": "host-local", "dataDir": %q, "ranges": [[{"subnet": "10.88.0.0/16"}]], "routes": [{"dst": "0.0.0.0/0"}]}
  }]
}
`

// StartCRI starts containerd with its CRI plugin, which serves at Address too.
func StartCRI() (*Host, error) {
	return start(func(h *Host) (string, error) {
		conf := filepath.Join(h.Dir, "cni")
		if err := os.Mkdir(conf, 0o700); err != nil {
			return "", err
		}
		network := fmt.Sprintf(podNetwork, filepath.Join(h.Dir, "addresses"))
		if err := os.WriteFile(filepath.Join(conf, "pods.conflist"), []byte(network), 0o600); err != nil {
			return "", err
		}
		config := fmt.Sprintf(criConfig, PauseImage, filepath.Join(h.Output, "cni"), conf)
		config += fmt.Sprintf(criRuntime, PauseHandler, Runtime, "podsandbox", false, h.Config)
		return config + fmt.Sprintf(criRuntime, SandboxHandler, Runtime, "shim", true, h.Config), nil
	})
}
