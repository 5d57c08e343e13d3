package rpc

import (
	"bytes"
	"strings"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	transferapi "github.com/containerd/containerd/api/services/transfer/v1"
	types "github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/msb-runtime/containerd-shim-msb/test/copy"
	"github.com/msb-runtime/containerd-shim-msb/test/rig"
)

// The Transfer and the Streaming service are on the connection of the Task API, for each
// member of a pod by its id, with errors that have a class.
func TestTransfers(t *testing.T) {
	s := open(t)
	client := s.serve()
	for _, create := range []*taskapi.CreateTaskRequest{
		s.Request("p", rig.InPod(rig.Spec("sleep"), "p", true)),
		s.Request("c", rig.InPod(rig.Spec("sleep"), "p", false)),
	} {
		if err := client.call(taskServices[0], "Create", create, new(taskapi.CreateTaskResponse)); err != nil {
			t.Fatal(err)
		}
	}
	for _, id := range []string{"p", "c"} {
		if err := copy.In(t.Context(), client.Client, &types.ContainerPath{ContainerID: id, Path: "/" + id}, strings.NewReader(id)); err != nil {
			t.Errorf("%s: in: %v", id, err)
		}
		var archive bytes.Buffer
		if err := copy.Out(t.Context(), client.Client, &types.ContainerPath{ContainerID: id, Path: "/" + id}, &archive); err != nil || archive.String() != id {
			t.Errorf("%s: out: %q, %v", id, &archive, err)
		}
	}
	err := copy.Out(t.Context(), client.Client, &types.ContainerPath{ContainerID: "nothing", Path: "/"}, &bytes.Buffer{})
	if !errdefs.IsNotFound(err) || err.Error() != "task nothing: not found" {
		t.Errorf("a container that is not there: %v", err)
	}
	err = client.call(transferService, "Transfer", &transferapi.TransferRequest{}, new(emptypb.Empty))
	if !errdefs.IsNotImplemented(errgrpc.ToNative(err)) {
		t.Errorf("a transfer of nothing: %v", err)
	}
	for _, service := range []string{transferService, streamingService} {
		if err := client.call(service, "Nothing", new(emptypb.Empty), new(emptypb.Empty)); !errdefs.IsNotImplemented(errgrpc.ToNative(err)) {
			t.Errorf("no such method of %s: %v", service, err)
		}
	}
}
