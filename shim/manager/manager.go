// Package manager starts and cleans up shims for containerd: the start, delete
// and info actions of the shim binary (containerd, docs/runtime-v2.md).
package manager

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"strings"
	"time"

	bootapi "github.com/containerd/containerd/api/runtime/bootstrap/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/version"
	"github.com/containerd/log"
	"github.com/containerd/typeurl/v2"

	"github.com/msb-runtime/containerd-shim-msb/shim/cgroup"
	"github.com/msb-runtime/containerd-shim-msb/shim/config"
	"github.com/msb-runtime/containerd-shim-msb/shim/count"
	"github.com/msb-runtime/containerd-shim-msb/shim/hook"
	"github.com/msb-runtime/containerd-shim-msb/shim/image"
	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
	"github.com/msb-runtime/containerd-shim-msb/shim/network"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/spare"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
	"github.com/msb-runtime/containerd-shim-msb/shim/task"
)

// Name is the runtime's name for containerd and its clients.
const Name = "io.containerd.msb.v2"

// addressFile is the file of a bundle that names the shim's socket, for Stop, which
// removes the socket of a shim that was killed.
const addressFile = "address"

// Manager implements containerd's shim.Shim.
type Manager struct{}

var _ shim.Shim = Manager{}

// Name implements shim.Shim.
func (Manager) Name() string { return Name }

// Start implements shim.Shim: it starts the shim's daemon, one for each container or
// pod, in a mount namespace of its own. For a container that joins a pod it starts nothing,
// and answers with the shim of the pod.
func (Manager) Start(ctx context.Context, params *bootapi.BootstrapParams) (*bootapi.BootstrapResult, error) {
	result, err := start(ctx, params, time.Now())
	if err != nil && count.Open(count.Dir) == nil {
		count.AddRefusal(err)
	}
	return result, err
}

// endsSoon has this process, which allocates little before it ends, not look for what it can free: a
// collection of garbage takes as long as all that "delete" does. pkg/shim has it collect often, for
// daemons.
func endsSoon() {
	const much = 64 << 20 // a configuration may be that large
	debug.SetMemoryLimit(much)
	debug.SetGCPercent(-1)
}

func start(ctx context.Context, params *bootapi.BootstrapParams, began time.Time) (*bootapi.BootstrapResult, error) {
	endsSoon()
	pod, err := podOf(".")
	if err != nil {
		return nil, err
	}
	if pod.ID != "" && !pod.Sandbox {
		return joinShim(ctx, params, pod.ID)
	}
	address, err := addressOf(ctx, params, params.GetInstanceID())
	if err != nil {
		return nil, err
	}
	if err := refuseInUse(address, params.GetInstanceID()); err != nil { // before it costs a spare
		return nil, err
	}
	if err := saveOptions(params); err != nil {
		return nil, err
	}
	configuration := configurationOf(params)
	daemon, err := daemonFor(params, configuration, began)
	if err != nil {
		return nil, err
	}
	defer daemon.close()
	if err := daemon.listen(address); err != nil {
		return nil, errors.Join(err, daemon.kill())
	}
	if err := os.WriteFile(addressFile, []byte(address), 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("noting the shim's address in the bundle: %w", err), daemon.kill(), shim.RemoveSocket(address))
	}
	if err := daemon.release(); err != nil {
		return nil, errors.Join(err, daemon.kill(), shim.RemoveSocket(address))
	}
	return result(address, configuration.Images)
}

// daemonFor is the daemon for the bundle that this process is in: a spare, or a new one.
func daemonFor(params *bootapi.BootstrapParams, configuration config.Config, began time.Time) (*daemon, error) {
	if configuration.Spare.Count > 0 {
		if d, err := spareFor(params, configuration, began); d != nil || err != nil {
			return d, err
		}
	}
	return startDaemon(params, configuration.Tracing, began)
}

// spareFor is a spare that fits the bundle's container; nil if there is none. What is wrong with
// the container is told by Create.
func spareFor(params *bootapi.BootstrapParams, configuration config.Config, began time.Time) (*daemon, error) {
	pool, err := spare.Open(configuration, params.GetContainerdGrpcAddress(), mountns.Namespace{})
	if err != nil {
		return nil, nil
	}
	size, fits, err := sparedSize(".", configuration)
	if err != nil || !fits {
		return nil, nil
	}
	return takeDaemon(pool, size, params, configuration.Tracing, began)
}

// sparedSize is the size of the VM for a bundle's container, and tells whether that may be a
// spare: one that is handed over to a container which needs another VM is lost. Of a sandbox of
// the Sandbox API nothing is known yet: most have the default size, and a network of their own.
func sparedSize(bundle string, configuration config.Config) (size spec.Size, fits bool, err error) {
	plan, err := spec.Load(bundle)
	if errors.Is(err, os.ErrNotExist) {
		return sandbox.DefaultSize(configuration.VM), true, nil
	}
	if err != nil {
		return spec.Size{}, false, err
	}
	size, err = sandbox.SizeOf(configuration.VM, plan.Size)
	refused := len(plan.HostNamespaces()) > 0 && !configuration.Compat.VMForHost()
	return size, !refused && sandbox.Config{Network: plan.Network(), Users: plan.Users()}.TakesSpare(), err
}

