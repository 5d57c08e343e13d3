package task

import (
	"time"

	"github.com/containerd/log"

	"github.com/msb-runtime/containerd-shim-msb/shim/record"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
)

// recordFile is the file of a bundle that has a Record.
const recordFile = "task.json"

// A Record is what containerd wants to know of a task whose shim was killed.
type Record struct {
	// Pid is the task's, on the host.
	Pid uint32
	// Status is the init's exit status, and ExitedAt when it exited; zero while it runs.
	Status   uint32
	ExitedAt time.Time
}

// ReadRecord is what the shim noted of the task of a bundle. One that had not exited, or of
// which nothing is known, has been killed now, with its VM.
func ReadRecord(bundle string) (Record, error) {
	found, err := record.Read[Record](bundle, recordFile)
	if found == nil {
		found = new(Record)
	}
	if found.ExitedAt.IsZero() {
		found.Status, found.ExitedAt = sandbox.ExitKilled, time.Now()
	}
	return *found, err
}

// note keeps the record of a container in its bundle.
func (c *container) note(e exit) {
	if err := record.Write(c.bundle, recordFile, Record{c.pid(), e.status, e.at}); err != nil {
		log.L.WithError(err).WithField("id", c.id).Warn("noting the task's state for the case that the shim is killed")
	}
}
