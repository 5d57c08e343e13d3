package manager

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/v2/defaults"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/msb-runtime/containerd-shim-msb/shim/config"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
)

// podOf tells of which pod the container of a bundle is. A sandbox of the Sandbox API
// has no configuration there.
func podOf(bundle string) (spec.Pod, error) {
	path := filepath.Join(bundle, "config.json")
	data, err := os.ReadFile(path)
	if errors.Is(err, os.ErrNotExist) {
		return spec.Pod{}, nil
	}
	if err != nil {
		return spec.Pod{}, err
	}
	var content struct {
		Annotations map[string]string `json:"annotations"`
	}
	if err := json.Unmarshal(data, &content); err != nil {
		return spec.Pod{}, fmt.Errorf("%s is not an OCI runtime configuration: %w (%w)", path, err, errdefs.ErrInvalidArgument)
	}
	return spec.PodOf(content.Annotations), nil
}

// joinShim answers with the shim of a pod, for a container that joins it. containerd 2.1
// and later know it themselves and do not ask.
func joinShim(ctx context.Context, params *bootapi.BootstrapParams, pod string) (*bootapi.BootstrapResult, error) {
	address, err := addressOf(ctx, params, pod)
	if err != nil {
		return nil, err
	}
	if !shim.CanConnect(address) {
		return nil, fmt.Errorf("the shim of the pod's sandbox %s does not run, create the pod anew: %w", pod, errdefs.ErrFailedPrecondition)
	}
	return result(address, configurationOf(params).Images)
}

// addressOf is the address of the shim that was started for a container or sandbox.
func addressOf(ctx context.Context, params *bootapi.BootstrapParams, id string) (string, error) {
	dir := params.GetSocketDir()
	if dir == "" {
		dir = filepath.Join(defaults.DefaultStateDir, "s")
	}
	return shim.CreateSocketAddress(ctx, dir, params.GetContainerdGrpcAddress(), id, false)
}

// saveOptions keeps the runtime's options for CreateSandbox, which does not get them.
func saveOptions(params *bootapi.BootstrapParams) error {
	return config.SaveOptions(".", optionsOf(params))
}

// optionsOf are the runtime's options; nil means none.
func optionsOf(params *bootapi.BootstrapParams) (options *anypb.Any) {
	for _, extension := range params.GetExtensions() {
		if extension.GetValue().MessageIs(&runtimeoptions.Options{}) {
			options = extension.GetValue()
		}
	}
	return options
}

// configurationOf is the administrator's file. What is wrong with it is told by Create.
func configurationOf(params *bootapi.BootstrapParams) config.Config {
	var options typeurl.Any // not one that holds a nil pointer
	if given := optionsOf(params); given != nil {
		options = given
	}
	configuration, _ := config.Load(options)
	return configuration
}
