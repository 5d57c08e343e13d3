package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/docker/go-units"
	"github.com/urfave/cli/v3"

	"github.com/msb-runtime/containerd-shim-msb/ctl/survey"
	"github.com/msb-runtime/containerd-shim-msb/shim/spare"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
)

func spareCommand() *cli.Command {
	return group(&cli.Command{
		Name: "spare", Usage: "look after the VMs that wait to be used",
		// Tests have a directory of their own.
		Flags: []cli.Flag{&cli.StringFlag{Name: "root", Value: spare.Root, Hidden: true}},
		Commands: []*cli.Command{
			{
				Name: "ls", Usage: "list the spares of this host",
				Description: `RESIDENT is what all processes of a spare have of the host's memory, MEMORY what its guest has.
The states: booting; waiting, to be used; ending; dead, when it was killed and its directory is left.`,
				Flags: []cli.Flag{ofContainerdFlag(), jsonFlag()}, Action: spareLs,
			},
			{
				Name: "fill", Usage: "have spares made, and wait until they are ready",
				Description: `They are made as a shim makes them whose container has started, and are for the containerd
at --address, which is as its configuration has it: with its environment, limits, control groups and
mounts. Until as many wait as [spare] count says, or --count, but never more than [spare] max of all
sizes. Their size is that of a VM whose container has no limits, or the one given, as ls prints it.
What waits then is printed, as by ls.

If this is ended before, no more are made, and the one that boots becomes a spare as any other.

Exit codes: 0 they wait; 1 one could not be made, or spares are off, or another error.`,
				Flags: []cli.Flag{
					addressFlag(), configFlag(), jsonFlag(),
					&cli.IntFlag{Name: "cpus", Usage: "of VMs with `N` CPUs"},
					&cli.StringFlag{Name: "memory", Usage: "of VMs with memory of `SIZE`, such as 512MiB"},
					&cli.IntFlag{Name: "count", Usage: "until `N` of the size wait"},
				},
				Action: spareFill,
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
	return survey.Host{Proc: "/proc"}.Spares(c.String("root"), strings.TrimPrefix(c.String("address"), "unix://"))
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

func spareFill(ctx context.Context, c *cli.Command) error {
	if _, err := arguments(c, 0, 0); err != nil {
		return err
	}
	request, err := fillRequest(c)
	if err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errNotRoot
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	filled := survey.FillSpares(ctx, filepath.Join(filepath.Dir(self), "containerd-shim-msb-v2"), request)
	if errors.Is(filled, context.Canceled) {
		return filled
	}
	spares, err := survey.Host{Proc: "/proc"}.Spares(c.String("root"), request.Address)
	if err != nil {
		return errors.Join(filled, err)
	}
	// Whose a dead one was is not known, and it waits for nobody.
	spares = slices.DeleteFunc(spares, func(s survey.Spare) bool { return s.State == spare.Dead })
	if c.Bool("json") {
		return errors.Join(filled, printJSON(c.Root().Writer, spares))
	}
	if filled != nil && len(spares) == 0 {
		return filled
	}
	return errors.Join(filled, listSpares(c.Root().Writer, spares, time.Now()))
}

// fillRequest is what a command line asks for.
func fillRequest(c *cli.Command) (r spare.Request, err error) {
	for _, flag := range []string{"cpus", "count"} {
		if c.IsSet(flag) && c.Int(flag) < 1 {
			return r, usageError{fmt.Errorf("--%s is %d and must be at least 1", flag, c.Int(flag))}
		}
	}
	if text := c.String("memory"); c.IsSet("memory") {
		if r.Size.Memory, err = units.RAMInBytes(text); err != nil {
			return r, usageError{fmt.Errorf("--memory %q is not a size such as 512MiB", text)}
		}
		if r.Size.Memory < spec.Overhead {
			return r, usageError{fmt.Errorf("--memory %s is less than the %s that a guest needs", text, size(spec.Overhead))}
		}
	}
	if path := c.String("config"); path != "" {
		if r.Config, err = filepath.Abs(path); err != nil {
			return r, err
		}
	}
	r.Address = strings.TrimPrefix(c.String("address"), "unix://")
	r.Events = r.Address + ".ttrpc"
	r.Size.CPUs, r.Count = c.Int("cpus"), c.Int("count")
	return r, nil
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
	drain, err := survey.DrainSpares(ctx, c.String("root"), spares)
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
