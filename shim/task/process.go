package task

import (
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"

	"github.com/msb-runtime/containerd-shim-msb/shim/share"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
	"github.com/msb-runtime/containerd-shim-msb/shim/stdio"
	"github.com/msb-runtime/containerd-shim-msb/vm/jail"

	"github.com/containerd/containerd/api/types"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// container is a task of this shim. Its maps are guarded by Service.mu.
type container struct {
	id       string
	bundle   string
	rootfs   []*types.Mount
	plan     *spec.Plan
	pod      spec.Pod                            // that it is part of
	root     *share.Share                        // nil when it has none
	released bool                                // what is left in given is this container's alone
	given    []given                             // for each of the plan's binds
	joined   map[specs.LinuxNamespaceType]string // in the guest, of other containers or the pod
	anchor   atomic.Pointer[jail.Process]        // stands for it on the host; nil when it is not needed any more
	pid      atomic.Uint32                       // of that process, also after its end

	deletion  sync.Mutex          // held while it is being deleted
	guestPid  uint32              // of init, in the guest
	created   bool                // the guest has it: guarded by Service.mu
	abandoned bool                // a shutdown was asked for while it was being created: guarded by Service.mu
	processes map[string]*process // by exec id, "" is init; guarded by Service.mu
	deleted   chan struct{}       // closed when its TaskDelete event has been published
}

// process is a container's init or an exec.
type process struct {
	execID  string
	config  stdio.Config
	streams atomic.Pointer[stdio.Streams] // nil until they are open
	started bool                          // the guest has started it: guarded by Service.mu
	exited  chan struct{}                 // closed when exit is set
	exit    exit                          // readable after exited
}

type exit struct {
	status uint32
	at     time.Time
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

// exitedWithin gives the news of a dead VM a moment to arrive.
func (p *process) exitedWithin(wait time.Duration) bool {
	select {
	case <-p.exited:
		return true
	case <-time.After(wait):
		return false
	}
}

// setExit records a process's exit; only the first counts. When anyone learns of the
// init's, the task's pid is nobody's: the process that stands for the container has been
// waited for. And it is noted for who cleans up after a shim that was killed. The caller
// holds Service.mu.
func (c *container) setExit(execID string, e exit) (first bool) {
	p := c.processes[execID]
	if p == nil || p.hasExited() {
		return false
	}
	if execID == "" {
		c.endAnchor()
		c.note(e)
	}
	p.exit = e
	close(p.exited)
	return true
}

// container finds a task that has been created.
func (s *Service) container(id string) (*container, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c := s.containers[id]
	if c == nil || !c.created {
		return nil, fmt.Errorf("task %s: %w", id, errdefs.ErrNotFound)
	}
	return c, nil
}

// process finds a process of a task that has been created.
func (s *Service) process(id, execID string) (*container, *process, error) {
	c, err := s.container(id)
	if err != nil {
		return nil, nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	p := c.processes[execID]
	if p == nil {
		return nil, nil, fmt.Errorf("process %s of task %s: %w", execID, id, errdefs.ErrNotFound)
	}
	return c, p, nil
}
