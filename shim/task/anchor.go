package task

import (
	"path/filepath"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
)

// startAnchor starts the process that stands for a container on the host; its pid is the
// task's. Who kills it kills the container, as with runc.
func (s *Service) startAnchor(sb *sandbox.Sandbox, c *container) error {
	process, err := sb.Anchor(filepath.Join(sb.Trees.Pool(), c.root.Tag))
	if err != nil {
		return err
	}
	c.pid.Store(uint32(process.Pid()))
	c.anchor.Store(process)
	c.note(exit{})
	go func() {
		<-process.Exited()
		if c.anchor.Load() == nil {
			return
		}
		log.G(s.ctx).WithField("id", c.id).Warn("the process that stands for the container was killed: so is the container")
		if sb, err := s.guest(); err == nil {
			_, _ = sb.Tasks.Kill(s.ctx, &taskapi.KillRequest{ID: c.id, Signal: uint32(unix.SIGKILL), All: true})
		}
	}()
	return nil
}

// endAnchor ends it, so that nothing uses the container's root file system.
func (c *container) endAnchor() {
	if process := c.anchor.Swap(nil); process != nil {
		process.End(0)
	}
}
