package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/atomicfile"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/urfave/cli/v3"

	"github.com/msb-runtime/containerd-shim-msb/ctl/bench"
)

func benchCommand() *cli.Command {
	firstArgument := 1
	return &cli.Command{
		Name: "bench", Usage: "measure how fast an image starts and uses files here, beside another runtime", ArgsUsage: "IMAGE [COMMAND...]",
		Description: `Containers of an image that containerd has are started and ended, in turns with those of another
runtime. A start is from the task's creation until its process runs, an end from its SIGKILL
until the task is deleted. P50 and P95 are what half, and 95 of 100, do not exceed; × is how many
times as long as the other runtime's. They have no network, no mounts and no limits. On a machine
that does other work the ratios still say something, the times do not.

Then a shell of the image makes, finds, reads, unpacks and deletes small files and writes and reads
a large one: in its root file system, and in a new directory of the host that is mounted (below
TMPDIR, or /tmp). What the image has no programs for is left out, and told.

Nothing of it is left, also if a signal ends it. A container that is being started then is waited
for.`,
		StopOnNthArg: &firstArgument, // what follows the image is the container's
		Flags: []cli.Flag{
			addressFlag(), jsonFlag(),
			&cli.StringFlag{Name: "namespace", Aliases: []string{"n"}, Usage: "the `NAMESPACE` of containerd that has the image", Value: namespaces.Default},
			&cli.IntFlag{Name: "rounds", Usage: "start `COUNT` containers of each runtime", Value: 20},
			&cli.IntFlag{Name: "files", Usage: "work on `COUNT` small files; 0 leaves files out", Value: 500},
			&cli.IntFlag{Name: "file-rounds", Usage: "do each job on files `COUNT` times", Value: 5},
			&cli.StringFlag{Name: "svg", Usage: "draw the ratios into `FILE`, too"},
			&cli.StringFlag{Name: "runtime", Usage: "the `RUNTIME` that is measured", Value: "io.containerd.msb.v2"},
			&cli.StringFlag{Name: "against", Usage: "the `RUNTIME` beside it; empty for none", Value: "io.containerd.runc.v2"},
			&cli.StringFlag{Name: "snapshotter", Usage: "the `SNAPSHOTTER` of the root file systems, if it is not containerd's own"},
			&cli.StringFlag{Name: "config", Usage: "msb's configuration `FILE`, if it is not the shim's own"},
		},
		Action: benchAction,
	}
}

const (
	maxRounds = 1000
	maxFiles  = 100_000
)

func benchAction(ctx context.Context, c *cli.Command) (err error) {
	args := c.Args().Slice()
	if err := benchable(c, args); err != nil {
		return err
	}
	svg, err := createSVG(c.String("svg"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, svg.Cancel()) }()
	namespace := c.String("namespace")
	ctx = namespaces.WithNamespace(ctx, namespace)
	address, err := containerdAt(ctx, c)
	if err != nil {
		return err
	}
	containerd, err := client.New(address, client.WithDefaultNamespace(namespace), client.WithTimeout(answerPatience))
	if err != nil {
		return notContainerd(address, err)
	}
	defer func() { err = errors.Join(err, containerd.Close()) }()
	if err := answers(ctx, containerd); err != nil {
		return notContainerd(address, err)
	}
	ways := []bench.Way{{Runtime: c.String("runtime"), Config: c.String("config")}}
	if other := c.String("against"); other != "" {
		ways = append(ways, bench.Way{Runtime: other})
	}
	load := bench.Load{Image: args[0], Snapshotter: c.String("snapshotter"), Command: args[1:]}
	b, err := bench.New(ctx, containerd, namespace, load, ways)
	if err != nil {
		return err
	}
	measured, err := measure(ctx, b, ways, c.Int("rounds"), bench.Files{Count: c.Int("files"), Rounds: c.Int("file-rounds")})
	if err != nil {
		return err
	}
	measured.Image = load.Image
	if _, err := io.WriteString(svg, measured.plot().SVG()); err != nil {
		return err
	}
	if err := svg.Close(); err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c.Root().Writer, measured)
	}
	return measured.print(c.Root().Writer)
}

// answerPatience is how long containerd may take until it answers.
const answerPatience = 5 * time.Second

func answers(ctx context.Context, containerd *client.Client) error {
	ctx, cancel := context.WithTimeout(ctx, answerPatience)
	defer cancel()
	_, err := containerd.Version(ctx)
	return err
}

func notContainerd(address string, err error) error {
	return fmt.Errorf("%s does not answer as containerd does: %w", address, err)
}

// benchable refuses a command line before anything is started.
func benchable(c *cli.Command, args []string) error {
	number := func(flag string, least, most int) error {
		if n := c.Int(flag); n < least || n > most {
			return usageError{fmt.Errorf("--%s is %d: it is %d to %d", flag, n, least, most)}
		}
		return nil
	}
	switch {
	case len(args) == 0:
		return usageError{fmt.Errorf("no image is given: it is %s %s", c.FullName(), c.ArgsUsage)}
	case c.String("svg") != "" && c.String("against") == "":
		return usageError{errors.New("--svg draws how many times as long as another runtime's: name that with --against")}
	}
	for _, err := range []error{number("rounds", 1, maxRounds), number("file-rounds", 1, maxRounds), number("files", 0, maxFiles)} {
		if err != nil {
			return err
		}
	}
	if os.Geteuid() != 0 {
		return errNotRoot
	}
	return nil
}

// createSVG makes a file that is there when it is closed, whole, and not if it is cancelled. Without
// a path there is none.
func createSVG(path string) (atomicfile.File, error) {
	if path == "" {
		return noFile{io.Discard}, nil
	}
	if stat, err := os.Stat(path); err == nil && !stat.Mode().IsRegular() {
		return nil, fmt.Errorf("--svg %s is no regular file: name another", path)
	}
	file, err := atomicfile.New(path, 0o644)
	if err != nil {
		return nil, fmt.Errorf("--svg %s cannot be written, name another file: %w", path, err)
	}
	return file, nil
}

// noFile takes the place of a file that nobody asked for.
type noFile struct{ io.Writer }

func (noFile) Read([]byte) (int, error) { return 0, io.EOF }
func (noFile) Close() error             { return nil }
func (noFile) Cancel() error            { return nil }

// measure measures starts, and what is done to files.
func measure(ctx context.Context, b *bench.Bench, ways []bench.Way, rounds int, files bench.Files) (benched, error) {
	times, err := b.Starts(ctx, rounds)
	if err != nil {
		return benched{}, err
	}
	measured := benched{Rounds: rounds}
	for i, way := range ways {
		measured.Runtimes = append(measured.Runtimes, benchedRuntime{way.Runtime, figuresOf(times[i].Start, times[0].Start), figuresOf(times[i].End, times[0].End)})
	}
	if files.Count == 0 {
		return measured, nil
	}
	rows, leftOut, err := b.Files(ctx, files)
	if err != nil {
		return benched{}, err
	}
	measured.FileRounds, measured.LeftOut = files.Rounds, leftOut
	for _, row := range rows {
		job := benchedJob{Job: row.Job, Place: row.Place}
		for i, way := range ways {
			job.Runtimes = append(job.Runtimes, benchedFiles{way.Runtime, figuresOf(row.Times[i], row.Times[0])})
		}
		measured.Files = append(measured.Files, job)
	}
	return measured, nil
}
