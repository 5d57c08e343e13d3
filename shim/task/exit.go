package task

import (
	"time"

	eventsapi "github.com/containerd/containerd/api/events"
	"github.com/containerd/log"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/msb-runtime/containerd-shim-msb/shim/count"
	"github.com/msb-runtime/containerd-shim-msb/shim/events"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
)

// follow takes note of what the guest tells, until its agent is gone.
func (s *Service) follow(sb *sandbox.Sandbox) {
	source, err := sb.Guest.Events(s.Context)
	if err == nil {
		err = events.Follow(s.Context, source, s)
	}
	log.G(s.Context).WithError(err).Debug("the guest's events have ended")
}

var _ events.Recorder = (*Service)(nil)

// Exited implements events.Recorder.
func (s *Service) Exited(containerID, id string, pid, status uint32) {
	c, _ := s.pod.Member(containerID).(*container)
	if c == nil {
		return
	}
	if id == containerID {
		id = "" // init's
	}
	c.exited(id, told{pid, exitStatus(status)})
}

// statusUnknown is what containerd's client tells when it does not know how a process
// ended (client.UnknownExitStatus).
const statusUnknown = 255

// exitStatus is a guest's word about how a process ended. A program's is a byte
// (wait(2)); some clients keep it in numbers that hold no more than that.
func exitStatus(told uint32) uint32 { return min(told, statusUnknown) }

// OutOfMemory implements events.Recorder.
func (s *Service) OutOfMemory(containerID string) {
	c, err := s.container(containerID)
	if err != nil {
		return
	}
	if _, ok := c.oom.Pass(time.Now(), 1); ok {
		s.Events.Publish(&eventsapi.TaskOOM{ContainerID: containerID})
	}
}

// told is what the guest tells of the end of a process: its id in the guest, 0 if it tells
// none, and how it ended.
type told struct{ pid, status uint32 }

// exited notes what the guest tells of the end of a process. What comes before the answer
// to its start is kept until then, so that containerd learns of them in their order.
func (c *container) exited(execID string, end told) {
	c.mu.Lock()
	p := c.processes[execID]
	early := p != nil && (p.state == processStarting || execID == "" && !c.created)
	if early {
		p.early = &end
	}
	known := p != nil && !early && (p.state == processRunning || execID == "") && c.isAbout(p, end)
	c.mu.Unlock()
	if known {
		c.record(p, end.status)
	}
}

// isAbout tells whether the guest means a process. The end of a container's init may be
// told when there is another container by its id already: that has another init. The caller
// holds c.mu.
func (c *container) isAbout(p *process, end told) bool {
	return p.execID != "" || end.pid == 0 || end.pid == c.guestPid
}

// record records how a process has ended, and tells containerd. Only the first time
// counts. When anyone learns of init's exit, the task's pid is nobody's: the placeholder
// has been waited for. And it is noted for who cleans up after a shim that was killed.
func (c *container) record(p *process, status uint32) {
	c.mu.Lock()
	first := !p.claimed
	p.claimed = true
	c.mu.Unlock()
	if !first {
		<-p.exited // what follows it, as a deletion, is told after it
		return
	}
	e := exit{status, time.Now()}
	if p.execID == "" {
		c.endPlaceholder()
		c.note(e)
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	ran := p.execID == "" || p.state == processRunning
	p.exit, p.state = e, processStopped
	if ran { // containerd was not told of the start of an exec that did not
		count.AddExit(p.execID != "", resultOf(status, c.lost))
		c.service.Events.Publish(&eventsapi.TaskExit{
			ContainerID: c.id, ID: c.eventID(p), Pid: c.taskPid, ExitStatus: e.status, ExitedAt: timestamppb.New(e.at),
		})
	}
	close(p.exited) // who waits for it finds the event in the queue
}

// resultOf is an end for the shim's counters.
func resultOf(status uint32, lost bool) count.Result {
	switch {
	case lost:
		return count.Lost
	case status == 0:
		return count.Success
	}
	return count.Failure
}

// eventID is what events call a process: init has its container's id.
func (c *container) eventID(p *process) string {
	if p.execID == "" {
		return c.id
	}
	return p.execID
}

// Lost implements pod.Member: all that ran has ended with its VM, execs first.
func (c *container) Lost() {
	c.mu.Lock()
	created := c.created
	c.lost = true
	c.mu.Unlock()
	if !created {
		return
	}
	for _, p := range c.execs() {
		c.mu.Lock()
		running := p.state == processRunning
		c.mu.Unlock()
		if running {
			c.record(p, sandbox.ExitKilled)
		}
	}
	c.record(c.init(), sandbox.ExitKilled)
}
