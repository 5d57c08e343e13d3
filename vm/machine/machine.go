// Package machine is what the machines of all drivers have in common: the life
// of the VMM's processes and the byte streams to the agent.
package machine

import (
	"context"
	"errors"
	"fmt"
	"net"
	"path/filepath"
	"sync"
	"time"

	"github.com/containerd/errdefs"

	"github.com/msb-runtime/containerd-shim-msb/vm"
	"github.com/msb-runtime/containerd-shim-msb/vm/jail"
	"github.com/msb-runtime/containerd-shim-msb/vm/mux"
)

const (
	// serverGrace is how long a file server may take to end after its VMM.
	serverGrace = 2 * time.Second
	// together is how far apart two processes may be seen to end that ended
	// together.
	together = 100 * time.Millisecond
	// parting is how long a VMM may take to end after the connection to its guest.
	parting = 5 * time.Second
)

// A Process is one of a machine's, with its console.
type Process struct {
	*jail.Process
	Console *vm.Console
	Name    string // of the program
}

// Parts are the running parts of a machine.
type Parts struct {
	// VMM is the process that is the machine.
	VMM Process
	// Servers are processes that the VMM cannot do without.
	Servers []Process
	// Connect returns the one connection to the agent, over which the streams go.
	// It is called once and may wait for the guest to boot; it returns when Done is
	// closed at the latest.
	Connect func(done <-chan struct{}) (net.Conn, error)
}

// Machine implements vm.Machine.
type Machine struct {
	parts Parts

	linked  chan struct{} // closed when session or linkErr is set
	session *mux.Session  // readable after linked
	linkErr error         // readable after linked
	cut     chan error    // receives why the session has ended

	done     chan struct{} // closed when the VMM has ended and err is set
	err      error         // why; readable after done
	stopping sync.Once
	stopped  chan struct{} // closed when somebody asked for the end
}

var _ vm.Machine = (*Machine)(nil)

// Run watches over the parts, which it owns from now on.
func Run(parts Parts) *Machine {
	m := &Machine{
		parts: parts, linked: make(chan struct{}), cut: make(chan error, 1),
		done: make(chan struct{}), stopped: make(chan struct{}),
	}
	go m.link()
	go m.watch()
	return m
}

func (m *Machine) link() {
	defer close(m.linked)
	conn, err := m.parts.Connect(m.parts.VMM.Exited())
	if err != nil {
		m.linkErr = fmt.Errorf("connecting to the agent: %w (%w)", err, errdefs.ErrUnavailable)
		return
	}
	m.session = mux.Host(conn)
	go func() {
		<-m.session.Done()
		m.cut <- m.session.Err()
	}()
}

// watch ends the machine when the VMM ends, for whatever reason, and when a file
// server or the connection to the agent does: the guest would only hang.
func (m *Machine) watch() {
	var cause error
	broken := make(chan Process, len(m.parts.Servers))
	for _, server := range m.parts.Servers {
		go func() {
			<-server.Exited()
			broken <- server
		}()
	}
	select {
	case <-m.parts.VMM.Exited():
		cause = m.parts.VMM.diagnose()
	case server := <-broken:
		// A file server also ends, rightly, just after its VMM did.
		select {
		case <-m.parts.VMM.Exited():
			cause = m.parts.VMM.diagnose()
		case <-time.After(together):
			cause = server.diagnose()
			m.parts.VMM.Kill()
			<-m.parts.VMM.Exited()
		}
	case err := <-m.cut:
		cause = m.part(err)
	}
	<-m.linked
	if m.session != nil {
		m.session.Close()
	}
	for _, server := range m.parts.Servers {
		server.End(serverGrace)
	}
	select {
	case <-m.stopped:
	default:
		m.err = cause
	}
	close(m.done)
}

// part ends a VMM whose guest is no longer connected, and tells why.
func (m *Machine) part(err error) error {
	if !errors.Is(err, mux.ErrViolation) {
		// The connection also ends, rightly, just before its VMM does.
		select {
		case <-m.parts.VMM.Exited():
			return m.parts.VMM.diagnose()
		case <-time.After(parting):
		}
	}
	m.parts.VMM.Kill()
	<-m.parts.VMM.Exited()
	return fmt.Errorf("%s was ended because its guest was cut off: %w; the last lines of its console: %s: %w",
		m.parts.VMM.name(), err, m.parts.VMM.Console.Last(), errdefs.ErrUnavailable)
}

// diagnose is called when the process has ended, so its output is complete.
func (p Process) diagnose() error {
	return fmt.Errorf("%s ended (%s); the last lines of its console: %s: %w",
		p.name(), p.State(), p.Console.Last(), errdefs.ErrUnavailable)
}

func (p Process) name() string { return filepath.Base(p.Name) }

// awaitLink waits for the agent to be connected.
func (m *Machine) awaitLink(ctx context.Context) error {
	select {
	case <-m.linked:
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if m.linkErr != nil {
		return m.explain(m.linkErr)
	}
	return nil
}

// Dial implements vm.Machine.
func (m *Machine) Dial(ctx context.Context) (net.Conn, error) {
	if err := m.awaitLink(ctx); err != nil {
		return nil, err
	}
	stream, err := m.session.Open()
	if err != nil {
		return nil, m.explain(fmt.Errorf("opening a stream to the agent: %w (%w)", err, errdefs.ErrUnavailable))
	}
	return stream, nil
}

// Accept implements vm.Machine.
func (m *Machine) Accept(ctx context.Context) (net.Conn, error) {
	if err := m.awaitLink(ctx); err != nil {
		return nil, err
	}
	stream, err := m.session.AcceptContext(ctx)
	if err != nil {
		return nil, m.explain(err)
	}
	return stream, nil
}

// explain replaces the error of a machine that is known dead by the reason.
func (m *Machine) explain(err error) error {
	select {
	case <-m.done:
		if m.err != nil {
			return m.err
		}
	default:
	}
	return err
}

// Pid implements vm.Machine.
func (m *Machine) Pid() int { return m.parts.VMM.Pid() }

// Done implements vm.Machine.
func (m *Machine) Done() <-chan struct{} { return m.done }

// Err implements vm.Machine.
func (m *Machine) Err() error {
	select {
	case <-m.done:
		return m.err
	default:
		return nil
	}
}

// Stop implements vm.Machine.
func (m *Machine) Stop(ctx context.Context) error {
	m.stopping.Do(func() { close(m.stopped) })
	m.parts.VMM.Kill()
	select {
	case <-m.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the VMM, process %d, to end: %w", m.Pid(), ctx.Err())
	}
}
