package task

import (
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"google.golang.org/protobuf/proto"
)

// maxTombstones bounds what is kept of deleted containers.
const maxTombstones = 64

// A tombstone is what is kept of a container that was deleted. Its client may have left
// before it learned of that, and asks again: containerd takes a task for there until it has
// an answer.
type tombstone struct {
	bundle  string
	deleted *taskapi.DeleteResponse
}

// bury keeps the answer to a deletion.
func (s *Service) bury(c *container, response *taskapi.DeleteResponse) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for id := range s.deleted {
		if len(s.deleted) < maxTombstones {
			break
		}
		delete(s.deleted, id)
	}
	s.deleted[c.id] = tombstone{c.bundle, response}
}

// unbury forgets it: there is a new container of that id.
func (s *Service) unbury(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.deleted, id)
}

func (s *Service) tombstone(id string) (tombstone, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	grave, found := s.deleted[id]
	return grave, found
}

func (t tombstone) response() *taskapi.DeleteResponse { return proto.CloneOf(t.deleted) }

func (t tombstone) state(id string) *taskapi.StateResponse {
	return &taskapi.StateResponse{
		ID: id, Bundle: t.bundle, Pid: t.deleted.Pid, Status: tasktypes.Status_STOPPED,
		ExitStatus: t.deleted.ExitStatus, ExitedAt: t.deleted.ExitedAt,
	}
}
