// Package sandbox is one microVM on behalf of the shim: the trees of what the VM is given,
// the machine itself, and the connection to the agent in it.
//
//	Prepare   the VM has its place on the host: things can be shared, nothing runs
//	Boot      the machine runs and its agent answers: a Sandbox, complete
//	Close     everything is gone
//
// The drivers and what else starts processes are handed in (Platform).
package sandbox

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/containerd/log"

	"github.com/msb-runtime/containerd-shim-msb/shim/count"
	"github.com/msb-runtime/containerd-shim-msb/shim/guest"
	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
	"github.com/msb-runtime/containerd-shim-msb/vm"
	"github.com/msb-runtime/containerd-shim-msb/vm/mux"
)

// ExitKilled is the exit status of a process whose VM is gone: 128 + SIGKILL.
const ExitKilled = 128 + 9

// stopTimeout bounds the end of the machine's processes.
const stopTimeout = 10 * time.Second

// A Sandbox is a microVM that has booted, at its place on the host. It may be used
// concurrently.
type Sandbox struct {
	*Prepared
	Placeholders
	// Guest is the agent in it.
	Guest *guest.Client

	machine vm.Machine
	driver  vm.Driver // of machine
	network hostNetwork
	told    *told // of the network
	refill  sync.Once

	mu     sync.Mutex
	reason error // why the shim ended the VM; guarded by mu
}

var _ guest.Machine = (*Sandbox)(nil)

func newSandbox(p *Prepared, driver vm.Driver, machine vm.Machine, network hostNetwork) *Sandbox {
	s := &Sandbox{Prepared: p, Placeholders: p.placeholders(network), machine: machine, driver: driver, network: network}
	go s.watchFiles()
	return s
}

// watchFiles ends the VM when the shield of its files has ended: they would answer nothing
// but errors; and when it would see what is to be hidden. It counts a guest that was cut off.
func (s *Sandbox) watchFiles() {
	select {
	case <-s.shield.broken:
		s.End(errShieldBroken)
	case err := <-s.Trees.Broken():
		s.End(err)
	case <-s.Done():
	}
	<-s.Done()
	if errors.Is(s.machine.Err(), mux.ErrViolation) {
		count.AddViolation()
	}
}

// orderTime is how long the end of a VM waits for a spare to be ordered, which takes some
// milliseconds.
const orderTime = 5 * time.Second

// Refill sees to it, once and until this VM ends, that the next one of its size can be a spare. The
// end waits until one is ordered: of a container that ends at once, the shim ends as soon.
func (s *Sandbox) Refill() {
	refill := s.platform.Refill
	if refill == nil {
		return
	}
	s.refill.Do(func() {
		ordered := make(chan struct{})
		s.undo.Add(func() error {
			select {
			case <-ordered:
			case <-time.After(orderTime):
			}
			return nil
		})
		order := sync.OnceFunc(func() { close(ordered) })
		ctx, cancel := context.WithCancel(context.Background())
		go func() {
			<-s.Done()
			cancel()
		}()
		go func() {
			defer order()
			refill(ctx, s.Prepared, order)
		}()
	})
}

// Pid is the process id of the VMM on the host.
func (s *Sandbox) Pid() int { return s.machine.Pid() }

// Dial implements guest.Machine.
func (s *Sandbox) Dial(ctx context.Context) (net.Conn, error) { return s.machine.Dial(ctx) }

// Done is closed when the machine has ended.
func (s *Sandbox) Done() <-chan struct{} { return s.machine.Done() }

// Running tells whether the machine has not ended, nor is being ended.
func (s *Sandbox) Running() bool {
	select {
	case <-s.Done():
		return false
	default:
		return s.Err() == nil
	}
}

// End ends the machine for a reason, without waiting for it. Only the first reason counts,
// and none when the machine has ended already.
func (s *Sandbox) End(reason error) {
	select {
	case <-s.Done():
		return
	default:
	}
	s.mu.Lock()
	first := s.reason == nil
	if first {
		s.reason = reason
	}
	s.mu.Unlock()
	if first {
		log.L.WithError(reason).Error("ending the VM")
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = s.machine.Stop(ctx)
}

// Err tells why the machine ended, or is being ended; nil if it was closed, and while it
// runs.
func (s *Sandbox) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.reason != nil {
		return s.reason
	}
	return s.machine.Err()
}

// stop ends the machine and waits for it. Meanwhile this process leaves the VM's control group; an
// error of that is Close's, which tries no more than it.
func (s *Sandbox) stop() error {
	ctx, cancel := context.WithTimeout(context.Background(), stopTimeout)
	defer cancel()
	left := make(chan struct{})
	go func() {
		defer close(left)
		_ = s.group.Leave()
	}()
	err := s.machine.Stop(ctx)
	<-left
	return err
}

// AllowsShell tells whether the host's operator may run programs in the guest.
func (p *Prepared) AllowsShell() bool { return p.platform.Shell }

// HostMounts is containerd's mount namespace.
func (p *Prepared) HostMounts() mountns.Namespace { return p.platform.Mounts }
