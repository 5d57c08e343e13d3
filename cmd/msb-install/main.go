// msb-install puts msb's kit on a node of Kubernetes and takes it off again. It runs
// in a pod of the node's process ids, by deploy/daemonset.yaml:
//
//	msb-install [FLAG ...] install   install or upgrade, then end
//	msb-install [FLAG ...] hold      wait for a signal to end, then take it off
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"log/slog"
	"os"
	"os/signal"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/deploy/containerd"
	"github.com/msb-runtime/containerd-shim-msb/deploy/kit"
	"github.com/msb-runtime/containerd-shim-msb/deploy/node"
)

// path is where programs of nodes are.
const path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin:/opt/bin"

func main() {
	source := flag.String("kit", "/kit", "the `directory` with the kit, in this image")
	host := flag.String("host", "/proc/1/root", "the node's root `directory`")
	prefix := flag.String("prefix", containerd.Prefix, "the `directory` on the node to install into")
	config := flag.String("config", "/etc/containerd/config.toml", "containerd's configuration `file` on the node")
	program := flag.String("containerd", "containerd", "containerd's `program` on the node")
	restart := flag.String("restart", "systemctl restart containerd", "the `command` on the node that restarts containerd")
	snapshotter := flag.String("snapshotter", "", "containerd's `snapshotter` for the runtime, such as erofs; by default that of all runtimes")
	holder := flag.String("holder", os.Getenv("POD_UID"), "`who` installs")
	flag.Parse()
	n := node.Node{
		Kit: kit.Store{Dir: *prefix, Proc: "/proc"},
		Containerd: containerd.Containerd{
			Config: *config, Prefix: *prefix, Snapshotter: *snapshotter, MkfsHelp: containerd.MkfsHelp,
			Dump: containerd.Dump(*program, *config), Restart: containerd.Command(*restart),
		},
	}
	if err := run(n, flag.Arg(0), *source, *host, *holder); err != nil {
		fmt.Fprintln(os.Stderr, "msb-install:", err)
		os.Exit(1)
	}
}

func run(n node.Node, command, source, host, holder string) error {
	if holder == "" {
		return errors.New("no holder is given, which is the pod's UID")
	}
	files, err := os.OpenRoot(source)
	if err != nil {
		return err
	}
	defer files.Close()
	if err := enter(host); err != nil {
		return err
	}
	switch command {
	case "install":
		return n.Install(context.Background(), files.FS(), holder)
	case "hold":
		ended, stop := signal.NotifyContext(context.Background(), unix.SIGTERM, unix.SIGINT)
		defer stop()
		slog.Info("msb is installed until this pod ends")
		<-ended.Done()
		return n.Uninstall(context.Background(), holder)
	}
	return fmt.Errorf("unknown command %q, it is install or hold", command)
}

// enter makes the node's root this process's, so that paths, links and programs are
// the node's. The kit stays open.
func enter(host string) error {
	if err := unix.Chroot(host); err != nil {
		return fmt.Errorf("entering the node's root %s: %w", host, err)
	}
	return errors.Join(os.Chdir("/"), os.Setenv("PATH", path))
}
