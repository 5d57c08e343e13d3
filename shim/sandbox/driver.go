package sandbox

import (
	"cmp"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/msb-runtime/containerd-shim-msb/internal/clockset"
	"github.com/msb-runtime/containerd-shim-msb/shim/config"
	"github.com/msb-runtime/containerd-shim-msb/shim/guest"
	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
	"github.com/msb-runtime/containerd-shim-msb/vm"
	"github.com/msb-runtime/containerd-shim-msb/vm/jail"
	"github.com/msb-runtime/containerd-shim-msb/vm/krun"
	"github.com/msb-runtime/containerd-shim-msb/vm/qemu"
)

// Files of the kit.
const (
	kernelFile      = "vmlinux"
	tsiKernelFile   = "vmlinux-tsi" // of the krun driver's machines with the host's network
	diskFile        = "guest.erofs"
	shieldFile      = "msb-shield"
	placeholderFile = "msb-placeholder"
	vmmFile         = "msb-krun"  // the krun driver's VMM
	virtiofsdFile   = "virtiofsd" // the qemu driver's file server, if it was built
)

// A Platform is what sandboxes are made with.
type Platform struct {
	// Kit is the directory of the guest's kernel and disk, and of helper programs.
	Kit string
	// Drivers are tried in turn.
	Drivers []vm.Driver
	// ReturnMemory gives memory that guests have freed back to the host.
	ReturnMemory bool
	// BootTimeout is how long the agent may take to answer.
	BootTimeout time.Duration
	// Budgets are how long the guest may take for a call.
	Budgets guest.Budgets
	// Mounts is containerd's mount namespace.
	Mounts mountns.Namespace
	// OpenNetwork joins the network namespace at a path in Mounts, or a new one if it is empty.
	OpenNetwork func(mounts mountns.Namespace, path string) (Network, error)
	// Placeholder starts a process of a program, the kit's, with a root and in a network namespace;
	// nil means the host's.
	Placeholder func(program jail.Program, root *jail.Root, namespace *os.File) (Process, error)
	// Spare is a VM that runs already and waits to become the first that is prepared; nil if
	// there is none.
	Spare *Spare
	// Refill sees to it that there is a spare of the size of a VM that runs, as long as the
	// context lasts; nil: nobody does. It calls ordered, which may be called more than once, when
	// what it has begun goes on without this process.
	Refill func(ctx context.Context, p *Prepared, ordered func())
	// Shell lets the host's operator run programs in the guest.
	Shell bool
	// ClockJumps tells when the host's clock is set (clockset.Notify); nil: nobody does.
	ClockJumps func(context.Context) (<-chan struct{}, error)
}

// PlatformOf is the one that a configuration describes. Which of the drivers it is, is
// decided at every start: a kernel module may come and go.
func PlatformOf(config config.Config) Platform {
	return Platform{
		Kit: config.Kit, Drivers: drivers(config), ReturnMemory: config.VM.ReturnMemory, BootTimeout: time.Duration(config.VM.BootTimeout),
		Budgets: guest.DefaultBudgets, OpenNetwork: openNetwork, Placeholder: startPlaceholder,
		ClockJumps: clockset.Notify, Shell: config.Debug.Shell,
	}
}

// drivers are the configured driver, or those that are tried in turn.
func drivers(config config.Config) []vm.Driver {
	library := cmp.Or(config.Krun.Library, filepath.Join(config.Kit, krun.Library))
	all := []vm.Driver{
		krun.Driver{
			Program: filepath.Join(config.Kit, vmmFile), Library: library,
			HostNetworkKernel: filepath.Join(config.Kit, tsiKernelFile),
		},
		qemu.Driver{QEMU: config.QEMU.Path, Virtiofsd: config.QEMU.Virtiofsd, OwnVirtiofsd: filepath.Join(config.Kit, virtiofsdFile)},
	}
	for _, driver := range all {
		if driver.Name() == config.Driver {
			return []vm.Driver{driver}
		}
	}
	return all // auto
}

// startFirst starts the machine with the first driver that can run it here.
// What a driver cannot do because of the host is passed over, with a warning;
// any other failure would be the same with the next.
func startFirst(ctx context.Context, drivers []vm.Driver, config vm.Config) (vm.Driver, vm.Machine, error) {
	var passed error
	for i, driver := range drivers {
		machine, err := start(ctx, driver, config)
		if err == nil {
			return driver, machine, nil
		}
		err = fmt.Errorf("driver %s: %w", driver.Name(), err)
		if !errdefs.IsFailedPrecondition(err) {
			return nil, nil, err
		}
		if passed == nil {
			passed = err
		} else {
			passed = fmt.Errorf("%w; %w", passed, err)
		}
		if i+1 < len(drivers) {
			log.G(ctx).WithError(err).Warnf("using driver %s instead", drivers[i+1].Name())
		}
	}
	return nil, nil, passed
}

func start(ctx context.Context, driver vm.Driver, config vm.Config) (vm.Machine, error) {
	if err := driver.Check(ctx); err != nil {
		return nil, err
	}
	return driver.Start(ctx, config)
}
