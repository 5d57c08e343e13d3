package main

import (
	"context"
	"errors"
	"fmt"
	"math"
	"strings"
	"time"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	eventsapi "github.com/containerd/containerd/api/events"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
)

// ages is the year 146 billion.
const ages = math.MaxInt64 / 2

// sendEvents sends events that say what is not so. The argument is which, and ",N" how
// many times; without it they are sent again and again.
func sendEvents(_ context.Context, g *guest, argument string) error {
	kind, times, limited := strings.Cut(argument, ",")
	count := math.MaxInt
	if limited {
		if _, err := fmt.Sscan(times, &count); err != nil {
			return err
		}
	}
	made := lies[kind]
	if made == nil {
		return errors.New("no such events")
	}
	g.mu.Lock()
	send, container := g.send, g.container
	g.mu.Unlock()
	if send == nil {
		return errors.New("the host has not asked for events")
	}
	for i := range count {
		for _, event := range made(container, i) {
			if err := send(event); err != nil {
				return err
			}
		}
	}
	return nil
}

// lies make the events of one round.
var lies = map[string]func(container string, round int) []*api.Event{
	// The container's first process has exited, which runs on.
	"exit": func(container string, _ int) []*api.Event {
		return []*api.Event{exited(container, container, timestamppb.Now())}
	},
	"exit-ages": func(container string, _ int) []*api.Event {
		return []*api.Event{exited(container, container, &timestamppb.Timestamp{Seconds: ages, Nanos: math.MinInt32})}
	},
	"delete": func(container string, _ int) []*api.Event {
		return []*api.Event{event("/tasks/delete", &eventsapi.TaskDelete{ContainerID: container, ID: container, ExitedAt: timestamppb.Now()})}
	},
	"oom": func(container string, _ int) []*api.Event {
		return []*api.Event{event("/tasks/oom", &eventsapi.TaskOOM{ContainerID: container})}
	},
	"paused": func(container string, _ int) []*api.Event {
		return []*api.Event{
			event("/tasks/paused", &eventsapi.TaskPaused{ContainerID: container}),
			event("/tasks/resumed", &eventsapi.TaskResumed{ContainerID: container}),
		}
	},
	// All of the life of processes that nobody asked for.
	"strange": strange,
	// Not of the kinds that there are, with names of 1 MiB.
	"types": func(string, int) []*api.Event {
		return []*api.Event{{Topic: "/tasks/oom", Event: &anypb.Any{TypeUrl: strings.Repeat("TYPE\n", mib/5), Value: []byte("x")}}}
	},
	// Right kinds, with names of 1 MiB.
	"names": func(string, int) []*api.Event {
		name := strings.Repeat("NAME\n", mib/5)
		return []*api.Event{
			event("/tasks/"+name, &eventsapi.TaskExit{ContainerID: name, ID: name, ExitedAt: timestamppb.Now()}),
		}
	},
	// A value that is no message, nothing at all, and topics that are no task's.
	"garbage": func(container string, _ int) []*api.Event {
		oom := event("/images/delete", &eventsapi.TaskOOM{ContainerID: container})
		return []*api.Event{
			{Topic: "/tasks/exit", Event: &anypb.Any{TypeUrl: oom.Event.TypeUrl, Value: []byte("\xff\xff\xff")}},
			{},
			oom,
			event("/snapshot/remove", &eventsapi.SnapshotRemove{Key: container}),
			event("/containers/delete", &eventsapi.ContainerDelete{ID: container}),
		}
	},
}

// strange is about a process of the container, and a container, of which the host knows
// nothing.
func strange(container string, round int) (events []*api.Event) {
	name := fmt.Sprintf("nobody-%d", round)
	for _, id := range []string{container, name} {
		events = append(events,
			event("/tasks/create", &eventsapi.TaskCreate{ContainerID: id, Bundle: "/etc", Pid: 1, Checkpoint: "x"}),
			event("/tasks/start", &eventsapi.TaskStart{ContainerID: id, Pid: 1}),
			event("/tasks/exec-added", &eventsapi.TaskExecAdded{ContainerID: id, ExecID: name}),
			event("/tasks/exec-started", &eventsapi.TaskExecStarted{ContainerID: id, ExecID: name, Pid: 1}),
			exited(id, name, timestamppb.Now()),
			event("/tasks/delete", &eventsapi.TaskDelete{ContainerID: id, ID: name, Pid: 1, ExitedAt: timestamppb.New(time.Unix(0, 0))}),
			event("/tasks/checkpointed", &eventsapi.TaskCheckpointed{ContainerID: id, Checkpoint: "/etc"}),
		)
	}
	return events
}

func exited(container, id string, at *timestamppb.Timestamp) *api.Event {
	return event("/tasks/exit", &eventsapi.TaskExit{ContainerID: container, ID: id, ExitStatus: 0, ExitedAt: at})
}

// event has a type as containerd's: its name, without the server of a URL.
func event(topic string, message proto.Message) *api.Event {
	value, err := proto.Marshal(message)
	if err != nil {
		panic(err) // only text that is no UTF-8 is none
	}
	return &api.Event{
		Topic: topic, At: timestamppb.Now(),
		Event: &anypb.Any{TypeUrl: string(message.ProtoReflect().Descriptor().FullName()), Value: value},
	}
}
