package rpc

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"runtime/debug"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/containerd/v2/version"
	"github.com/containerd/log"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"

	"github.com/msb-runtime/containerd-shim-msb/shim/config"
	"github.com/msb-runtime/containerd-shim-msb/shim/count"
	"github.com/msb-runtime/containerd-shim-msb/shim/events"
	"github.com/msb-runtime/containerd-shim-msb/shim/hook"
	"github.com/msb-runtime/containerd-shim-msb/shim/journal"
	"github.com/msb-runtime/containerd-shim-msb/shim/manager"
	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
	"github.com/msb-runtime/containerd-shim-msb/shim/podapi"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/shell"
	"github.com/msb-runtime/containerd-shim-msb/shim/spare"
	"github.com/msb-runtime/containerd-shim-msb/shim/stdio"
	"github.com/msb-runtime/containerd-shim-msb/shim/task"
	"github.com/msb-runtime/containerd-shim-msb/shim/trace"
	"github.com/msb-runtime/containerd-shim-msb/shim/transfer"
)

// flushTimeout is how long a shim that ends waits until containerd has taken its last events.
const flushTimeout = 5 * time.Second

// tracesTimeout is how long a shim that ends waits for the collector of its traces; tests that
// want them all wait longer.
var tracesTimeout = time.Second

// gcPercent is how much a shim's heap may grow before garbage is collected (GOGC), as Go has it by
// default: below 4 MiB it is not. With pkg/shim's 40, which are 1.6 MiB, collections took four in ten of
// a shim's instructions at a container's start. pkg/shim also gives all that is free back to the host
// every 30 s, so that an idle shim keeps none of it.
const gcPercent = 100

// A Host is what the shim's process has of its host.
type Host struct {
	// Mounts is containerd's mount namespace.
	Mounts mountns.Namespace
	// RemoveSocket removes the file of the shim's socket. It is called when the shim ends, before
	// anything for which a shim of the same name need not wait.
	RemoveSocket func() error
	// Exit ends the shim's process, with what is still to be told; nil returns to pkg/shim, which
	// removes the file of the socket again: it may be the next shim's by then.
	Exit func(error)
	// Tracer takes the spans of what is done; nil if nobody wants them.
	Tracer *trace.Tracer
	// Spare is the VM that this process has waited with; nil if it was no spare.
	Spare *sandbox.Spare
}

// Register makes the shim's services known to pkg/shim, which serves every plugin that
// is a TTRPCService. began is when the shim was started.
func Register(host Host, began time.Time) {
	registry.Register(&plugin.Registration{
		Type:     plugins.TTRPCPlugin,
		ID:       "task",
		Requires: []plugin.Type{plugins.EventPlugin, plugins.InternalPlugin},
		InitFn: func(ic *plugin.InitContext) (any, error) {
			debug.SetGCPercent(gcPercent)
			options, _ := ic.Context.Value(shim.OptsKey{}).(shim.Opts)
			namespace, sandbox := whose(ic.Context)
			if err := openJournal(options.Debug, namespace, sandbox); err != nil {
				return nil, err
			}
			// What a spare has done before it was used, nobody has waited for.
			if err := count.Open(count.Dir); err != nil {
				log.G(ic.Context).WithError(err).Warn("the metrics of this host go without this shim")
			}
			host.Tracer = openTracer(ic.Context)
			publisher, err := ic.GetByID(plugins.EventPlugin, "publisher")
			if err != nil {
				return nil, err
			}
			life, err := ic.GetByID(plugins.InternalPlugin, "shutdown")
			if err != nil {
				return nil, err
			}
			platform := host.platform(ic.Properties[plugins.PropertyGRPCAddress], ic.Properties[plugins.PropertyTTRPCAddress])
			return newServices(ic.Context, publisher.(shim.Publisher), life.(shutdown.Service), host, began, platform), nil
		},
	})
}

