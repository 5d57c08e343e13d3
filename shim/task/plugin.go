package task

import (
	"time"

	"github.com/containerd/containerd/v2/pkg/shim"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/containerd/v2/plugins"
	"github.com/containerd/plugin"
	"github.com/containerd/plugin/registry"

	"github.com/msb-runtime/containerd-shim-msb/shim/hook"
)

// Register makes the service known to pkg/shim, which serves every plugin that
// is a TTRPCService. hooks runs containers' hooks; began is when the shim was
// started.
func Register(hooks hook.Runner, began time.Time) {
	registry.Register(&plugin.Registration{
		Type:     plugins.TTRPCPlugin,
		ID:       "task",
		Requires: []plugin.Type{plugins.EventPlugin, plugins.InternalPlugin},
		InitFn: func(ic *plugin.InitContext) (any, error) {
			publisher, err := ic.GetByID(plugins.EventPlugin, "publisher")
			if err != nil {
				return nil, err
			}
			sd, err := ic.GetByID(plugins.InternalPlugin, "shutdown")
			if err != nil {
				return nil, err
			}
			return New(ic.Context, publisher.(shim.Publisher), sd.(shutdown.Service), hooks, began), nil
		},
	})
}
