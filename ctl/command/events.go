package command

import (
	"context"
	"fmt"

	versionapi "github.com/containerd/containerd/api/services/version/v1"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/urfave/cli/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/msb-runtime/containerd-shim-msb/ctl/events"
)

func eventsCommand() *cli.Command {
	return &cli.Command{
		Name: "events", Usage: "follow what becomes of the tasks of this runtime",
		Description: `One line for each of containerd's events: time, namespace, container, event, and what else there is:
exec, pid and exit status. With --json each line is an object. It ends with a signal.

Exit codes: 0 it was ended; 1 containerd has ended, is not there, or another listens.`,
		Flags: []cli.Flag{addressFlag(), namespaceFlag(), jsonFlag()}, Action: eventsAction,
	}
}

// isContainerd asks who listens what containerd answers at once.
func isContainerd(ctx context.Context, conn grpc.ClientConnInterface) error {
	ctx, cancel := context.WithTimeout(ctx, answerPatience)
	defer cancel()
	_, err := versionapi.NewVersionClient(conn).Version(ctx, new(emptypb.Empty))
	return errgrpc.ToNative(err)
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
	if err := isContainerd(ctx, conn); err != nil {
		if ctx.Err() != nil {
			return nil // nobody wants to know any more
		}
		return notContainerd(address, err)
	}
	out := c.Root().Writer
	return events.Follow(ctx, conn, c.String("namespace"), func(e events.Event) error {
		if c.Bool("json") {
			return printObject(out, e)
		}
		_, err := fmt.Fprintln(out, visible(e.String()))
		return err
	})
}
