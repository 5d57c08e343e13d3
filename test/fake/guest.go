package fake

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"sync"

	"github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
)

// guestService is the table of the agent's own service. What is not said to do anything
// does no more than being recorded (see Requests).
func (a *Agent) guestService() *ttrpc.ServiceDesc {
	return &ttrpc.ServiceDesc{
		Methods: map[string]ttrpc.Method{
			"Start":        method(a, "Guest.Start", nothing[*api.StartRequest, *api.StartResponse]()),
			"CreateBundle": method(a, "Guest.CreateBundle", a.bundles.create),
			"SetSockets":   method(a, "Guest.SetSockets", nothing[*api.SetSocketsRequest, *api.SetSocketsResponse]()),
			"RemoveBundle": method(a, "Guest.RemoveBundle", a.bundles.remove),
			"CloseStdio":   method(a, "Guest.CloseStdio", a.closeStdio),
			"SetNetwork":   method(a, "Guest.SetNetwork", nothing[*api.SetNetworkRequest, *api.SetNetworkResponse]()),
			"CreatePod":    method(a, "Guest.CreatePod", a.createPod),
		},
		Streams: map[string]ttrpc.Stream{
			"Events": {StreamingServer: true, Handler: a.streamEvents},
		},
	}
}

// nothing answers a request for which there is nothing to do here.
func nothing[Q, R proto.Message]() func(context.Context, Q) (R, error) {
	return func(context.Context, Q) (R, error) {
		var answer R // a nil pointer, which still knows its type
		return answer.ProtoReflect().New().Interface().(R), nil
	}
}

func (a *Agent) closeStdio(_ context.Context, r *api.CloseStdioRequest) (*api.CloseStdioResponse, error) {
	for _, id := range r.Ids {
		a.stdio.close(id)
	}
	return &api.CloseStdioResponse{}, nil
}

func (a *Agent) createPod(_ context.Context, r *api.CreatePodRequest) (*api.CreatePodResponse, error) {
	response := &api.CreatePodResponse{}
	if r.Namespaces != nil {
		a.tasks.mu.Lock()
		defer a.tasks.mu.Unlock()
		response.Pid = a.tasks.nextPid()
	}
	return response, nil
}

// bundles are the bundles of the guest's containers, as in guest/bundle.
type bundles struct {
	mu    sync.Mutex
	specs map[string][]byte // OCI runtime configurations, by the container's id; guarded by mu
}

func newBundles() *bundles { return &bundles{specs: make(map[string][]byte)} }

func (b *bundles) create(_ context.Context, r *api.CreateBundleRequest) (*api.CreateBundleResponse, error) {
	if err := api.CheckName("container id", r.Container); err != nil {
		return nil, err
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if _, exists := b.specs[r.Container]; exists {
		return nil, fmt.Errorf("container %s has a bundle in the guest already: %w", r.Container, errdefs.ErrAlreadyExists)
	}
	b.specs[r.Container] = r.Spec
	return &api.CreateBundleResponse{Path: api.BundlePath(r.Container)}, nil
}

func (b *bundles) remove(_ context.Context, r *api.RemoveBundleRequest) (*api.RemoveBundleResponse, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	delete(b.specs, r.Container)
	return &api.RemoveBundleResponse{AgentResident: 16 << 20}, nil
}

// spec reads the configuration in a bundle.
func (b *bundles) spec(dir string) (*specs.Spec, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for container, config := range b.specs {
		if api.BundlePath(container) == dir {
			spec := &specs.Spec{}
			return spec, json.Unmarshal(config, spec)
		}
	}
	return nil, &os.PathError{Op: "open", Path: dir, Err: unix.ENOENT}
}

func (b *bundles) left() (names []string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for container := range b.specs {
		names = append(names, "bundle of container "+container)
	}
	return names
}

// publish queues an event of the task service. It waits while the queue is full.
func (a *Agent) publish(event any) {
	value, err := typeurl.MarshalAnyToProto(event)
	if err != nil {
		panic(err) // no event of this package
	}
	a.queue(&api.Event{Topic: runtime.GetTopic(event), At: timestamppb.Now(), Event: value})
}

func (a *Agent) queue(event *api.Event) {
	select {
	case a.events <- event:
	case <-a.life().Done():
	}
}

// streamEvents is the Events call, whose behaviour is that of "Guest.Events".
func (a *Agent) streamEvents(ctx context.Context, stream ttrpc.StreamServer) (any, error) {
	request := &api.EventsRequest{}
	if err := stream.RecvMsg(request); err != nil {
		return nil, err
	}
	answer, err := a.invoke(ctx, "Guest.Events", request, func(ctx context.Context) (proto.Message, error) {
		return nil, a.sendEvents(ctx, stream)
	})
	if err != nil || answer == nil {
		return nil, errgrpc.ToGRPC(err)
	}
	return answer, nil
}

func (a *Agent) sendEvents(ctx context.Context, stream ttrpc.StreamServer) error {
	for {
		select {
		case event := <-a.events:
			if err := stream.SendMsg(event); err != nil {
				return err
			}
		case err := <-a.cut:
			return err
		case <-ctx.Done():
			return ctx.Err()
		case <-a.life().Done():
			return errEnded
		}
	}
}
