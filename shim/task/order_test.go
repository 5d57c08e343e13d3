package task_test

import (
	"fmt"

	eventsapi "github.com/containerd/containerd/api/events"
)

// A life is what events have told of one container: they must tell of it in its order.
type life struct {
	state string            // "", created, started or exited
	execs map[string]string // added, started or exited
}

// checkEvents fails if containerd was told anything out of its order.
func (r *round) checkEvents() {
	r.T.Helper()
	r.Flush()
	lives := map[string]*life{}
	for i, event := range r.Published.All() {
		e, ok := event.(interface{ GetContainerID() string })
		if !ok {
			r.T.Errorf("event %d is a %T", i, event)
			continue
		}
		of := lives[e.GetContainerID()]
		if of == nil {
			of = &life{execs: map[string]string{}}
			lives[e.GetContainerID()] = of
		}
		if err := of.take(event); err != nil {
			r.T.Errorf("event %d, %T %v: %v\n%s", i, event, event, err, r.Published.Topics())
		}
	}
	for id, of := range lives {
		if of.state != "" {
			r.T.Errorf("%s is %s at last", id, of.state)
		}
	}
}

// take takes the next event of a container in.
func (l *life) take(event any) error {
	switch e := event.(type) {
	case *eventsapi.TaskCreate:
		return l.step("created", "")
	case *eventsapi.TaskStart:
		return l.step("started", "created")
	case *eventsapi.TaskDelete:
		for id, state := range l.execs {
			if state == "started" {
				return fmt.Errorf("its process %s has not exited", id)
			}
		}
		clear(l.execs)
		return l.step("", "exited")
	case *eventsapi.TaskExecAdded:
		return l.stepExec(e.ExecID, "added", "", "added", "exited")
	case *eventsapi.TaskExecStarted:
		return l.stepExec(e.ExecID, "started", "added")
	case *eventsapi.TaskExit:
		if e.ID != e.ContainerID {
			return l.stepExec(e.ID, "exited", "started")
		}
		return l.step("exited", "created", "started")
	}
	return l.step(l.state, "created", "started", "exited") // paused and resumed
}

func (l *life) step(to string, from ...string) error {
	for _, state := range from {
		if l.state == state {
			l.state = to
			return nil
		}
	}
	return fmt.Errorf("the container is %q", l.state)
}

func (l *life) stepExec(id, to string, from ...string) error {
	if l.state == "" {
		return fmt.Errorf("there is no such container")
	}
	for _, state := range from {
		if l.execs[id] == state {
			l.execs[id] = to
			return nil
		}
	}
	return fmt.Errorf("the process is %q", l.execs[id])
}
