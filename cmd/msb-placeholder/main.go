// msb-placeholder stands for a container on the host: a process that does nothing, with
// the container's root file system and in its network namespace. The shim starts
// it; it is not run by hand.
package main

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/vm/jail"
)

func main() {
	if err := jail.Enter(); err != nil {
		fmt.Fprintln(os.Stderr, "msb-placeholder:", err)
		os.Exit(1)
	}
	for {
		_ = unix.Pause() // until it is killed
	}
}
