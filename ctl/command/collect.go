package command

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"time"

	"github.com/urfave/cli/v3"

	"github.com/msb-runtime/containerd-shim-msb/ctl/collect"
	"github.com/msb-runtime/containerd-shim-msb/ctl/survey"
	"github.com/msb-runtime/containerd-shim-msb/shim/spare"
)

func collectCommand() *cli.Command {
	return &cli.Command{
		Name: "collect", Usage: "write an archive for a report of a bug",
		Description: `It has versions and sums of what is installed, what check, inspect and config show tell, and the figures
of processes, control groups and spares. Environments, arguments, annotations, labels, and what is in
containers, mounted files and bundles are not in it, and no logs; paths that were mounted have other
names. Its README says what there is. Only its owner may read it.

Exit codes: 0 it is written, if not all could be read, too; 1 it is not.`,
		Flags: []cli.Flag{
			&cli.StringFlag{Name: "output", Aliases: []string{"o"}, Usage: "write `FILE`, instead of msb-TIME.tar.gz here"},
			addressFlag(), configFlag(), stateFlag(), jsonFlag(),
		},
		Action: collectAction,
	}
}

func collectAction(ctx context.Context, c *cli.Command) error {
	if _, err := arguments(c, 0, 0); err != nil {
		return err
	}
	if os.Geteuid() != 0 {
		return errNotRoot
	}
	now := time.Now()
	path := c.String("output")
	if path == "" {
		path = now.UTC().Format("msb-20060102-150405.tar.gz")
	}
	path, err := filepath.Abs(path)
	if err != nil {
		return err
	}
	program, err := os.Executable()
	if err != nil {
		return err
	}
	source := collect.Source{
		Host:   survey.Host{State: c.String("state"), Proc: "/proc", Patience: shimPatience},
		Spares: spare.Root, Cgroups: "/sys/fs/cgroup", Program: program, Config: c.String("config"), Facts: look(ctx, c),
	}
	parts, failed := source.Parts(ctx, now)
	if err := collect.Write(ctx, path, parts, now); err != nil {
		return err
	}
	out := c.Root().Writer
	if c.Bool("json") {
		return printJSON(out, struct {
			File   string   `json:"file"`
			Failed []string `json:"failed"`
		}{path, failed})
	}
	for _, why := range failed {
		fmt.Fprintln(c.Root().ErrWriter, "msbctl: not all could be read:", visible(why))
	}
	_, err = fmt.Fprintln(out, path)
	return err
}