// result tells containerd where a shim is, that it speaks version 3 of the Task API, and which
// mounts containerd's mount manager is to leave to it (containerd, docs/shim-capabilities.md):
// those of images, unless they are to be the host's. containerd before 2.4 passes over it.
func result(address string, images config.Images) (*bootapi.BootstrapResult, error) {
	result := &bootapi.BootstrapResult{Version: 3, Protocol: "ttrpc", Address: address}
	capabilities := &types.MountCapabilities{}
	if images.InGuest() {
		capabilities.Types, capabilities.Transforms = image.Types, image.Transforms
	}
	return result, result.AddExtension(capabilities)
}

// Stop implements shim.Shim: it cleans up a bundle whose shim is dead, and says how its
// task ended. The shim's mounts went with its namespace. What may be left are the VMM, the
// control group, TAP devices, and the shim's socket.
func (Manager) Stop(ctx context.Context, id string) (shim.StopStatus, error) {
	endsSoon()
	bundle, err := bundleOf(ctx)
	if err != nil {
		return shim.StopStatus{}, err
	}
	logger := log.G(ctx).WithField("id", id)
	if err := cleanUpSandbox(ctx, bundle); err != nil {
		logger.WithError(err).Warn("cleaning up after a dead shim")
	}
	if err := runHooks(ctx, id, bundle); err != nil {
		logger.WithError(err).Warn("running the hooks of a dead shim")
	}
	if address, err := shim.ReadAddress(filepath.Join(bundle, addressFile)); err == nil {
		if err := shim.RemoveSocket(address); err != nil && !errors.Is(err, os.ErrNotExist) {
			logger.WithError(err).Warn("removing the socket of a dead shim")
		}
	}
	ended, err := task.ReadRecord(bundle)
	if err != nil {
		logger.WithError(err).Warn("reading how the task of a dead shim ended")
	}
	return shim.StopStatus{Pid: int(ended.Pid), ExitStatus: int(ended.Status), ExitedAt: ended.ExitedAt}, nil
}

// bundleOf is the absolute path of the bundle that the program was called for: its
// argument -bundle, or else the working directory. Every containerd gives both to
// "delete".
func bundleOf(ctx context.Context) (string, error) {
	options, _ := ctx.Value(shim.OptsKey{}).(shim.Opts)
	bundle, err := filepath.Abs(options.BundlePath)
	if err != nil {
		return "", fmt.Errorf("finding the bundle %q: %w", options.BundlePath, err)
	}
	return bundle, nil
}

// cleanUpSandbox takes away what a dead shim's sandbox has left, if the bundle is the
// one that it was made for.
func cleanUpSandbox(ctx context.Context, bundle string) error {
	record, err := sandbox.ReadRecord(bundle)
	if err != nil || record == nil {
		return err
	}
	errs := []error{record.Kill(ctx), cgroup.Remove(record.CgroupsPath)}
	if record.Spare != "" {
		errs = append(errs, spare.Remove(record.Spare))
	}
	if record.Network != "" {
		errs = append(errs, network.Sweep(record.Network))
	}
	return errors.Join(errs...)
}

// runHooks runs the poststop hooks of a bundle's container, because its shim, which is dead,
// cannot. Most containers have none that are pending, and their configuration, which need not be in
// order, is not read again.
func runHooks(ctx context.Context, id, bundle string) error {
	if !hook.IsPending(bundle) {
		return nil
	}
	plan, err := spec.Load(bundle)
	if err != nil {
		return err
	}
	return hook.Runner{}.Stop(ctx, plan, id, bundle)
}

// Info implements shim.Shim. The version is this build's: the linker sets it in
// containerd's package, from which pkg/shim prints it too.
func (Manager) Info(context.Context, io.Reader) (*types.RuntimeInfo, error) {
	features, err := typeurl.MarshalAnyToProto(spec.Features())
	if err != nil {
		return nil, err
	}
	return &types.RuntimeInfo{
		Name:        Name,
		Version:     &types.RuntimeVersion{Version: version.Version},
		Features:    features,
		Annotations: allowedMounts(),
	}, nil
}

// allowedMounts tells containerd 2.2 and 2.3 what result tells later ones (their
// core/runtime/v2/task_manager.go).
func allowedMounts() map[string]string {
	configuration, err := config.Load(nil)
	if err != nil || !configuration.Images.InGuest() {
		return nil
	}
	allowed := slices.Clone(image.Types)
	for _, transform := range image.Transforms {
		allowed = append(allowed, transform+"/*")
	}
	return map[string]string{"containerd.io/runtime-allow-mounts": strings.Join(allowed, ",")}
}
