package fake

import (
	"context"
	"fmt"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
)

// A Call is one call of the host, or the opening of a stream.
type Call struct {
	// Name is one of Names.
	Name string
	// Request is what the host sent. It is not to be changed.
	Request proto.Message
	// Agent is who was called.
	Agent *Agent

	act func(context.Context) (proto.Message, error)
}

// Act does what an honest agent does with the call, and returns its answer.
func (c *Call) Act(ctx context.Context) (proto.Message, error) { return c.act(ctx) }

// names are those of all calls, sorted.
var names = func() []string {
	list := []string{"Stream.Control", "Stream.Stdio", "Stream.Port", "Stream.Shell", "Stream.Transfer", "Stream.Clock"}
	for prefix, file := range map[string]protoreflect.FileDescriptor{
		"Task.":  taskapi.File_runtime_task_v3_shim_proto,
		"Guest.": api.File_guest_api_guest_proto,
	} {
		methods := file.Services().Get(0).Methods()
		for i := range methods.Len() {
			list = append(list, prefix+string(methods.Get(i).Name()))
		}
	}
	slices.Sort(list)
	return list
}()

// Names are the names of all calls: "Task.Create" and so on are those of containerd's
// task service, "Guest.CreateBundle" and so on those of the agent's own, "Stream.Control",
// "Stream.Stdio", "Stream.Port", "Stream.Shell", "Stream.Transfer" and "Stream.Clock" the headers of streams that the host
// opens.
func Names() []string { return slices.Clone(names) }

// resolve finds a call by its name or the part behind the dot. A name of no call is a
// mistake in the test.
func resolve(name string) string {
	for _, prefix := range []string{"", "Task.", "Guest.", "Stream."} {
		if slices.Contains(names, prefix+name) {
			return prefix + name
		}
	}
	panic(fmt.Sprintf("fake: no call is named %q; there are %s", name, strings.Join(names, ", ")))
}

// errEnded is what a call gets whose machine has ended; nobody is there to read it.
var errEnded = fmt.Errorf("the machine has ended: %w", errdefs.ErrUnavailable)

// invoke takes a call through its gates and its behaviour.
func (a *Agent) invoke(ctx context.Context, name string, request proto.Message, act func(context.Context) (proto.Message, error)) (proto.Message, error) {
	call := &Call{Name: name, Request: request, Agent: a, act: act}
	a.mu.Lock()
	a.calls = append(a.calls, call)
	gates := slices.Clone(a.before[name])
	a.mu.Unlock()
	if err := hold(gates, call); err != nil {
		return nil, err
	}
	a.mu.Lock()
	behaviour := a.behaviours[name]
	a.mu.Unlock()
	if behaviour == nil {
		behaviour = Honest
	}
	answer, err := behaviour(ctx, call)
	a.mu.Lock()
	gates = slices.Clone(a.after[name])
	a.mu.Unlock()
	if gateErr := hold(gates, call); gateErr != nil {
		return nil, gateErr
	}
	return answer, err
}

func hold(gates []*Gate, call *Call) error {
	for _, gate := range gates {
		gate.hold(call)
	}
	if call.Agent.life().Err() != nil {
		return errEnded
	}
	return nil
}

// method makes a method of a ttrpc service. Errors become gRPC codes here.
func method[Q any, P interface {
	*Q
	proto.Message
}, R proto.Message](a *Agent, name string, act func(context.Context, P) (R, error),
) ttrpc.Method {
	return func(ctx context.Context, unmarshal func(any) error) (any, error) {
		request := P(new(Q))
		if err := unmarshal(request); err != nil {
			return nil, err
		}
		answer, err := a.invoke(ctx, name, request, func(ctx context.Context) (proto.Message, error) {
			return act(ctx, request)
		})
		if err != nil {
			return nil, errgrpc.ToGRPC(err)
		}
		if answer == nil {
			answer = raw(nil)
		}
		return answer, nil
	}
}
