package rpc

import (
	"bytes"
	"crypto/rand"
	"strings"
	"testing"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	transferapi "github.com/containerd/containerd/api/services/transfer/v1"
	types "github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/msb-runtime/containerd-shim-msb/shim/journal"
	"github.com/msb-runtime/containerd-shim-msb/shim/journal/api"
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

// The shim's last lines are there for who asks on the same connection, and those of a console
// that come later.
func TestJournal(t *testing.T) {
	client := open(t).serve()
	line := t.Name() + " " + rand.Text()
	lines, err := api.NewJournalClient(client.Client).Read(t.Context(), &api.ReadRequest{Source: api.Source_CONSOLE, Follow: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := lines.Recv(); err != nil { // what was there before
		t.Fatal(err)
	}
	journal.ToConsole(t.Context(), line)
	for found := false; !found; {
		batch, err := lines.Recv()
		if err != nil {
			t.Fatal(err)
		}
		for _, l := range batch.GetLines() {
			found = found || string(l.GetText()) == line
		}
	}
	refused, err := api.NewJournalClient(client.Client).Read(t.Context(), &api.ReadRequest{Source: 7})
	if err == nil {
		_, err = refused.Recv()
	}
	if !errdefs.IsInvalidArgument(errgrpc.ToNative(err)) {
		t.Errorf("another source: %v", err)
	}
}
