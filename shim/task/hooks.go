package task

import (
	"context"

	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/msb-runtime/containerd-shim-msb/shim/hook"
	"github.com/msb-runtime/containerd-shim-msb/shim/trace"
)

// The order is that of runtime-spec, runtime.md, "Lifecycle". The process that stands
// for the container on the host leads hooks to its network namespace.

// createHooks runs the hooks of a container that is being created.
func (s *Service) createHooks(ctx context.Context, c *container) error {
	hooks := c.plan.Hooks()
	//lint:ignore SA1019 clients still set prestart hooks
	prestart := hooks.Prestart
	if len(prestart)+len(hooks.CreateRuntime)+len(hooks.Poststop) == 0 {
		return nil
	}
	defer trace.Phase(ctx, "hooks")()
	if err := hook.SetPending(c.bundle); err != nil {
		return err
	}
	state := c.plan.State(c.id, c.bundle, specs.StateCreating, int(c.pid.Load()))
	runner := s.runner()
	if err := runner.Run(ctx, "prestart", prestart, state); err != nil {
		return err
	}
	return runner.Run(ctx, "createRuntime", hooks.CreateRuntime, state)
}

// runner runs hooks: outside of the VM's control group, while there is a VM.
func (s *Service) runner() hook.Runner {
	s.mu.Lock()
	defer s.mu.Unlock()
	runner := s.hooks
	if s.sandbox != nil {
		runner.Outside = s.sandbox.Outside
	}
	return runner
}

// startHooks runs those of a container that was started. One that fails is no more
// than a warning.
func (s *Service) startHooks(ctx context.Context, c *container) {
	state := c.plan.State(c.id, c.bundle, specs.StateRunning, int(c.pid.Load()))
	if err := s.runner().Run(ctx, "poststart", c.plan.Hooks().Poststart, state); err != nil {
		log.G(ctx).WithError(err).WithField("id", c.id).Warn("the container runs on")
	}
}

// stopHooks runs those of a container that is gone.
func (s *Service) stopHooks(ctx context.Context, c *container) {
	if err := s.runner().Stop(ctx, c.plan, c.id, c.bundle); err != nil {
		log.G(ctx).WithError(err).WithField("id", c.id).Warn("the container is deleted all the same")
	}
}
