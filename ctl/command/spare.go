package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/msb-runtime/containerd-shim-msb/ctl/survey"
	"github.com/msb-runtime/containerd-shim-msb/shim/spare"
)

func spareCommand() *cli.Command {
	return group(&cli.Command{
		Name: "spare", Usage: "look after the VMs that wait to be used",
		Commands: []*cli.Command{
			{
				Name: "ls", Usage: "list the spares of this host",
				Description: `RESIDENT is what all processes of a spare have of the host's memory, MEMORY what its guest has.
The states: booting; waiting, to be used; ending; dead, when it was killed and its directory is left.`,
				Flags: []cli.Flag{ofContainerdFlag(), jsonFlag()}, Action: spareLs,
			},
			{
				Name: "drain", Usage: "end all spares that no container uses, and take away what dead ones have left",
				Description: `Each is asked to end in order, and waited for. One that a container gets meanwhile stays. Containers
that start later have new ones made: set [spare] count to 0 before, if there are to be none.

Exit codes: 0 none is left; 1 one has not ended in time, or another error.`,
				Flags: []cli.Flag{
					ofContainerdFlag(), jsonFlag(),
					&cli.DurationFlag{Name: "timeout", Usage: "wait for them no longer than `TIME`", Value: 30 * time.Second},
				},
				Action: spareDrain,
			},
		},
	})
}

func ofContainerdFlag() cli.Flag {
	return &cli.StringFlag{Name: "address", Aliases: []string{"a"}, Usage: "only those for the containerd with this `SOCKET`"}
}

// findSpares are those that a command is about.
func findSpares(c *cli.Command) ([]survey.Spare, error) {
	if _, err := arguments(c, 0, 0); err != nil {
		return nil, err
	}
	if os.Geteuid() != 0 {
		return nil, errNotRoot
	}
	return survey.Host{Proc: "/proc"}.Spares(spare.Root, strings.TrimPrefix(c.String("address"), "unix://"))
}

func spareLs(_ context.Context, c *cli.Command) error {
	spares, err := findSpares(c)
	if err != nil {
		return err
	}
	if c.Bool("json") {
		return printJSON(c.Root().Writer, spares)
	}
	return listSpares(c.Root().Writer, spares, time.Now())
}

func listSpares(out io.Writer, spares []survey.Spare, now time.Time) error {
	table := columns(out)
	fmt.Fprintln(table, "PID\tSTATE\tCPUS\tMEMORY\tRESIDENT\tAGE\tCONTAINERD")
	for _, s := range spares {
		fmt.Fprintf(table, "%d\t%s\t%d\t%s\t%s\t%s\t%s\n",
			s.Pid, s.State, s.CPUs, size(s.Memory), size(s.Resident), since(s.Started, now), orDash(s.Containerd))
	}
	return table.Flush()
}

func spareDrain(ctx context.Context, c *cli.Command) error {
	spares, err := findSpares(c)
	if err != nil {
		return err
	}
	patience := c.Duration("timeout")
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	drain, err := survey.DrainSpares(ctx, spare.Root, spares)
	if c.Bool("json") {
		err = errors.Join(err, printJSON(c.Root().Writer, drain))
	} else {
		printDrain(c.Root().Writer, drain, patience)
	}
	if err == nil && len(drain.Left) > 0 {
		return told(exitFailed)
	}
	return err
}

func printDrain(out io.Writer, d survey.Drain, patience time.Duration) {
	for _, s := range d.Ended {
		fmt.Fprintf(out, "%d has ended\n", s.Pid)
	}
	for _, s := range d.Used {
		fmt.Fprintf(out, "%d is a container's now, and stays\n", s.Pid)
	}
	for _, s := range d.Removed {
		fmt.Fprintf(out, "%d was dead: what it had left is taken away\n", s.Pid)
	}
	for _, s := range d.Left {
		fmt.Fprintf(out, "%d has not ended within %s: no container gets it; kill -9 %d, then once more msbctl spare drain\n", s.Pid, patience, s.Pid)
	}
	if len(d.Ended)+len(d.Used)+len(d.Removed)+len(d.Left) == 0 {
		fmt.Fprintln(out, "there are no spares")
	}
}