// platform is what VMs are made with, for the containerd that has these addresses.
func (h Host) platform(address, events string) func(config.Config) sandbox.Platform {
	return func(config config.Config) sandbox.Platform {
		setLevel(config.Log.Level)
		platform := sandbox.PlatformOf(config)
		platform.Mounts, platform.Spare = h.Mounts, h.Spare
		if config.Spare.Count == 0 {
			return platform
		}
		platform.Refill = func(ctx context.Context, p *sandbox.Prepared, ordered func()) {
			maker := spare.Maker{Address: address, Events: events, Mounts: h.Mounts, Outside: p.Outside}
			if err := maker.Refill(ctx, ".", p.Size(), ordered); err != nil {
				log.L.WithError(err).Warn("the next container's VM boots when it is needed")
			}
		}
		return platform
	}
}

// whose tells containerd's namespace, and the id of the sandbox or the container that this shim is
// for, as which its bundle is called.
func whose(ctx context.Context) (namespace, sandbox string) {
	namespace, _ = namespaces.Namespace(ctx)
	bundle, _ := os.Getwd()
	return namespace, filepath.Base(bundle)
}

// openJournal sets up the shim's log as pkg/shim would, has each line tell whose it is, and bounds
// it.
func openJournal(debug bool, namespace, sandbox string) error {
	if err := log.SetFormat(log.TextFormat); err != nil {
		return err
	}
	if debug {
		if err := log.SetLevel(log.DebugLevel); err != nil {
			return err
		}
	}
	journal.Named(log.L.Logger, log.Fields{"namespace": namespace, "runtime": manager.Name, "sandbox": sandbox})
	journal.Bound(log.L.Logger)
	return nil
}

// setLevel has the shim log what the configuration says, if it does. Until there is one, and
// without, it is as with any shim (openJournal).
func setLevel(level string) {
	if level == "" {
		return
	}
	if err := log.SetLevel(level); err != nil { // the configuration takes none that is not known
		log.L.WithError(err).Warn("the log's level stays")
	}
}

// openTracer sends spans to where the shim's environment says; nil if it says nothing.
func openTracer(ctx context.Context) *trace.Tracer {
	target, ok, err := trace.FromEnvironment(os.Getenv)
	if err != nil {
		log.G(ctx).WithError(err).Warn("there are no traces")
	}
	if !ok {
		return nil
	}
	namespace, sandbox := whose(ctx)
	return trace.Open(target, namespace, sandbox, version.Version)
}

// newServices makes the services of a shim. When life ends, it ends the pod, and waits for its
// last events. Then the file of its socket goes: a shim of the same name can start. What it waits
// for from there on, the answers that clients still wait for, is nobody else's.
func newServices(ctx context.Context, publisher shim.Publisher, life shutdown.Service, host Host, began time.Time,
	platform func(config.Config) sandbox.Platform,
) *Services {
	queue := events.NewQueue(ctx, publisher)
	tasks, pod := task.New(task.Shim{
		Context: ctx, Life: life, Events: queue, Hooks: hook.Runner{Mounts: host.Mounts}, Began: began,
		Idle: task.IdleGrace, ClientsTurn: stdio.ClientsTurn, Platform: platform,
	})
	sandboxes := podapi.New(podapi.Shim{Shutdown: life.Shutdown, Platform: platform}, pod)
	services := &Services{tasks, sandboxes, transfer.New(tasks), journal.NewService(), shell.New(pod), new(calls), host.Tracer}
	life.RegisterCallback(func(context.Context) error {
		// Each has a time of its own: the pod's end may have taken all of the guest's, and the
		// last events come with it.
		ctx := context.WithoutCancel(ctx)
		err := pod.End(ctx)
		flushing, cancel := context.WithTimeout(ctx, flushTimeout)
		defer cancel()
		if flushErr := queue.Flush(flushing); flushErr != nil {
			log.G(ctx).WithError(flushErr).Warn("containerd has not taken the last events")
		}
		err = errors.Join(err, host.RemoveSocket())
		services.calls.settle()
		err = errors.Join(err, host.Spare.Close(), publisher.Close())
		closing, cancel := context.WithTimeout(ctx, tracesTimeout)
		defer cancel()
		host.Tracer.Close(closing)
		if host.Exit != nil {
			host.Exit(err)
		}
		return err
	})
	return services
}
