package transfer_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	transferapi "github.com/containerd/containerd/api/services/transfer/v1"
	types "github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/containerd/v2/core/streaming"
	"github.com/containerd/containerd/v2/core/streaming/proxy"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"golang.org/x/sys/unix"
	"google.golang.org/grpc/codes"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/transfer"
	"github.com/msb-runtime/containerd-shim-msb/test/copy"
	"github.com/msb-runtime/containerd-shim-msb/test/fake"
	"github.com/msb-runtime/containerd-shim-msb/test/rig"
)

func TestMain(m *testing.M) {
	log.L.Logger.SetOutput(io.Discard) // where containerd's streams tell of their end
	rig.Main(m)
}

// A world is a shim with a container c, and a client of its transfers.
type world struct {
	*rig.Rig
	t      *testing.T
	client *ttrpc.Client
}

// bubble runs a test in a bubble of testing/synctest, where time passes at once. At its end
// no goroutine may be left.
func bubble(t *testing.T, test func(w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		w := &world{Rig: rig.New(t), t: t}
		w.Run("c", "sleep")
		w.client = w.serve(transfer.New(w.Tasks))
		test(w)
		w.remove()
	})
}

// remove deletes the container, if it is there.
func (w *world) remove() {
	_, _ = w.Tasks.Kill(context.Background(), &taskapi.KillRequest{ID: "c", Signal: uint32(unix.SIGKILL)})
	_, _ = w.Tasks.Wait(context.Background(), &taskapi.WaitRequest{ID: "c"})
	if _, err := w.Tasks.Delete(context.Background(), &taskapi.DeleteRequest{ID: "c"}); err != nil && !errdefs.IsNotFound(err) {
		w.t.Error(err)
	}
}

// serve serves the services on a connection, as shim/rpc does.
func (w *world) serve(service *transfer.Service) *ttrpc.Client {
	server, err := ttrpc.NewServer()
	if err != nil {
		w.t.Fatal(err)
	}
	server.RegisterService("containerd.services.transfer.v1.Transfer", &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"Transfer": func(ctx context.Context, unmarshal func(any) error) (any, error) {
			request := new(transferapi.TransferRequest)
			if err := unmarshal(request); err != nil {
				return nil, err
			}
			response, err := service.Transfer(ctx, request)
			return response, errgrpc.ToGRPC(err)
		},
	}})
	server.RegisterService("containerd.services.streaming.v1.Streaming", &ttrpc.ServiceDesc{Streams: map[string]ttrpc.Stream{
		"Stream": {StreamingClient: true, StreamingServer: true, Handler: func(ctx context.Context, s ttrpc.StreamServer) (any, error) {
			return nil, errgrpc.ToGRPC(service.Stream(ctx, s))
		}},
	}})
	near, far := net.Pipe()
	go func() { _ = server.Serve(context.Background(), fake.Accepted(far)) }()
	client := ttrpc.NewClient(near)
	w.t.Cleanup(func() {
		client.Close()
		server.Close()
	})
	return client
}

func at(path string) *types.ContainerPath { return &types.ContainerPath{ContainerID: "c", Path: path} }

// in and out are a client's whole calls.
func (w *world) in(path string, archive []byte) error {
	return copy.In(w.t.Context(), w.client, at(path), bytes.NewReader(archive))
}

func (w *world) out(path string) ([]byte, error) {
	var archive bytes.Buffer
	err := copy.Out(w.t.Context(), w.client, at(path), &archive)
	return archive.Bytes(), err
}

// open opens a stream.
func (w *world) open(id string) streaming.Stream {
	w.t.Helper()
	stream, err := proxy.NewStreamCreator(w.client).Create(w.t.Context(), id)
	if err != nil {
		w.t.Fatal(err)
	}
	return stream
}

// transfer calls Transfer.
func (w *world) transfer(source, destination proto.Message) error {
	return w.request(&transferapi.TransferRequest{Source: pack(w.t, source), Destination: pack(w.t, destination)})
}

func (w *world) request(r *transferapi.TransferRequest) error {
	_, err := transferapi.NewTTRPCTransferClient(w.client).Transfer(w.t.Context(), r)
	return errgrpc.ToNative(err)
}

