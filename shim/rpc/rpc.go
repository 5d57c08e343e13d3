// Package rpc is the edge of the shim: containerd's Task API in its two versions and its
// Sandbox API as tables of methods, and errors translated to codes, here and nowhere else.
package rpc

import (
	"context"
	"errors"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"

	"github.com/msb-runtime/containerd-shim-msb/shim/podapi"
	"github.com/msb-runtime/containerd-shim-msb/shim/task"
)

// Services are those that a shim serves.
type Services struct {
	tasks     *task.Service
	sandboxes *podapi.Service
}

// The Task API's two versions that are in use: containerd 2.x speaks v3, 1.7
// v2. Their messages are the same on the wire, and a test holds them to it, so
// one table serves both.
var taskServices = []string{"containerd.task.v3.Task", "containerd.task.v2.Task"}

const sandboxService = "containerd.runtime.sandbox.v1.Sandbox"

// RegisterTTRPC implements pkg/shim's TTRPCService.
func (s *Services) RegisterTTRPC(server *ttrpc.Server) error {
	for _, name := range taskServices {
		server.RegisterService(name, &ttrpc.ServiceDesc{Methods: taskMethods(s.tasks)})
	}
	server.RegisterService(sandboxService, &ttrpc.ServiceDesc{Methods: sandboxMethods(s.sandboxes)})
	return nil
}

func sandboxMethods(s *podapi.Service) map[string]ttrpc.Method {
	return map[string]ttrpc.Method{
		"CreateSandbox":   method(s.CreateSandbox),
		"StartSandbox":    method(s.StartSandbox),
		"Platform":        method(s.Platform),
		"StopSandbox":     method(s.StopSandbox),
		"WaitSandbox":     method(s.WaitSandbox),
		"SandboxStatus":   method(s.SandboxStatus),
		"PingSandbox":     method(s.PingSandbox),
		"ShutdownSandbox": method(s.ShutdownSandbox),
		"SandboxMetrics":  method(s.SandboxMetrics),
		"UpdateSandbox":   method(s.UpdateSandbox),
	}
}

func taskMethods(s *task.Service) map[string]ttrpc.Method {
	return map[string]ttrpc.Method{
		"State":      method(s.State),
		"Create":     method(s.Create),
		"Start":      method(s.Start),
		"Delete":     method(s.Delete),
		"Pids":       method(s.Pids),
		"Pause":      method(s.Pause),
		"Resume":     method(s.Resume),
		"Checkpoint": method(s.Checkpoint),
		"Kill":       method(s.Kill),
		"Exec":       method(s.Exec),
		"ResizePty":  method(s.ResizePty),
		"CloseIO":    method(s.CloseIO),
		"Update":     method(s.Update),
		"Wait":       method(s.Wait),
		"Stats":      method(s.Stats),
		"Connect":    method(s.Connect),
		"Shutdown":   method(s.Shutdown),
	}
}

// method is the edge: requests come in, and errors become gRPC codes here and
// nowhere else.
func method[Request, Response any](call func(context.Context, *Request) (*Response, error)) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(any) error) (any, error) {
		request := new(Request)
		if err := unmarshal(request); err != nil {
			return nil, err
		}
		response, err := call(ctx, request)
		if err != nil {
			return nil, toGRPC(err)
		}
		return response, nil
	}
}

// toGRPC gives an error its code, and its text once: of an error that wraps more
// than one, the wire format would repeat each on a line of its own.
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
