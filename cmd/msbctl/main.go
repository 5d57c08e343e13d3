// msbctl is the program of those who run the containerd runtime io.containerd.msb.v2: what
// this host can do, what runs on it, and how it is configured.
package main

import (
	"context"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/ctl/command"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM)
	defer stop()
	os.Exit(command.Main(ctx, os.Args, os.Stdout, os.Stderr))
}