func pack(t *testing.T, message proto.Message) *anypb.Any {
	value, err := typeurl.MarshalAnyToProto(message)
	if err != nil {
		t.Fatal(err)
	}
	return value
}

func reader(id string) *types.ReadStream {
	return &types.ReadStream{Stream: id, MediaType: transfer.MediaType}
}

func writer(id string) *types.WriteStream {
	return &types.WriteStream{Stream: id, MediaType: transfer.MediaType}
}

// What goes in comes out again, whatever its size.
func TestThereAndBack(t *testing.T) {
	bubble(t, func(w *world) {
		for _, size := range []int{0, 1, 512, transfer.Window, transfer.Window + 1, 3<<20 + 7} {
			archive := make([]byte, size)
			for i := range archive {
				archive[i] = byte(rand.Uint32())
			}
			if err := w.in("/a", archive); err != nil {
				t.Fatalf("%d bytes in: %v", size, err)
			}
			if got := w.Agent().Archive("/a"); !bytes.Equal(got, archive) {
				t.Errorf("%d bytes arrived as %d others", size, len(got))
			}
			if got, err := w.out("/a"); err != nil || !bytes.Equal(got, archive) {
				t.Errorf("%d bytes came back as %d, %v", size, len(got), err)
			}
		}
	})
}

// What the client asks for reaches the guest as it is.
func TestHeader(t *testing.T) {
	bubble(t, func(w *world) {
		var got *api.TransferStream
		w.Agent().OnTransfer(func(stream net.Conn, header *api.TransferStream) {
			got = header
			if header.Direction == api.TransferStream_IMPORT {
				_, _ = io.Copy(io.Discard, stream)
			}
			fake.EndTransfer(stream, codes.OK, "")
		})
		for _, place := range []*types.ContainerPath{
			{ContainerID: "c", Path: "/a/../b/."},
			{ContainerID: "c", Path: "a", NoWalk: true},
			{ContainerID: "c", Path: "a", PreserveOwnership: true},
		} {
			if err := copy.Out(w.t.Context(), w.client, place, io.Discard); err != nil {
				t.Fatal(err)
			}
			if want := (&api.TransferStream{Container: "c", Path: place.Path, NoWalk: place.NoWalk}); !proto.Equal(got, want) {
				t.Errorf("an export of %v asks for %v", place, got)
			}
			if err := copy.In(w.t.Context(), w.client, place, strings.NewReader("x")); err != nil {
				t.Fatal(err)
			}
			if want := (&api.TransferStream{Container: "c", Path: place.Path, Direction: api.TransferStream_IMPORT, PreserveOwnership: place.PreserveOwnership}); !proto.Equal(got, want) {
				t.Errorf("an import to %v asks for %v", place, got)
			}
		}
	})
}

// What cannot be is refused with its class, and the client's stream ends with the error.
func TestRefused(t *testing.T) {
	for name, c := range map[string]struct {
		source, destination proto.Message
		is                  func(error) bool
	}{
		"no such container":      {&types.ContainerPath{ContainerID: "x", Path: "/"}, writer("s"), errdefs.IsNotFound},
		"no such stream":         {at("/"), writer("other"), errdefs.IsNotFound},
		"another type":           {at("/"), &types.WriteStream{Stream: "s", MediaType: "application/gzip"}, errdefs.IsNotImplemented},
		"no type":                {&types.ReadStream{Stream: "s"}, at("/"), errdefs.IsNotImplemented},
		"no path":                {at(""), writer("s"), errdefs.IsInvalidArgument},
		"a zero byte":            {at("/a\x00b"), writer("s"), errdefs.IsInvalidArgument},
		"a long path":            {reader("s"), at(strings.Repeat("a", 4096)), errdefs.IsInvalidArgument},
		"container to container": {at("/"), at("/"), errdefs.IsNotImplemented},
		"stream to stream":       {reader("s"), writer("s"), errdefs.IsNotImplemented},
		"the wrong stream":       {at("/"), reader("s"), errdefs.IsNotImplemented},
		"an image":               {&types.ImageStore{Name: "x"}, writer("s"), errdefs.IsNotImplemented},
		"of no known type":       {&anypb.Any{}, writer("s"), errdefs.IsNotImplemented},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(w *world) {
				stream := w.open("s")
				if err := w.transfer(c.source, c.destination); !c.is(err) {
					t.Errorf("Transfer = %v", err)
				}
				if _, err := stream.Recv(); err == nil || errors.Is(err, io.EOF) {
					t.Errorf("the stream ended with %v", err)
				}
				if calls := w.Agent().Calls("Stream.Transfer"); len(calls) > 0 {
					t.Error("the guest was asked")
				}
			})
		})
	}
	bubble(t, func(w *world) {
		for _, r := range []*transferapi.TransferRequest{{}, {Source: &anypb.Any{TypeUrl: "x"}}, {Source: pack(t, at("/")), Destination: &anypb.Any{TypeUrl: pack(t, at("/")).TypeUrl, Value: []byte{7}}}} {
			if err := w.request(r); !errdefs.IsNotImplemented(err) && !errdefs.IsInvalidArgument(err) {
				t.Errorf("%v: %v", r, err)
			}
		}
	})
}

