package task

import (
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
)

// watch follows the guest's events until the VM ends, and then reports the end
// of everything that was still running in it.
func (s *Service) watch(sb *sandbox.Sandbox) {
	log.G(s.ctx).WithError(s.pump(sb)).Debug("the guest's events have ended")
	select {
	case <-sb.Done():
	case <-time.After(deathNotice):
		// Without its agent a guest is of no use.
		log.G(s.ctx).Error("the agent is gone: ending its VM")
		sb.Kill()
		<-sb.Done()
	}
	if err := sb.Err(); err != nil {
		log.G(s.ctx).WithError(err).Error("the VM ended")
	}
	s.reportDeath()
}

// pump passes events on until the stream of them breaks, and returns why.
func (s *Service) pump(sb *sandbox.Sandbox) error {
	stream, err := sb.Guest.Events(s.ctx, &api.EventsRequest{})
	if err != nil {
		return err
	}
	for {
		event, err := stream.Recv()
		if err != nil {
			return err
		}
		s.receive(event)
	}
}

// receive translates one event of the guest, takes note of it, and passes it on.
// The guest is not believed about containers that are not in it, nor with
// events that are not a task's.
func (s *Service) receive(event *api.Event) {
	value, err := typeurl.UnmarshalAny(event.GetEvent())
	if err != nil {
		log.G(s.ctx).WithError(err).Warn("the guest sent an event that cannot be read")
		return
	}
	translated, err := s.translate(value)
	if err != nil {
		log.G(s.ctx).WithError(err).WithField("type", event.GetEvent().GetTypeUrl()).Warn("dropping an event of the guest")
		return
	}
	s.publish(translated)
	if deletion, ok := translated.(*eventsapi.TaskDelete); ok {
		s.markDeleted(deletion.ContainerID)
	}
}

// translate gives an event the host's view: the pid that stands for its container, and bundle,
// mounts and streams as containerd named them. An exit is recorded before its
// event goes out.
func (s *Service) translate(event any) (any, error) {
	named, ok := event.(interface{ GetContainerID() string })
	if !ok {
		return nil, errdefs.ErrInvalidArgument
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.containers[named.GetContainerID()]
	if c == nil {
		return nil, errdefs.ErrNotFound
	}
	pid := c.pid.Load()
	switch e := event.(type) {
	case *eventsapi.TaskCreate:
		io := c.processes[""].config
		e.Bundle, e.Rootfs, e.Pid, e.Checkpoint = c.bundle, c.rootfs, pid, ""
		e.IO = &eventsapi.TaskIO{Stdin: io.Stdin, Stdout: io.Stdout, Stderr: io.Stderr, Terminal: io.Terminal}
	case *eventsapi.TaskStart:
		e.Pid = pid
	case *eventsapi.TaskExecStarted:
		e.Pid = pid
	case *eventsapi.TaskExit:
		if !c.setExit(execID(c, e.ID), exit{e.ExitStatus, e.ExitedAt.AsTime()}) {
			return nil, errdefs.ErrNotFound
		}
		e.Pid = pid
	case *eventsapi.TaskDelete:
		e.Pid = pid
	case *eventsapi.TaskExecAdded, *eventsapi.TaskOOM, *eventsapi.TaskPaused, *eventsapi.TaskResumed:
	default:
		return nil, errdefs.ErrInvalidArgument
	}
	return event, nil
}

// execID is the key of a process whose event calls it by id: the init's id is
// its container's.
func execID(c *container, id string) string {
	if id == c.id {
		return ""
	}
	return id
}

func (s *Service) markDeleted(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.containers[id]; c != nil {
		select {
		case <-c.deleted:
		default:
			close(c.deleted)
		}
	}
}

// reportDeath records and publishes the exit of everything that had not exited
// when the VM ended: execs first, each container's init last.
func (s *Service) reportDeath() {
	now := exit{sandbox.ExitKilled, time.Now()}
	var exits []*eventsapi.TaskExit
	s.mu.Lock()
	for _, c := range s.containers {
		if !c.created {
			continue
		}
		for id, p := range c.processes {
			if id != "" && p.started && c.setExit(id, now) {
				exits = append(exits, exitEvent(c.id, id, c.pid.Load(), now))
			}
		}
		if c.setExit("", now) {
			exits = append(exits, exitEvent(c.id, c.id, c.pid.Load(), now))
		}
	}
	s.mu.Unlock()
	for _, event := range exits {
		s.publish(event)
	}
}

func exitEvent(container, id string, pid uint32, e exit) *eventsapi.TaskExit {
	return &eventsapi.TaskExit{ContainerID: container, ID: id, Pid: pid, ExitStatus: e.status, ExitedAt: timestamppb.New(e.at)}
}
