// Package events follows what containerd tells of the tasks of this runtime.
package events

import (
	"context"
	"errors"
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"time"

	eventtypes "github.com/containerd/containerd/api/events"
	"github.com/containerd/containerd/api/services/containers/v1"
	"github.com/containerd/containerd/api/services/events/v1"
	"github.com/containerd/containerd/api/types"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/grpc"
)

// An Event is one of a task.
type Event struct {
	Time      time.Time `json:"time"`
	Namespace string    `json:"namespace"`
	// Container is the task's, Exec the process's in it; empty for the first one.
	Container string `json:"container"`
	Exec      string `json:"exec,omitempty"`
	// Name is containerd's for the event, the last part of its topic: create, start, exit …
	Name string `json:"event"`
	Pid  uint32 `json:"pid,omitempty"`
	// Status is the exit code, of exit and delete.
	Status *uint32 `json:"status,omitempty"`
}

// A follower knows the runtimes of containers, by namespace and id.
type follower struct {
	containers containers.ContainersClient
	known      map[[2]string]bool // whether they are this runtime's
}

// Follow calls tell for each event of this runtime's tasks in a namespace, empty for all, until
// the context ends, tell returns an error, or containerd ends.
func Follow(ctx context.Context, conn grpc.ClientConnInterface, namespace string, tell func(Event) error) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	f := follower{containers.NewContainersClient(conn), make(map[[2]string]bool)}
	stream, err := events.NewEventsClient(conn).Subscribe(ctx, &events.SubscribeRequest{Filters: []string{filter(namespace)}})
	if err != nil {
		return explain(err)
	}
	for {
		envelope, err := stream.Recv()
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return explain(err)
		}
		event, ok := read(envelope)
		if !ok {
			continue
		}
		ours, err := f.ours(ctx, event)
		if err != nil {
			return err
		}
		if ours {
			if err := tell(event); err != nil {
				return err
			}
		}
	}
}

func explain(err error) error {
	if errors.Is(err, io.EOF) {
		err = errdefs.ErrUnavailable
	} else {
		err = errgrpc.ToNative(err)
	}
	if errdefs.IsUnavailable(err) {
		return fmt.Errorf("containerd has ended, or is not there (msbctl events --address): %w", err)
	}
	return err
}

// filter is containerd's, for events of tasks.
func filter(namespace string) string {
	tasks := `topic~="^/tasks/"`
	if namespace == "" {
		return tasks
	}
	return fmt.Sprintf("%s,namespace==%q", tasks, namespace)
}

// read is an event of a task; false for one that is of no container's.
func read(envelope *types.Envelope) (e Event, ok bool) {
	message, err := typeurl.UnmarshalAny(envelope.GetEvent())
	if err != nil {
		return e, false
	}
	e = Event{Time: envelope.GetTimestamp().AsTime(), Namespace: envelope.GetNamespace(), Name: filepath.Base(envelope.GetTopic())}
	if of, is := message.(interface{ GetContainerID() string }); is {
		e.Container = of.GetContainerID()
	}
	if of, is := message.(interface{ GetPid() uint32 }); is {
		e.Pid = of.GetPid()
	}
	status := func(code uint32) { e.Status = &code }
	process := func(id string) {
		if id != e.Container {
			e.Exec = id
		}
	}
	switch m := message.(type) {
	case *eventtypes.TaskExit:
		status(m.GetExitStatus())
		process(m.GetID())
	case *eventtypes.TaskDelete:
		status(m.GetExitStatus())
		process(m.GetID())
	case *eventtypes.TaskExecAdded:
		e.Exec = m.GetExecID()
	case *eventtypes.TaskExecStarted:
		e.Exec = m.GetExecID()
	}
	return e, e.Container != ""
}

// ours tells whether an event is of this runtime. Containers are asked for once, while they
// are there: that of a task which is deleted may be gone.
func (f follower) ours(ctx context.Context, e Event) (bool, error) {
	key := [2]string{e.Namespace, e.Container}
	ours, known := f.known[key]
	if !known || e.Name == "create" { // the name may be another container's by now
		answer, err := f.containers.Get(namespaces.WithNamespace(ctx, e.Namespace), &containers.GetContainerRequest{ID: e.Container})
		switch err = errgrpc.ToNative(err); {
		case errdefs.IsNotFound(err):
		case err != nil:
			return false, err
		default:
			ours = isOurs(answer.GetContainer().GetRuntime().GetName())
		}
		f.known[key] = ours
	}
	if e.Name == "delete" && e.Exec == "" {
		delete(f.known, key)
	}
	return ours, nil
}

// isOurs tells whether a runtime's name, or the path of its shim, is this one's.
func isOurs(runtime string) bool {
	return runtime == "io.containerd.msb.v2" || filepath.Base(runtime) == "containerd-shim-msb-v2"
}

// String is one line.
func (e Event) String() string {
	fields := []string{e.Time.Local().Format("2006-01-02T15:04:05.000"), e.Namespace, e.Container, e.Name}
	if e.Exec != "" {
		fields = append(fields, "exec="+e.Exec)
	}
	if e.Pid != 0 {
		fields = append(fields, fmt.Sprintf("pid=%d", e.Pid))
	}
	if e.Status != nil {
		fields = append(fields, fmt.Sprintf("status=%d", *e.Status))
	}
	return strings.Join(fields, " ")
}
