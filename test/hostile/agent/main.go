// agent takes the place of msb-agent in a guest that somebody else owns: it is the
// product's own, and beside that it does what the words of a container's environment
// variable MSB_HOSTILE say, or of the end of the guest's disk, for what comes before the
// first container. A word is VERB or VERB:ARGUMENT; see calls.go for those that change
// answers, and attacks.go for those that do something by themselves.
package main

import (
	"bytes"
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
		fmt.Fprintln(os.Stderr, "this agent is the first process of a microVM; it is not run by hand")
		os.Exit(2)
	}
	ctx := context.Background()
	g := &guest{}
	err := agent.Run(ctx,
		agent.WrapConnection(g.connection),
		agent.OnOpen(g.opened),
		agent.WrapControl(g.control),
		agent.WrapCalls(g.call),
		agent.WrapEvents(g.events))
	fmt.Fprintln(os.Stderr, "hostile agent:", err)
	boot.End()
}

// diskTail is the end of the guest's disk where a test puts words.
const diskTail = 512

// diskWords are the words at the end of the guest's disk: after a mark, up to the first
// zero byte.
func diskWords() string {
	disk, err := os.Open("/dev/vda")
	if err != nil {
		return ""
	}
	defer disk.Close()
	size, err := disk.Seek(0, 2)
	if err != nil {
		return ""
	}
	tail := make([]byte, diskTail)
	if _, err := disk.ReadAt(tail, size-diskTail); err != nil {
		return ""
	}
	text, marked := bytes.CutPrefix(tail, []byte(variable+"="))
	if !marked {
		return ""
	}
	text, _, _ = bytes.Cut(text, []byte{0})
	return string(text)
}
