package command

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/urfave/cli/v3"

	"github.com/msb-runtime/containerd-shim-msb/ctl/metrics"
	"github.com/msb-runtime/containerd-shim-msb/ctl/survey"
	"github.com/msb-runtime/containerd-shim-msb/shim/count"
	"github.com/msb-runtime/containerd-shim-msb/shim/spare"
)

func metricsCommand() *cli.Command {
	serve := &cli.Command{
		Name: "serve", Usage: "serve the metrics by HTTP, at /metrics, until it is told to end",
		Description: `Each request reads them anew. On the unix socket only root may read them, on a loopback address
whoever is on this host; any other address is refused.`,
		Flags: []cli.Flag{&cli.StringFlag{
			Name: "listen", Usage: "listen on `ADDRESS`: unix:PATH, or 127.0.0.1:PORT", Value: metrics.DefaultAddress,
		}},
		OnUsageError: func(_ context.Context, _ *cli.Command, err error, _ bool) error { return usageError{err} },
		Action:       metricsServe,
	}
	return &cli.Command{
		Name: "metrics", Usage: "print or serve metrics of the sandboxes, for Prometheus",
		Description: `What the sandboxes of this host are and use, the VMs that wait, and what all shims have counted since
the host's boot, in Prometheus' text form. It is read from the host: a shim that hangs is told as
such, and delays the answer by a second, however many hang. For a collector that reads files:
msbctl metrics >FILE.new && mv FILE.new FILE.prom`,
		Flags: []cli.Flag{
			stateFlag(),
			&cli.StringFlag{Name: "run", Value: count.Dir, Hidden: true}, // tests have another one
		},
		Action: metricsPrint, Commands: []*cli.Command{serve},
	}
}

// source is where a command's metrics are read.
func source(c *cli.Command) (metrics.Source, error) {
	if _, err := arguments(c, 0, 0); err != nil {
		return metrics.Source{}, err
	}
	if os.Geteuid() != 0 {
		return metrics.Source{}, errNotRoot
	}
	run := c.String("run")
	return metrics.Source{
		Host:   survey.Host{State: c.String("state"), Proc: "/proc", Patience: shimPatience},
		Spares: func() ([]spare.Listed, error) { return spare.List(filepath.Join(run, filepath.Base(spare.Root))) },
		Counts: run,
	}, nil
}

func metricsPrint(_ context.Context, c *cli.Command) error {
	from, err := source(c)
	if err != nil {
		return err
	}
	return metrics.Print(c.Root().Writer, metrics.New(from))
}

func metricsServe(ctx context.Context, c *cli.Command) error {
	from, err := source(c)
	if err != nil {
		return err
	}
	listener, err := metrics.Listen(c.String("listen"))
	if errors.As(err, new(metrics.AddressError)) {
		return usageError{err}
	}
	if err != nil {
		return err
	}
	fmt.Fprintf(c.Root().Writer, "serving metrics on %s:%s\n", listener.Addr().Network(), listener.Addr())
	return metrics.Serve(ctx, listener, metrics.New(from))
}
