// Package rpc is the edge of the shim: containerd's Task API in its two versions, its Sandbox
// API, its Transfer and Streaming services, and msb's own for the last lines of its log and for
// programs of an operator, as tables of methods, and errors translated to codes, here and nowhere else.
package rpc

import (
	"context"
	"errors"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"

	"github.com/msb-runtime/containerd-shim-msb/shim/journal"
	"github.com/msb-runtime/containerd-shim-msb/shim/podapi"
	"github.com/msb-runtime/containerd-shim-msb/shim/shell"
	"github.com/msb-runtime/containerd-shim-msb/shim/task"
	"github.com/msb-runtime/containerd-shim-msb/shim/trace"
	"github.com/msb-runtime/containerd-shim-msb/shim/transfer"
)

// Services are the services of a shim: the Task API, the Sandbox API, transfers, and its journal.
type Services struct {
	tasks     *task.Service
	sandboxes *podapi.Service
	transfers *transfer.Service
	journal   *journal.Service
	shell     *shell.Service
	calls     *calls
	tracer    *trace.Tracer
}

// The Task API's two versions that are in use: containerd 2.x speaks v3, 1.7
// v2. Their messages are the same on the wire, and a test holds them to it, so
// one table serves both.
var taskServices = []string{"containerd.task.v3.Task", "containerd.task.v2.Task"}

const (
	sandboxService   = "containerd.runtime.sandbox.v1.Sandbox"
	transferService  = "containerd.services.transfer.v1.Transfer"
	streamingService = "containerd.services.streaming.v1.Streaming"
	// Ours, for msbctl.
	journalService = "msb.journal.v1.Journal"
	shellService   = "msb.shell.v1.Shell"
)

// RegisterTTRPC implements pkg/shim's TTRPCService.
func (s *Services) RegisterTTRPC(server *ttrpc.Server) error {
	for _, name := range taskServices {
		server.RegisterService(name, &ttrpc.ServiceDesc{Methods: s.tracer.Traced(name, s.taskMethods())})
	}
	server.RegisterService(sandboxService, &ttrpc.ServiceDesc{Methods: s.tracer.Traced(sandboxService, s.sandboxMethods())})
	server.RegisterService(transferService, &ttrpc.ServiceDesc{Methods: s.tracer.Traced(transferService, map[string]ttrpc.Method{
		"Transfer": method(s.calls, s.transfers.Transfer),
	})})
	server.RegisterService(streamingService, &ttrpc.ServiceDesc{Streams: map[string]ttrpc.Stream{
		"Stream": {Handler: stream(s.transfers.Stream), StreamingClient: true, StreamingServer: true},
	}})
	server.RegisterService(journalService, &ttrpc.ServiceDesc{Streams: map[string]ttrpc.Stream{
		"Read": {Handler: stream(s.journal.Read), StreamingServer: true},
	}})
	server.RegisterService(shellService, &ttrpc.ServiceDesc{Methods: map[string]ttrpc.Method{
		"Run": method(s.calls, s.shell.Run),
	}, Streams: map[string]ttrpc.Stream{
		"RunInTerminal": {Handler: stream(asCall(s.calls, s.shell.RunInTerminal)), StreamingClient: true, StreamingServer: true},
	}})
	return nil
}

func (s *Services) sandboxMethods() map[string]ttrpc.Method {
	return map[string]ttrpc.Method{
		"CreateSandbox":   method(s.calls, s.sandboxes.CreateSandbox),
		"StartSandbox":    method(s.calls, s.sandboxes.StartSandbox),
		"Platform":        method(s.calls, s.sandboxes.Platform),
		"StopSandbox":     method(s.calls, s.sandboxes.StopSandbox),
		"WaitSandbox":     method(s.calls, s.sandboxes.WaitSandbox),
		"SandboxStatus":   method(s.calls, s.sandboxes.SandboxStatus),
		"PingSandbox":     method(s.calls, s.sandboxes.PingSandbox),
		"ShutdownSandbox": method(s.calls, s.sandboxes.ShutdownSandbox),
		"SandboxMetrics":  method(s.calls, s.sandboxes.SandboxMetrics),
		"UpdateSandbox":   method(s.calls, s.sandboxes.UpdateSandbox),
	}
}

