// containerd-shim-msb-v2 is the shim of the containerd runtime
// io.containerd.msb.v2, which runs each container in a microVM of its own.
// containerd starts it; it is not run by hand.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"

	"github.com/containerd/containerd/v2/pkg/shim"

	"github.com/msb-runtime/containerd-shim-msb/shim/manager"
	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
	"github.com/msb-runtime/containerd-shim-msb/shim/rpc"
	"github.com/msb-runtime/containerd-shim-msb/shim/spare"
)

func main() {
	var host rpc.Host
	switch {
	case spare.IsSpare():
		var err error
		host.Mounts = manager.HostMounts()
		host.Spare, err = spare.Wait(manager.Descriptors(), host.Mounts)
		exitIf(err)
		if host.Spare == nil {
			return
		}
	case spare.IsFill():
		exitIf(spare.Fill())
		return
	case manager.IsDaemon():
		exitIf(mountns.Isolate())
		host.Mounts = manager.HostMounts()
	}
	if manager.IsDaemon() {
		var err error
		host.RemoveSocket, err = manager.Settle()
		if err != nil {
			err = errors.Join(err, host.Spare.Close())
		}
		exitIf(err)
	}
	host.Exit = func(err error) {
		exitIf(err)
		os.Exit(0)
	}
	ctx := context.Background()
	started, err := manager.AnswerStart(ctx)
	exitIf(err)
	if started {
		return
	}
	rpc.Register(host, manager.Began())
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
