package rpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"

	taskv2 "github.com/containerd/containerd/api/runtime/task/v2"
	taskv3 "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"github.com/sirupsen/logrus"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/types/known/emptypb"
)

// One table serves both versions of the Task API, so their messages must be the same on
// the wire, and they have the same methods.
func TestVersionsAreTheSame(t *testing.T) {
	v2 := taskv2.File_runtime_task_v2_shim_proto.Services().Get(0).Methods()
	v3 := taskv3.File_runtime_task_v3_shim_proto.Services().Get(0).Methods()
	if v2.Len() != v3.Len() {
		t.Fatalf("%d methods in v2, %d in v3", v2.Len(), v3.Len())
	}
	for i := range v3.Len() {
		method := v3.Get(i)
		old := v2.ByName(method.Name())
		if old == nil {
			t.Fatalf("v2 has no %s", method.Name())
		}
		sameMessage(t, old.Input(), method.Input())
		sameMessage(t, old.Output(), method.Output())
	}
}

func sameMessage(t *testing.T, a, b protoreflect.MessageDescriptor) {
	t.Helper()
	if a.Fields().Len() != b.Fields().Len() {
		t.Errorf("%s and %s have different fields", a.FullName(), b.FullName())
	}
	for i := range a.Fields().Len() {
		field := a.Fields().Get(i)
		other := b.Fields().ByNumber(field.Number())
		if other == nil || other.Name() != field.Name() || other.Kind() != field.Kind() || other.Cardinality() != field.Cardinality() {
			t.Errorf("%s differs in %s", field.FullName(), b.FullName())
		}
	}
}

// An error arrives with its class and its text, on one line and once.
func TestErrorsAtTheEdge(t *testing.T) {
	var failure error
	client := serve(t, func(server *ttrpc.Server) {
		server.RegisterService("test", &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
			"Fail": method(new(calls), func(context.Context, *emptypb.Empty) (*emptypb.Empty, error) { return nil, failure }),
		}})
	})
	for name, c := range map[string]struct {
		err  error
		is   func(error) bool
		text string
	}{
		"one":           {fmt.Errorf("task x: %w", errdefs.ErrNotFound), errdefs.IsNotFound, "task x: not found"},
		"the class":     {errdefs.ErrNotFound, errdefs.IsNotFound, "not found"},
		"two":           {fmt.Errorf("open y: %w (%w)", os.ErrPermission, errdefs.ErrFailedPrecondition), errdefs.IsFailedPrecondition, "open y: permission denied: failed precondition"},
		"in the middle": {fmt.Errorf("%w: of z", errdefs.ErrUnavailable), errdefs.IsUnavailable, "unavailable: of z: unavailable"},
		"wrapped":       {fmt.Errorf("starting: %w", fmt.Errorf("task x: %w", errdefs.ErrAlreadyExists)), errdefs.IsAlreadyExists, "starting: task x: already exists"},
		"joined":        {errors.Join(fmt.Errorf("a: %w", errdefs.ErrUnavailable), errors.New("b")), errdefs.IsUnavailable, "a: unavailable\nb: unavailable"},
		"no class":      {errors.New("plain"), errdefs.IsUnknown, "plain"},
		"unknown":       {fmt.Errorf("x: %w", errdefs.ErrUnknown), errdefs.IsUnknown, "x: unknown"},
		"a format":      {fmt.Errorf("100%%d: %w", errdefs.ErrInternal), errdefs.IsInternal, "100%d: internal"},
		"a deadline":    {context.DeadlineExceeded, errdefs.IsDeadlineExceeded, "context deadline exceeded"},
		"a client left": {fmt.Errorf("waiting: %w", context.Canceled), errdefs.IsCanceled, "waiting: context canceled"},
	} {
		failure = c.err
		got := errgrpc.ToNative(client.call("test", "Fail", new(emptypb.Empty), new(emptypb.Empty)))
		if !c.is(got) || got.Error() != c.text {
			t.Errorf("%s: %q", name, got)
		}
	}
}

// A request that is none fails by itself: what comes after it on the connection is served.
func TestNotARequest(t *testing.T) {
	called := 0
	client := serve(t, func(server *ttrpc.Server) {
		server.RegisterService("test", &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
			"State": method(new(calls), func(_ context.Context, r *taskv3.StateRequest) (*taskv3.StateResponse, error) {
				called++
				return &taskv3.StateResponse{ID: r.ID}, nil
			}),
		}})
	})
	for name, bytes := range map[string]string{
		"cut off":     "\x0a\x05abc",
		"not UTF-8":   "\x0a\x02\xff\xfe",
		"no such tag": "\x07",
	} {
		if err := client.call("test", "State", raw(bytes), new(taskv3.StateResponse)); err == nil || called != 0 {
			t.Errorf("%s: %v, called %d times", name, err, called)
		}
	}
	var response taskv3.StateResponse
	if err := client.call("test", "State", &taskv3.StateRequest{ID: "c"}, &response); err != nil || response.ID != "c" || called != 1 {
		t.Errorf("a request after these: %v, %v, called %d times", &response, err, called)
	}
	if err := client.call("test", "Nothing", new(emptypb.Empty), new(emptypb.Empty)); !errdefs.IsNotImplemented(errgrpc.ToNative(err)) {
		t.Errorf("no such method: %v", err)
	}
}

// raw is a message that is sent as these bytes.
func raw(bytes string) proto.Message {
	message := new(emptypb.Empty)
	message.ProtoReflect().SetUnknown([]byte(bytes))
	return message
}

// What is logged of a call tells the container and the exec.
func TestLogOfACall(t *testing.T) {
	var written bytes.Buffer
	logger := logrus.New()
	logger.SetOutput(&written)
	ctx := log.WithLogger(t.Context(), logrus.NewEntry(logger))
	call := method(new(calls), func(ctx context.Context, _ *taskv3.KillRequest) (*emptypb.Empty, error) {
		log.G(ctx).Warn("x")
		return new(emptypb.Empty), nil
	})
	for want, request := range map[string]*taskv3.KillRequest{
		"msg=x\n": {}, "msg=x id=c\n": {ID: "c"}, "msg=x exec=e id=c\n": {ID: "c", ExecID: "e"},
	} {
		written.Reset()
		if _, err := call(ctx, func(into any) error { proto.Merge(into.(proto.Message), request); return nil }); err != nil {
			t.Fatal(err)
		}
		if !strings.HasSuffix(written.String(), want) {
			t.Errorf("%q, want %q", written.String(), want)
		}
	}
}
