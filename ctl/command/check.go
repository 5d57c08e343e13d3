package command

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"strings"

	"github.com/containerd/containerd/v2/defaults"
	"github.com/urfave/cli/v3"

	"github.com/msb-runtime/containerd-shim-msb/ctl/check"
	"github.com/msb-runtime/containerd-shim-msb/ctl/survey"
)

func checkCommand() *cli.Command {
	return &cli.Command{
		Name: "check", Usage: "tell whether this host can run containers in microVMs, and what would help",
		Description: `Each line is ok, a warning, or something that is missing, with what that means for a user and
what to do. All is tried, as far as it can be: a guest is run in KVM for a moment, a FUSE file
system is mounted, packets are redirected, in namespaces that end with the trial.

With --fix it loads the kernel's modules that a line asks for, and does nothing else: each is told,
and asked for unless there is --yes or --json. Then it checks again. Modules stay until the next boot;
the rest is named, and left to you.

Exit codes: 0 all is ok; 1 there is a warning; 2 something is missing. With --fix they are those of
the second check.`,
		Flags: []cli.Flag{
			addressFlag(), configFlag(), jsonFlag(),
			&cli.BoolFlag{Name: "fix", Usage: "load the kernel's modules that are missing, and check again"},
			&cli.BoolFlag{Name: "yes", Aliases: []string{"y"}, Usage: "of --fix: ask nothing"},
		},
		Action: checkAction,
	}
}

func addressFlag() cli.Flag {
	return &cli.StringFlag{Name: "address", Aliases: []string{"a"}, Usage: "containerd's `SOCKET`", Value: defaults.DefaultAddress, Sources: cli.EnvVars("CONTAINERD_ADDRESS")}
}

// containerdAt is the path of a command's socket, on which somebody listens who may be containerd.
func containerdAt(ctx context.Context, c *cli.Command) (string, error) {
	address := strings.TrimPrefix(c.String("address"), "unix://")
	if _, err := survey.PeerOf(ctx, address); err != nil {
		return "", fmt.Errorf("containerd has ended, or is not there (%s --address): %w", c.FullName(), err)
	}
	return address, nil
}

func configFlag() cli.Flag {
	return &cli.StringFlag{Name: "config", Usage: "msb's configuration `FILE`, if it is not the shim's own"}
}

var errNotRoot = errors.New("this needs root")

func checkAction(ctx context.Context, c *cli.Command) error {
	if _, err := arguments(c, 0, 0); err != nil {
		return err
	}
	if !c.Bool("fix") && c.Bool("yes") {
		return usageError{errors.New("--yes is for --fix")}
	}
	if os.Geteuid() != 0 {
		return errNotRoot
	}
	r := report{out: c.Root().Writer, json: c.Bool("json")}
	results := check.Run(look(ctx, c))
	if !c.Bool("fix") {
		return r.end(results)
	}
	f := fixer{
		tell: r.out, yes: c.Bool("yes") || r.json, answers: bufio.NewReader(c.Root().Reader),
		apply: func(remedy check.Remedy) error { return remedy.Apply(ctx) },
	}
	if r.json {
		f.tell = c.Root().ErrWriter
	} else if err := r.print(results); err != nil {
		return err
	}
	fixes, left := check.Fixes(results)
	r.fixes = f.fix(fixes)
	if f.tried == 0 {
		r.printed = !r.json
	} else {
		results = check.Run(look(ctx, c))
		_, left = check.Fixes(results)
		fmt.Fprintln(f.tell, "checked again:")
	}
	for _, l := range left {
		r.left = append(r.left, l.Name)
	}
	return r.end(results)
}

// A report is what is printed of results, and of what was done about them.
type report struct {
	out     io.Writer
	json    bool
	printed bool // that there are no results but those printed
	fixes   []fixed
	left    []string
}

func (r report) print(results []check.Result) error {
	if !r.json {
		printResults(r.out, painterOf(r.out), results)
		return nil
	}
	return printJSON(r.out, struct {
		State   check.State    `json:"state"`
		Results []check.Result `json:"results"`
		Fixes   []fixed        `json:"fixes,omitempty"`
		Left    []string       `json:"left,omitempty"`
	}{check.Worst(results), results, r.fixes, r.left})
}

// end prints results, and returns the exit code that they make.
func (r report) end(results []check.Result) error {
	if !r.printed {
		if err := r.print(results); err != nil {
			return err
		}
	}
	if len(r.left) > 0 && !r.json {
		fmt.Fprintf(r.out, "left to you: %s\n", strings.Join(r.left, ", "))
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
		fmt.Fprintf(out, "%s  %-16s  %s\n", state, r.Name, visible(r.Found))
		if r.State != check.OK {
			const indent = 7 + 2 + 16 + 2
			fmt.Fprintf(out, "%*smeans: %s\n%*sdo:    %s\n", indent, "", r.Means, indent, "", visible(r.Do))
		}
	}
}
