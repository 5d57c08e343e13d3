package spare

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
	"github.com/msb-runtime/containerd-shim-msb/shim/config"
	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
)

// niceness is the priority of a spare until it is used: it boots while others work.
const niceness = 10

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

// Refill makes spares of a size until there are enough, one after the other, for containers
// with the runtime's options of a bundle. They live on without this process: ordered is called
// when one has been started and told all that it needs.
func (m Maker) Refill(bundle string, configuration config.Config, size spec.Size, ordered func()) error {
	if configuration.Spare.Count == 0 {
		return nil
	}
	pool, err := Open(configuration, m.Address, m.Mounts)
	if err != nil {
		return err
	}
	options, err := config.SavedOptions(bundle)
	if err != nil {
		return err
	}
	for range configuration.Spare.Count {
		if needed, err := pool.needs(size); !needed || err != nil {
			return err
		}
		// As much is left for others as this one takes.
		if !hasMemory(2 * size.Memory) {
			return nil
		}
		if err := m.make(options, size, ordered); err != nil {
			return fmt.Errorf("making a spare: %w", err)
		}
	}
	return nil
}

// make makes one, and returns when it waits.
func (m Maker) make(given *anypb.Any, size spec.Size, ordered func()) error {
	options, err := proto.Marshal(given)
	if err != nil {
		return err
	}
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
	cmd.Env = append(os.Environ(), spareEnv+"="+string(order))
	err = m.start(cmd, reading, saying)
	err = errors.Join(err, reading.Close(), saying.Close())
	if err != nil {
		return err
	}
	go func() { _ = cmd.Wait() }()
	if _, err := writing.Write(options); err != nil {
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
