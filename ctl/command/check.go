package command

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/containerd/containerd/v2/defaults"
	"github.com/urfave/cli/v3"

	"github.com/msb-runtime/containerd-shim-msb/ctl/check"
)

func checkCommand() *cli.Command {
	return &cli.Command{
		Name: "check", Usage: "tell whether this host can run containers in microVMs, and what would help",
		Description: `Each line is ok, a warning, or something that is missing, with what that means for a user and
what to do. All is tried, as far as it can be: a guest is run in KVM for a moment, a FUSE file
system is mounted, packets are redirected, in namespaces that end with the trial.

Exit codes: 0 all is ok; 1 there is a warning; 2 something is missing.`,
		Flags: []cli.Flag{addressFlag(), configFlag(), jsonFlag()}, Action: checkAction,
	}
}

func addressFlag() cli.Flag {
	return &cli.StringFlag{Name: "address", Aliases: []string{"a"}, Usage: "containerd's `SOCKET`", Value: defaults.DefaultAddress, Sources: cli.EnvVars("CONTAINERD_ADDRESS")}
}

func configFlag() cli.Flag {
	return &cli.StringFlag{Name: "config", Usage: "msb's configuration `FILE`, if it is not the shim's own"}
}

var errNotRoot = errors.New("this needs root")

func checkAction(ctx context.Context, c *cli.Command) error {
	if _, err := arguments(c, 0, 0); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errNotRoot
	}
	results := check.Run(look(ctx, c))
	out := c.Root().Writer
	if c.Bool("json") {
		err := printJSON(out, struct {
			State   check.State    `json:"state"`
			Results []check.Result `json:"results"`
		}{check.Worst(results), results})
		if err != nil {
			return err
		}
	} else {
		printResults(out, painterOf(out), results)
	}
	switch check.Worst(results) {
	case check.Warning:
		return told(exitWarning)
	case check.Missing:
		return told(exitMissing)
	}
	return nil
}

// look asks the host that a command is about.
func look(ctx context.Context, c *cli.Command) check.Facts {
	return check.Look(ctx, c.String("config"), strings.TrimPrefix(c.String("address"), "unix://"))
}

func printResults(out io.Writer, paint painter, results []check.Result) {
	colours := map[check.State]colour{check.OK: green, check.Warning: yellow, check.Missing: red}
	for _, r := range results {
		state := paint(colours[r.State], fmt.Sprintf("%-7s", r.State))
		fmt.Fprintf(out, "%s  %-16s  %s\n", state, r.Name, r.Found)
		if r.State != check.OK {
			const indent = 7 + 2 + 16 + 2
			fmt.Fprintf(out, "%*smeans: %s\n%*sdo:    %s\n", indent, "", r.Means, indent, "", r.Do)
		}
	}
}
