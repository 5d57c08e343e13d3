package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/urfave/cli/v3"

	"github.com/msb-runtime/containerd-shim-msb/ctl/bench"
)

func benchCommand() *cli.Command {
	firstArgument := 1
	return &cli.Command{
		Name: "bench", Usage: "measure how fast an image starts here, beside another runtime", ArgsUsage: "IMAGE [COMMAND...]",
		Description: `Containers of an image that containerd has are started and ended, in turns with those of another
runtime. A start is from the task's creation until its process runs, an end from its SIGKILL
until the task is deleted. P50 and P95 are what half, and 95 of 100, do not exceed; × is how many
times as long as the other runtime's. They have no network, no mounts and no limits. On a machine
that does other work the ratios still say something, the times do not.

Nothing of it is left, also if a signal ends it.`,
		StopOnNthArg: &firstArgument, // what follows the image is the container's
		Flags: []cli.Flag{
			addressFlag(), jsonFlag(),
			&cli.StringFlag{Name: "namespace", Aliases: []string{"n"}, Usage: "the `NAMESPACE` of containerd that has the image", Value: namespaces.Default},
			&cli.IntFlag{Name: "rounds", Usage: "start `COUNT` containers of each runtime", Value: 20},
			&cli.StringFlag{Name: "runtime", Usage: "the `RUNTIME` that is measured", Value: "io.containerd.msb.v2"},
			&cli.StringFlag{Name: "against", Usage: "the `RUNTIME` beside it; empty for none", Value: "io.containerd.runc.v2"},
			&cli.StringFlag{Name: "snapshotter", Usage: "the `SNAPSHOTTER` of the root file systems, if it is not containerd's own"},
			&cli.StringFlag{Name: "config", Usage: "msb's configuration `FILE`, if it is not the shim's own"},
		},
		Action: benchAction,
	}
}

const maxRounds = 1000

func benchAction(ctx context.Context, c *cli.Command) (err error) {
	args := c.Args().Slice()
	switch rounds := c.Int("rounds"); {
	case len(args) == 0:
		return usageError{fmt.Errorf("no image is given: it is %s %s", c.FullName(), c.ArgsUsage)}
	case rounds < 1 || rounds > maxRounds:
		return usageError{fmt.Errorf("--rounds is %d: it is 1 to %d", rounds, maxRounds)}
	case os.Geteuid() != 0:
		return errNotRoot
	}
	namespace := c.String("namespace")
	containerd, err := client.New(strings.TrimPrefix(c.String("address"), "unix://"), client.WithDefaultNamespace(namespace))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, containerd.Close()) }()
	ways := []bench.Way{{Runtime: c.String("runtime"), Config: c.String("config")}}
	if other := c.String("against"); other != "" {
		ways = append(ways, bench.Way{Runtime: other})
	}
	load := bench.Load{Image: args[0], Snapshotter: c.String("snapshotter"), Command: args[1:]}
	times, err := bench.Run(namespaces.WithNamespace(ctx, namespace), containerd, namespace, load, ways, c.Int("rounds"))
	if err != nil {
		return err
	}
	measured := benched{Image: load.Image, Rounds: c.Int("rounds")}
	for i, way := range ways {
		measured.Runtimes = append(measured.Runtimes, benchedRuntime{way.Runtime, figuresOf(times[i].Start, times[0].Start), figuresOf(times[i].End, times[0].End)})
	}
	if c.Bool("json") {
		return printJSON(c.Root().Writer, measured)
	}
	return measured.print(c.Root().Writer)
}

// benched is what was measured. Of each runtime there are the times of the first one as multiples
// of its own.
type benched struct {
	Image    string           `json:"image"`
	Rounds   int              `json:"rounds"`
	Runtimes []benchedRuntime `json:"runtimes"`
}

type benchedRuntime struct {
	Runtime string  `json:"runtime"`
	Start   figures `json:"start"`
	End     figures `json:"end"`
}

// figures are times in seconds. Times50 and Times95 are how many times as long the first
// runtime's take.
type figures struct {
	P50     float64   `json:"p50_seconds"`
	P95     float64   `json:"p95_seconds"`
	Times50 float64   `json:"ratio_p50"`
	Times95 float64   `json:"ratio_p95"`
	All     []float64 `json:"seconds"`

	times []time.Duration
}

func figuresOf(times, first []time.Duration) figures {
	f := figures{
		P50: bench.Percentile(times, 50).Seconds(), P95: bench.Percentile(times, 95).Seconds(),
		Times50: bench.Ratio(first, times, 50), Times95: bench.Ratio(first, times, 95), times: times,
	}
	for _, one := range times {
		f.All = append(f.All, one.Seconds())
	}
	return f
}

// print prints a table, and below it how the times are spread.
func (b benched) print(out io.Writer) error {
	fmt.Fprintf(out, "%d of each runtime, in turns: %s\n\n", b.Rounds, b.Image)
	what := []struct {
		name string
		of   func(benchedRuntime) figures
	}{
		{"start", func(r benchedRuntime) figures { return r.Start }},
		{"end", func(r benchedRuntime) figures { return r.End }},
	}
	table := columns(out)
	fmt.Fprintln(table, "WHAT\tRUNTIME\tP50\tP95\t× P50\t× P95")
	for _, w := range what {
		for i, r := range b.Runtimes {
			f, ratios := w.of(r), "-\t-"
			if i > 0 {
				ratios = fmt.Sprintf("%.3g\t%.3g", f.Times50, f.Times95)
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", w.name, r.Runtime, milliseconds(f.P50), milliseconds(f.P95), ratios)
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, w := range what {
		var all [][]time.Duration
		for _, r := range b.Runtimes {
			all = append(all, w.of(r).times)
		}
		const width = 60
		strip := bench.NewStrip(width, all...)
		low, high := milliseconds(strip.Low.Seconds()), milliseconds(strip.High.Seconds())
		fmt.Fprintf(out, "\n%-22s  %s%*s\n", w.name, low, width-len(low), high)
		for _, r := range b.Runtimes {
			fmt.Fprintf(out, "%-22s  %s\n", r.Runtime, strings.TrimRight(strip.Draw(w.of(r).times), " "))
		}
	}
	return nil
}

func milliseconds(seconds float64) string { return fmt.Sprintf("%.0f ms", 1000*seconds) }
