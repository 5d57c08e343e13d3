package command

import (
	"context"
	"fmt"

	"github.com/urfave/cli/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"

	"github.com/msb-runtime/containerd-shim-msb/ctl/events"
)

func eventsCommand() *cli.Command {
	return &cli.Command{
		Name: "events", Usage: "follow what becomes of the tasks of this runtime",
		Description: `One line for each of containerd's events: time, namespace, container, event, and what else there is:
exec, pid and exit status. With --json each line is an object. It ends with a signal.

Exit codes: 0 it was ended; 1 containerd has ended, or is not there.`,
		Flags: []cli.Flag{addressFlag(), namespaceFlag(), jsonFlag()}, Action: eventsAction,
	}
}

func eventsAction(ctx context.Context, c *cli.Command) error {
	if _, err := arguments(c, 0, 0); err != nil {
		return err
	}
	address, err := containerdAt(ctx, c)
	if err != nil {
		return err
	}
	conn, err := grpc.NewClient("unix://"+address, grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		return err
	}
	defer conn.Close()
	out := c.Root().Writer
	return events.Follow(ctx, conn, c.String("namespace"), func(e events.Event) error {
		if c.Bool("json") {
			return printObject(out, e)
		}
		_, err := fmt.Fprintln(out, visible(e.String()))
		return err
	})
}
