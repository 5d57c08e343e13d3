// Package hook runs the OCI hooks of a container that run on the host
// (runtime-spec, config.md, "POSIX-platform Hooks").
package hook

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
)

// quoted is how much of what a failed hook printed its error has, in bytes.
const quoted = 2048

// pendingFile is the file of a bundle that says that hooks were run of a container
// whose poststop hooks were not.
const pendingFile = "hooks.pending"

// SetPending notes, before the first hook, that poststop hooks are to be run.
func SetPending(bundle string) error {
	return os.WriteFile(filepath.Join(bundle, pendingFile), nil, 0o600)
}

// IsPending tells whether SetPending may have noted something that nobody has taken.
func IsPending(bundle string) bool {
	_, err := os.Lstat(filepath.Join(bundle, pendingFile))
	return !errors.Is(err, os.ErrNotExist)
}

// TakePending tells whether poststop hooks are to be run, and takes the note away.
func TakePending(bundle string) (bool, error) {
	err := os.Remove(filepath.Join(bundle, pendingFile))
	if errors.Is(err, os.ErrNotExist) {
		return false, nil
	}
	return err == nil, err
}

// Runner runs hooks.
type Runner struct {
	// Mounts is the mount namespace that hooks run in.
	Mounts mountns.Namespace
	// Outside starts a process where hooks belong, outside of the container's control
	// group (cgroup.Group.Outside); nil means where the caller is.
	Outside func(start func(*syscall.SysProcAttr) error) error
}

// Run runs the hooks of one kind in their order. The first that fails ends it.
func (r Runner) Run(ctx context.Context, kind string, hooks []specs.Hook, state specs.State) error {
	if len(hooks) == 0 {
		return nil
	}
	input, err := json.Marshal(state)
	if err != nil {
		return err
	}
	for _, hook := range hooks {
		if err := r.run(ctx, hook, input); err != nil {
			return fmt.Errorf("%s hook %s: %w", kind, hook.Path, err)
		}
	}
	return nil
}

// A Container has hooks.
type Container interface {
	Hooks() specs.Hooks
	State(id, bundle string, status specs.ContainerState, pid int) specs.State
}

// Stop runs the poststop hooks of a container that is gone, if they are pending. All
// are run, whatever becomes of one.
func (r Runner) Stop(ctx context.Context, c Container, id, bundle string) error {
	pending, err := TakePending(bundle)
	if err != nil || !pending {
		return err
	}
	var errs []error
	for _, hook := range c.Hooks().Poststop {
		errs = append(errs, r.Run(ctx, "poststop", []specs.Hook{hook}, c.State(id, bundle, specs.StateStopped, 0)))
	}
	return errors.Join(errs...)
}

func (r Runner) run(ctx context.Context, hook specs.Hook, input []byte) error {
	if hook.Timeout != nil {
		if *hook.Timeout <= 0 {
			return fmt.Errorf("its timeout of %d s is not above 0: %w", *hook.Timeout, errdefs.ErrInvalidArgument)
		}
		limit := time.Duration(*hook.Timeout) * time.Second
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeoutCause(ctx, limit, fmt.Errorf("it did not end within its %v: %w", limit, context.DeadlineExceeded))
		defer cancel()
	}
	var output bytes.Buffer
	cmd := exec.CommandContext(ctx, hook.Path)
	if len(hook.Args) > 0 {
		cmd.Args = hook.Args
	}
	cmd.Env = hook.Env // none means this process's, as with runc
	cmd.Dir = "/"
	cmd.Stdin, cmd.Stdout, cmd.Stderr = bytes.NewReader(input), &output, &output
	// Who keeps its output open after its end does not keep us.
	cmd.WaitDelay = time.Second
	err := thread.Run(func() error { return r.startHere(cmd) })
	if err == nil {
		err = cmd.Wait()
	}
	switch {
	case err == nil || errors.Is(err, exec.ErrWaitDelay):
		return nil
	case ctx.Err() != nil:
		return context.Cause(ctx)
	}
	printed := output.String()
	if len(printed) > quoted {
		printed = "…" + printed[len(printed)-quoted:]
	}
	if printed = strings.TrimSpace(printed); printed != "" {
		printed = "; it printed: " + printed
	}
	return fmt.Errorf("%w%s (%w)", err, printed, errdefs.ErrFailedPrecondition)
}

// startHere starts a hook from a thread that ends then.
func (r Runner) startHere(cmd *exec.Cmd) error {
	if err := r.Mounts.Enter(); err != nil {
		return err
	}
	if r.Outside == nil {
		return cmd.Start()
	}
	return r.Outside(func(attributes *syscall.SysProcAttr) error {
		cmd.SysProcAttr = attributes
		return cmd.Start()
	})
}