func (s *Services) taskMethods() map[string]ttrpc.Method {
	return map[string]ttrpc.Method{
		"State":      method(s.calls, s.tasks.State),
		"Create":     method(s.calls, s.tasks.Create),
		"Start":      method(s.calls, s.tasks.Start),
		"Delete":     method(s.calls, s.tasks.Delete),
		"Pids":       method(s.calls, s.tasks.Pids),
		"Pause":      method(s.calls, s.tasks.Pause),
		"Resume":     method(s.calls, s.tasks.Resume),
		"Checkpoint": method(s.calls, s.tasks.Checkpoint),
		"Kill":       method(s.calls, s.tasks.Kill),
		"Exec":       method(s.calls, s.tasks.Exec),
		"ResizePty":  method(s.calls, s.tasks.ResizePty),
		"CloseIO":    method(s.calls, s.tasks.CloseIO),
		"Update":     method(s.calls, s.tasks.Update),
		"Wait":       method(s.calls, s.tasks.Wait),
		"Stats":      method(s.calls, s.tasks.Stats),
		"Connect":    method(s.calls, s.tasks.Connect),
		"Shutdown":   method(s.calls, s.tasks.Shutdown),
	}
}

// method makes an entry of a table: it decodes the request, has the log tell whom it is about, counts the call as open until
// it has ended, and gives an error its gRPC code.
func method[Request, Response any](calls *calls, call func(context.Context, *Request) (*Response, error)) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(any) error) (any, error) {
		defer calls.begin()()
		request := new(Request)
		if err := unmarshal(request); err != nil {
			return nil, err
		}
		response, err := call(about(ctx, request), request)
		if err != nil {
			return nil, toGRPC(err)
		}
		return response, nil
	}
}

// about has what is logged of a call tell the container and the exec that it is about.
func about(ctx context.Context, request any) context.Context {
	fields := log.Fields{}
	if r, ok := request.(interface{ GetID() string }); ok && r.GetID() != "" {
		fields["id"] = r.GetID()
	}
	if r, ok := request.(interface{ GetExecID() string }); ok && r.GetExecID() != "" {
		fields["exec"] = r.GetExecID()
	}
	if len(fields) == 0 {
		return ctx
	}
	return log.WithLogger(ctx, log.G(ctx).WithFields(fields))
}

// stream makes the entry of a call that is a stream. A shim that ends does not wait for it: a
// transfer is a call of its own, and who follows the log sees it end.
func stream(call func(context.Context, ttrpc.StreamServer) error) ttrpc.StreamHandler {
	return func(ctx context.Context, server ttrpc.StreamServer) (any, error) {
		if err := call(ctx, server); err != nil {
			return nil, toGRPC(err)
		}
		return nil, nil
	}
}

// asCall counts a stream as an open call until it has ended, as method does: there is an answer to
// wait for.
func asCall(calls *calls, call func(context.Context, ttrpc.StreamServer) error) func(context.Context, ttrpc.StreamServer) error {
	return func(ctx context.Context, server ttrpc.StreamServer) error {
		defer calls.begin()()
		return call(ctx, server)
	}
}

// toGRPC gives an error its code, and its text once. If an error wraps more than one, the
// wire format would repeat each on a line of its own.
func toGRPC(err error) error {
	class, text := errdefs.Resolve(err), err.Error()
	switch {
	case class == nil || errors.Is(class, errdefs.ErrUnknown):
		return errgrpc.ToGRPC(errors.New(text))
	case text == class.Error():
		return errgrpc.ToGRPC(class)
	}
	for _, suffix := range []string{": " + class.Error(), " (" + class.Error() + ")"} {
		text = strings.TrimSuffix(text, suffix)
	}
	return errgrpc.ToGRPCf(class, "%s", text)
}
