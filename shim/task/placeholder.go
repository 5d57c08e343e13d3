package task

import (
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
)

const sigkill = uint32(unix.SIGKILL)

// startPlaceholder starts the process that stands for a container on the host; its pid is
// the task's. Who kills it kills the container, as with runc.
func (c *container) startPlaceholder(placeholders sandbox.Placeholders) error {
	var tag string // there is no root file system on the host when the guest makes it
	if c.attached.root != nil {
		tag = c.attached.root.Tag
	}
	process, err := placeholders.ForContainer(tag)
	if err != nil {
		return err
	}
	c.mu.Lock()
	c.stand, c.taskPid = process, uint32(process.Pid())
	c.mu.Unlock()
	c.note(exit{})
	go c.watchPlaceholder(process)
	return nil
}

// watchPlaceholder kills the container if somebody else has killed its placeholder.
func (c *container) watchPlaceholder(process sandbox.Process) {
	<-process.Exited()
	c.mu.Lock()
	killed := c.stand == process
	c.mu.Unlock()
	if !killed {
		return
	}
	logger := log.G(c.service.Context).WithField("id", c.id)
	logger.Warn("the container's placeholder was killed: so is the container")
	if !c.isCreated() {
		c.cancel()
		<-c.settled
		if !c.isCreated() {
			return
		}
	}
	sb, err := c.service.pod.Sandbox()
	if err != nil {
		return
	}
	c.enforceKill(sb)
	if err := sb.Guest.Kill(c.service.Context, &taskapi.KillRequest{ID: c.id, Signal: sigkill, All: true}); err != nil {
		logger.WithError(err).Debug("killing the container")
	}
}

// endPlaceholder ends it, so that nothing uses the container's root file system.
func (c *container) endPlaceholder() {
	c.mu.Lock()
	process := c.stand
	c.stand = nil
	c.mu.Unlock()
	if process != nil {
		process.End(0)
	}
}
