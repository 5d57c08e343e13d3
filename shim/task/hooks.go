package task

import (
	"context"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/hook"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/trace"
)

// The order is that of runtime-spec, runtime.md, "Lifecycle". The placeholder leads hooks
// to the container's network namespace.

// createHooks runs the hooks of a container that is being created.
func (c *container) createHooks(ctx context.Context) (err error) {
	hooks := c.plan.Hooks()
	//lint:ignore SA1019 clients still set prestart hooks
	prestart := hooks.Prestart
	if len(prestart)+len(hooks.CreateRuntime)+len(hooks.Poststop) == 0 {
		return nil
	}
	ctx, phase := trace.Begin(ctx, "hooks")
	defer phase.End(&err)
	if err := hook.SetPending(c.bundle); err != nil {
		return err
	}
	state := c.plan.State(c.id, c.bundle, specs.StateCreating, int(c.pid()))
	runner := c.service.hookRunner()
	if err := runner.Run(ctx, "prestart", prestart, state); err != nil {
		return err
	}
	return runner.Run(ctx, "createRuntime", hooks.CreateRuntime, state)
}

// hookRunner runs hooks: outside of the VM's control group, while there is one.
func (s *Service) hookRunner() hook.Runner {
	runner := s.Hooks
	if place := s.pod.Place(); place != nil {
		runner.Outside = place.Outside
	}
	return runner
}

// startHooks runs those of a container that was started. One that fails ends the container: in
// a pod by one kill, as with runc, because for the fault of a hook the others there do not lose
// their VM. Who deletes a container that its guest has not killed kills it once more, and that
// holds.
func (c *container) startHooks(ctx context.Context, sb *sandbox.Sandbox) error {
	state := c.plan.State(c.id, c.bundle, specs.StateRunning, int(c.pid()))
	err := c.service.hookRunner().Run(ctx, "poststart", c.plan.Hooks().Poststart, state)
	if err == nil {
		return nil
	}
	kill := &taskapi.KillRequest{ID: c.id, Signal: uint32(unix.SIGKILL), All: true}
	var killErr error
	if c.of.ID == "" {
		killErr = c.killInit(ctx, sb, kill)
	} else {
		killErr = sb.Guest.Kill(ctx, kill)
	}
	if killErr != nil && !errdefs.IsNotFound(killErr) {
		log.G(ctx).WithError(killErr).WithField("id", c.id).Warn("a hook failed, and the container was not killed")
	}
	return err
}

// stopHooks runs those of a container that is gone.
func (c *container) stopHooks(ctx context.Context) {
	if c.plan == nil {
		return
	}
	if err := c.service.hookRunner().Stop(ctx, c.plan, c.id, c.bundle); err != nil {
		log.G(ctx).WithError(err).WithField("id", c.id).Warn("the container is deleted all the same")
	}
}
