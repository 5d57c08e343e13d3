package task

import (
	"sync/atomic"
	"time"

	tasktypes "github.com/containerd/containerd/api/types/task"

	"github.com/msb-runtime/containerd-shim-msb/shim/stdio"
)

// process is a container's init or an exec. Its life is a line: added (an exec: adding before), starting, running,
// stopped; one whose start fails is added again. One that is deleted before its start never
// runs.
type process struct {
	execID  string
	config  stdio.Config
	streams atomic.Pointer[stdio.Streams] // nil until they are open
	exited  chan struct{}                 // closed when exit is set
	exit    exit                          // readable after exited

	// Guarded by container.mu.
	state   processState
	claimed bool  // somebody records its exit
	early   *told // came last before the answer to its start
}

type processState int

const (
	processAdded    processState = iota
	processAdding                // an exec that is not there yet: only its id is taken
	processDeleting              // without ever having been started
	processStarting
	processRunning
	processStopped
)

// exit is how a process ended, and when the host learned of it: a time of the guest would
// be the guest's to choose.
type exit struct {
	status uint32
	at     time.Time
}

// streamsOf is where a process has its streams on the host, as the request says that makes it.
func (s *Service) streamsOf(r interface {
	GetStdin() string
	GetStdout() string
	GetStderr() string
	GetTerminal() bool
},
) stdio.Config {
	return stdio.Config{
		Stdin: r.GetStdin(), Stdout: r.GetStdout(), Stderr: r.GetStderr(), Terminal: r.GetTerminal(),
		Mounts: s.Hooks.Mounts, OpenedWithin: s.ClientsTurn,
	}
}

func newProcess(execID string, config stdio.Config) *process {
	return &process{execID: execID, config: config, exited: make(chan struct{})}
}

func (p *process) hasExited() bool {
	select {
	case <-p.exited:
		return true
	default:
		return false
	}
}

// exitedWithin waits a while for a process's exit to be recorded.
func (p *process) exitedWithin(wait time.Duration) bool {
	select {
	case <-p.exited:
		return true
	case <-time.After(wait):
		return false
	}
}

// statusOf is a process's status for containerd. The caller holds container.mu.
func (c *container) statusOf(p *process) tasktypes.Status {
	switch {
	case p.hasExited():
		return tasktypes.Status_STOPPED
	case p.state == processRunning && c.paused:
		return tasktypes.Status_PAUSED
	case p.state == processRunning:
		return tasktypes.Status_RUNNING
	}
	return tasktypes.Status_CREATED
}
