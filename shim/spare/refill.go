package spare

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/docker/go-units"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
	"github.com/msb-runtime/containerd-shim-msb/shim/config"
	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
)

// niceness is the priority of a spare until it is used: it boots while others work.
const niceness = 10

// Processors, in the environment of a shim, bounds how many of them it uses.
const Processors = "GOMAXPROCS=4"

// maxReport is how much of what a spare says is read, in bytes.
const maxReport = 4 << 10

// A Maker makes spares for one containerd.
type Maker struct {
	// Address is containerd's, Events that of its ttrpc server.
	Address, Events string
	// Mounts is containerd's mount namespace.
	Mounts mountns.Namespace
	// Outside starts a process where the spare is not accounted to a container.
	Outside func(start func(*syscall.SysProcAttr) error) error
}

// pauses are how long a shim waits before it tries again to make a spare that has not booted.
// After the last of them it leaves that to the next container's.
var pauses = []time.Duration{time.Minute, 4 * time.Minute, 16 * time.Minute}

// Refill makes spares of a size until there are enough, for containers with the runtime's options
// of a bundle. They live on without this process: ordered is called when one has been started and
// told all that it needs. One that does not boot is made again after a pause, a few times, as long
// as the context lasts.
func (m Maker) Refill(ctx context.Context, bundle string, size spec.Size, ordered func()) error {
	options, err := config.SavedOptions(bundle)
	if err != nil {
		return err
	}
	return again(ctx, pauses, func() error {
		defer ordered()
		configuration, err := config.Load(options)
		if err != nil {
			return err
		}
		err = m.fill(ctx, configuration, options, size, configuration.Spare.Count, ordered)
		if errors.Is(err, errLowMemory) {
			return nil
		}
		return err
	})
}

// again does something until it succeeds or the context ends, with a pause before each further
// try. It returns the error of the last, or that of one during which the context has ended.
func again(ctx context.Context, pauses []time.Duration, try func() error) error {
	for _, pause := range pauses {
		err := try()
		if err == nil || ctx.Err() != nil {
			return err
		}
		log.L.WithError(err).Warnf("a spare VM is made again in %s", pause)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(pause):
		}
	}
	return try()
}

// errLowMemory says that a spare would leave too little of the host's memory to others.
var errLowMemory = fmt.Errorf("the host has not twice its memory available: have fewer spares, or smaller ones: %w", errdefs.ErrResourceExhausted)

// fill makes spares of a size, one after the other, until so many wait, or the context ends after
// the first. There are never more than the configuration says.
func (m Maker) fill(ctx context.Context, configuration config.Config, options *anypb.Any, size spec.Size, count int, ordered func()) error {
	if count == 0 {
		return nil
	}
	pool, err := m.pool(configuration, count)
	if err != nil {
		return err
	}
	for made := range count {
		if made > 0 && ctx.Err() != nil {
			return nil
		}
		if needed, err := pool.needs(size); !needed || err != nil {
			return err
		}
		// As much is left for others as this one takes.
		if !hasMemory(2 * size.Memory) {
			return fmt.Errorf("making a spare of %s: %w", units.BytesSize(float64(size.Memory)), errLowMemory)
		}
		if err := m.make(options, size, ordered); err != nil {
			return fmt.Errorf("making a spare: %w", err)
		}
	}
	return nil
}

// pool is that of a configuration, in which so many are enough.
func (m Maker) pool(configuration config.Config, count int) (Pool, error) {
	pool, err := Open(configuration, m.Address, m.Mounts)
	pool.limits.Count = count
	return pool, err
}

// make makes one, and returns when it waits.
func (m Maker) make(options *anypb.Any, size spec.Size, ordered func()) error {
	order, err := json.Marshal(order{size, m.Address, m.Events})
	if err != nil {
		return err
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	reading, writing, err := os.Pipe()
	if err != nil {
		return err
	}
	defer writing.Close()
	heard, saying, err := os.Pipe()
	if err != nil {
		return errors.Join(err, reading.Close())
	}
	defer heard.Close()
	cmd := exec.Command(self, "-address", m.Address, "spare", padding())
	cmd.Dir = "/"
	cmd.Env = append(os.Environ(), Processors, spareEnv+"="+string(order))
	err = m.start(cmd, reading, saying)
	err = errors.Join(err, reading.Close(), saying.Close())
	if err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }()
	if err := writeOptions(writing, options); err != nil {
		return err
	}
	if err := writing.Close(); err != nil {
		return err
	}
	ordered()
	said, err := io.ReadAll(io.LimitReader(heard, maxReport))
	if len(said) > 0 {
		return errors.New(strings.TrimSpace(string(said)))
	}
	return err
}

// start starts a spare in a copy of containerd's mount namespace: this process's has what
// belongs to its own VM.
func (m Maker) start(cmd *exec.Cmd, options, report *os.File) error {
	return thread.Run(func() error {
		return m.Outside(func(attributes *syscall.SysProcAttr) error {
			if attributes == nil {
				attributes = new(syscall.SysProcAttr)
			}
			attributes.Setpgid = true
			attributes.Cloneflags |= unix.CLONE_NEWNS
			cmd.SysProcAttr = attributes
			namespace, err := m.Mounts.File()
			if err != nil {
				return err
			}
			defer namespace.Close()
			cmd.ExtraFiles = []*os.File{options, namespace, report}
			if err := m.Mounts.Enter(); err != nil {
				return err
			}
			// The priority is this thread's, from which the process has it.
			if err := unix.Setpriority(unix.PRIO_PROCESS, 0, niceness); err != nil {
				log.L.WithError(err).Debug("a spare boots with full priority")
			}
			return cmd.Start()
		})
	})
}
