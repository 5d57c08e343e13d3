// Package copy copies files out of the containers of a shim, and into them. It is the
// client that docs/transfer.md shows.
package copy

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"os"
	"strings"

	transferapi "github.com/containerd/containerd/api/services/transfer/v1"
	types "github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/containerd/v2/core/streaming/proxy"
	"github.com/containerd/containerd/v2/core/transfer/streaming"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/proto"
)

// Dial connects to the shim of a container, by the file bootstrap.json in its bundle. The
// caller closes the connection.
func Dial(bootstrap string) (*ttrpc.Client, error) {
	data, err := os.ReadFile(bootstrap)
	if err != nil {
		return nil, err
	}
	var shim struct{ Address string }
	if err := json.Unmarshal(data, &shim); err != nil {
		return nil, err
	}
	conn, err := net.Dial("unix", strings.TrimPrefix(shim.Address, "unix://"))
	if err != nil {
		return nil, err
	}
	return ttrpc.NewClient(conn), nil
}

// Out copies a file or a directory out of a container: w gets a tar archive.
func Out(ctx context.Context, shim *ttrpc.Client, path *types.ContainerPath, w io.Writer) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	id := streaming.GenerateID("copy")
	stream, err := proxy.NewStreamCreator(shim).Create(ctx, id)
	if err != nil {
		return err
	}
	copied := make(chan error, 1)
	go func() {
		_, err := io.Copy(w, streaming.ReceiveStream(ctx, stream))
		copied <- err
	}()
	if err := transfer(ctx, shim, path, &types.WriteStream{Stream: id, MediaType: "application/x-tar"}); err != nil {
		cancel()
		<-copied
		return err
	}
	return <-copied
}

// In unpacks a tar archive in a directory of a container.
func In(ctx context.Context, shim *ttrpc.Client, path *types.ContainerPath, r io.Reader) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	id := streaming.GenerateID("copy")
	stream, err := proxy.NewStreamCreator(shim).Create(ctx, id)
	if err != nil {
		return err
	}
	streaming.SendStream(ctx, r, stream)
	return transfer(ctx, shim, &types.ReadStream{Stream: id, MediaType: "application/x-tar"}, path)
}

func transfer(ctx context.Context, shim *ttrpc.Client, source, destination proto.Message) error {
	from, err := typeurl.MarshalAnyToProto(source)
	if err != nil {
		return err
	}
	to, err := typeurl.MarshalAnyToProto(destination)
	if err != nil {
		return err
	}
	_, err = transferapi.NewTTRPCTransferClient(shim).Transfer(ctx, &transferapi.TransferRequest{Source: from, Destination: to})
	return errgrpc.ToNative(err)
}
