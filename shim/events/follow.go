package events

import (
	"context"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/log"
	"google.golang.org/protobuf/proto"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/internal/flood"
)

// A Source gives the guest's events, in the order in which they come.
type Source interface {
	Recv() (*api.Event, error)
}

// A Recorder takes note of what the guest tells, if it knows the container or process that
// it is about.
type Recorder interface {
	// Exited notes that a process has ended: a container's init if the id is the
	// container's, or else the exec with this id.
	Exited(container, id string, pid, status uint32)
	// OutOfMemory notes that the kernel has ended processes of a container.
	OutOfMemory(container string)
}

// Types of the guest's events that count (containerd, api/events).
const (
	typeExit = "containerd.events.TaskExit"
	typeOOM  = "containerd.events.TaskOOM"
)

// Follow hands the guest's events to a recorder until their stream breaks, and returns the
// reason. What is not the guest's to tell is dropped unread.
func Follow(ctx context.Context, source Source, recorder Recorder) error {
	dropped := 0
	defer func() {
		if dropped > 0 {
			log.G(ctx).WithField("events", dropped).Debug("dropped events of the guest that are not its to tell")
		}
	}()
	for {
		event, err := source.Recv()
		if err != nil {
			return err
		}
		if !record(event, recorder) {
			dropped++
		}
	}
}

// record hands one event over, and tells whether it counts.
func record(event *api.Event, recorder Recorder) bool {
	value := event.GetEvent().GetValue()
	switch event.GetEvent().GetTypeUrl() {
	case typeExit:
		var exit eventsapi.TaskExit
		if proto.Unmarshal(value, &exit) != nil {
			return false
		}
		recorder.Exited(exit.ContainerID, exit.ID, exit.Pid, exit.ExitStatus)
	case typeOOM:
		var oom eventsapi.TaskOOM
		if proto.Unmarshal(value, &oom) != nil {
			return false
		}
		recorder.OutOfMemory(oom.ContainerID)
	default:
		return false
	}
	return true
}

// How often an event that a guest may repeat is told, for each container.
const (
	repeatBurst     = 10
	repeatPerSecond = 1
)

// NewGate returns the bound of an event that a guest may repeat about a container: a few go
// to containerd at once, and then one each second.
func NewGate() *flood.Gate { return flood.NewGate(repeatBurst, repeatPerSecond) }
