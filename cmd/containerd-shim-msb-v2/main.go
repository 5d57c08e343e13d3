// containerd-shim-msb-v2 is the shim of the containerd runtime
// io.containerd.msb.v2, which runs each container in a microVM of its own.
// containerd starts it; it is not run by hand.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/containerd/containerd/v2/pkg/shim"

	"github.com/msb-runtime/containerd-shim-msb/shim/hook"
	"github.com/msb-runtime/containerd-shim-msb/shim/manager"
	"github.com/msb-runtime/containerd-shim-msb/shim/rpc"
)

func main() {
	var hooks hook.Runner
	var removeSocket func() error
	if manager.IsDaemon() {
		var err error
		removeSocket, err = manager.Settle()
		exitIf(err)
		hooks.Mounts = manager.HostMounts()
	}
	ctx := context.Background()
	started, err := manager.StartLegacy(ctx)
	exitIf(err)
	if started {
		return
	}
	rpc.Register(hooks, manager.Began(), removeSocket)
	shim.RunShim(ctx, manager.Manager{}, func(c *shim.Config) {
		// The shim waits for its own children, and containers' processes are
		// the guest's to reap.
		c.NoReaper, c.NoSubreaper = true, true
		c.NoSetupLogger = true // Settle has opened the log
	})
}

func exitIf(err error) {
	if err != nil {
		fmt.Fprintln(os.Stderr, manager.Name+":", err)
		os.Exit(1)
	}
}
