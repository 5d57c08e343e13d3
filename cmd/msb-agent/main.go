// msb-agent is PID 1 of the guest, the process that holds namespaces of its containers, and
// the one that packs and unpacks archives of their files.
package main

import (
	"context"
	"fmt"
	"os"

	"github.com/msb-runtime/containerd-shim-msb/guest/agent"
	"github.com/msb-runtime/containerd-shim-msb/guest/boot"
	"github.com/msb-runtime/containerd-shim-msb/guest/pod"
	"github.com/msb-runtime/containerd-shim-msb/guest/transfer"
)

func main() {
	if len(os.Args) == 4 && os.Args[1] == pod.HoldCommand {
		pod.Hold(os.Args[2], os.Args[3])
	}
	if len(os.Args) == 3 && os.Args[1] == transfer.HelperCommand {
		transfer.Help(os.Args[2])
	}
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "msb-agent is the first process of a microVM; it is not run by hand")
		os.Exit(2)
	}
	if err := agent.Run(context.Background()); err != nil {
		fmt.Fprintln(os.Stderr, "msb-agent:", err)
	}
	boot.End()
}
