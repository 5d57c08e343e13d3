package survey

import (
	"context"
	"fmt"
	"net"
	"strings"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
)

// ask fills in the states of a sandbox's containers, as its shim tells them: these are in its
// own record, it does not ask the guest. An error means that it does not answer; that of its
// context, not in time.
func (h Host) ask(ctx context.Context, s *Sandbox) error {
	ctx, cancel := context.WithTimeout(namespaces.WithNamespace(ctx, s.Namespace), h.Patience)
	defer cancel()
	client, err := connect(ctx, s.Address)
	if err != nil {
		return err
	}
	defer client.Close()
	tasks := taskapi.NewTTRPCTaskClient(client)
	if len(s.Containers) == 0 {
		_, err := tasks.Connect(ctx, &taskapi.ConnectRequest{ID: s.ID})
		if err := unanswered(ctx, err); err != nil {
			return err
		}
	}
	for i := range s.Containers {
		c := &s.Containers[i]
		state, err := tasks.State(ctx, &taskapi.StateRequest{ID: c.ID})
		if err == nil {
			c.State = strings.ToLower(state.GetStatus().String())
		} else if err := unanswered(ctx, err); err != nil {
			return err
		}
	}
	return nil
}

// connect is a client of the shim at an address, which the caller closes.
func connect(ctx context.Context, address string) (*ttrpc.Client, error) {
	path, found := strings.CutPrefix(address, "unix://")
	if !found {
		return nil, fmt.Errorf("%q is not the address of a socket: %w", address, errdefs.ErrUnavailable)
	}
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return nil, err
	}
	return ttrpc.NewClient(conn), nil
}

// unanswered is the error of a call that was not answered; that there is no such task, for
// example, is an answer.
func unanswered(ctx context.Context, err error) error {
	if err == nil || ctx.Err() != nil {
		return ctx.Err()
	}
	if err = errgrpc.ToNative(err); errdefs.IsNotFound(err) || errdefs.IsFailedPrecondition(err) || errdefs.IsInvalidArgument(err) || errdefs.IsNotImplemented(err) {
		return nil
	}
	return err
}
