package containerd

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"
	"time"

	"github.com/msb-runtime/containerd-shim-msb/test/conformance/expect"
	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// integrationConfig is for a containerd whose state is in its own places, as those are the
// world's. restrict_oom_score_adj is for a root without CAP_SYS_RESOURCE.
const integrationConfig = `version = 3
[plugins."io.containerd.nri.v1.nri"]
  disable = false
  socket_path = "/var/run/nri-test.sock"
  plugin_path = "/none"
[plugins."io.containerd.cri.v1.images".pinned_images]
  sandbox = "registry.k8s.io/pause:3.10.2"
[plugins."io.containerd.cri.v1.runtime"]
  disable_apparmor = true
  restrict_oom_score_adj = true
  cdi_spec_dirs = []
  drain_exec_sync_io_timeout = "10s"
[plugins."io.containerd.cri.v1.runtime".cni]
  bin_dirs = [%[1]q]
  conf_dir = %[7]q
[plugins."io.containerd.cri.v1.runtime".containerd]
  default_runtime_name = %[2]q
# What the suite calls so runs with a network that fails on purpose.
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc-fp]
  runtime_type = %[4]q
  sandboxer = %[5]q
  cni_conf_dir = %[6]q
  cni_max_conf_num = 1
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.runc]
  runtime_type = "io.containerd.runc.v2"
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.msb]
  runtime_type = %[3]q
  privileged_without_host_devices = true
[plugins."io.containerd.cri.v1.runtime".containerd.runtimes.msb-sandbox]
  runtime_type = %[3]q
  sandboxer = "shim"
  disable_pause_image_pull = true
  privileged_without_host_devices = true
`

// TestIntegration runs the tests of containerd's CRI plugin. -short has some that pass,
// of each kind one.
func TestIntegration(t *testing.T) {
	output := os.Getenv("MSB_OUTPUT")
	if !slices.Contains(expect.Sandboxers, *sandboxer) {
		t.Fatalf("no sandboxer %q", *sandboxer)
	}
	name := *handler
	if *sandboxer == "shim" {
		name = harness.SandboxHandler
	}
	suite{
		name: "integration", variants: expect.Sandboxers, variant: *sandboxer, limit: 60 * time.Minute,
		config: fmt.Sprintf(integrationConfig, filepath.Join(output, "cni"), name, harness.Runtime,
			runtimeType(), *sandboxer, filepath.Dir(failingNetworkFile), filepath.Dir(networkFile)),
		arguments: []string{"-cri-endpoint", daemonAddress, "-runtime-handler", name, "-build-dir", filepath.Join(output, "tools")},
		short:     "^Test((Failed)?ContainerRestart|ContainerEvents|ContainerLogWithoutTailingNewLine|RunPodSandboxWithSetupCNIFailure|(Userns)?VolumeCopyUp)$",
	}.test(t)
}
