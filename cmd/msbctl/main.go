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
	signals := []os.Signal{unix.SIGINT, unix.SIGTERM}
	if !signal.Ignored(unix.SIGHUP) { // by nohup(1)
		signals = append(signals, unix.SIGHUP)
	}
	ctx, stop := signal.NotifyContext(context.Background(), signals...)
	defer stop()
	os.Exit(command.Main(ctx, os.Args, os.Stdout, os.Stderr))
}