// A container that is paused, or has ended, has its file system still; one that is deleted
// has none.
func TestStates(t *testing.T) {
	bubble(t, func(w *world) {
		ctx := w.t.Context()
		if _, err := w.Tasks.Pause(ctx, &taskapi.PauseRequest{ID: "c"}); err != nil {
			t.Fatal(err)
		}
		if err := w.in("/a", []byte("x")); err != nil {
			t.Errorf("paused: %v", err)
		}
		if _, err := w.Tasks.Resume(ctx, &taskapi.ResumeRequest{ID: "c"}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Tasks.Kill(ctx, &taskapi.KillRequest{ID: "c", Signal: uint32(unix.SIGKILL)}); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Tasks.Wait(ctx, &taskapi.WaitRequest{ID: "c"}); err != nil {
			t.Fatal(err)
		}
		if got, err := w.out("/a"); err != nil || string(got) != "x" {
			t.Errorf("ended: %q, %v", got, err)
		}
		w.remove()
		if _, err := w.out("/a"); !errdefs.IsNotFound(err) {
			t.Errorf("deleted: %v", err)
		}
	})
}

// A transfer's beginning and end are told to a client that asks for it.
func TestProgress(t *testing.T) {
	bubble(t, func(w *world) {
		if err := w.in("/a", make([]byte, 1000)); err != nil {
			t.Fatal(err)
		}
		stream, progress := w.open("s"), w.open("p")
		answer := make(chan error, 1)
		go func() {
			answer <- w.request(&transferapi.TransferRequest{
				Source: pack(t, at("/a")), Destination: pack(t, writer("s")), Options: &transferapi.TransferOptions{ProgressStream: "p"},
			})
		}()
		if err := stream.Send(pack(t, &types.WindowUpdate{Update: 2000})); err != nil {
			t.Fatal(err)
		}
		var told []string
		for {
			message, err := progress.Recv()
			if errors.Is(err, io.EOF) {
				break
			}
			var p types.Progress
			if err != nil || typeurl.UnmarshalTo(message, &p) != nil {
				t.Fatalf("%v, %v", message, err)
			}
			told = append(told, p.Event)
			if p.Event == "complete" && p.Progress != 1000 {
				t.Errorf("%d bytes have passed", p.Progress)
			}
		}
		if err := <-answer; err != nil || strings.Join(told, " ") != "transferring complete" {
			t.Errorf("%v; told: %q", err, told)
		}
	})
}

// The client in the document is the one that these tests use.
func TestDocument(t *testing.T) {
	document, err := os.ReadFile("../../docs/transfer.md")
	if err != nil {
		t.Fatal(err)
	}
	source, err := os.ReadFile("../../test/copy/copy.go")
	if err != nil {
		t.Fatal(err)
	}
	blocks := regexp.MustCompile("(?s)```go\n(.*?)```").FindAllSubmatch(document, -1)
	if len(blocks) == 0 {
		t.Fatal("the document has no Go")
	}
	for _, block := range blocks {
		if !bytes.Contains(source, block[1]) {
			t.Errorf("this is not in test/copy:\n%s", block[1])
		}
	}
}
