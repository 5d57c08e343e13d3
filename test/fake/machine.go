package fake

import (
	"context"
	"fmt"
	"net"
	"sync"

	"github.com/containerd/errdefs"

	"github.com/msb-runtime/containerd-shim-msb/vm"
)

// A Machine is a vm.Machine whose VMM is nothing and whose guest is Agent. Its
// behaviour to the outside is that of vm/machine.
type Machine struct {
	// Agent is its guest.
	Agent *Agent

	config  vm.Config
	pid     int
	undying bool

	life   context.Context // ends with the machine
	end    context.CancelFunc
	linked chan struct{} // closed when link is set, or will never be
	link   *link         // readable after linked; nil if the machine ended before

	ending sync.Once
	done   chan struct{} // closed when everything of the machine is closed
	err    error         // why it ended; readable after done
}

var _ vm.Machine = (*Machine)(nil)

func newMachine(config vm.Config, pid int, undying bool) *Machine {
	m := &Machine{
		config: config, pid: pidOr(pid), undying: undying,
		linked: make(chan struct{}), done: make(chan struct{}),
	}
	m.life, m.end = context.WithCancel(context.Background())
	m.Agent = newAgent(m)
	return m
}

// run boots the guest and connects it.
func (m *Machine) run(boot Boot) {
	defer close(m.linked)
	if boot != nil {
		if err := boot(m.life, m); err != nil {
			m.Die(err)
		}
	}
	if m.life.Err() != nil {
		return
	}
	m.link = newLink()
	m.Agent.begin(m.link)
	go m.watch(m.link)
}

// watch ends the machine when the connection to its guest breaks.
func (m *Machine) watch(link *link) {
	select {
	case <-link.broken():
		m.Die(fmt.Errorf("fake was ended because its guest was cut off: %w; the last lines of its console: %s: %w",
			link.cause(), m.consoleTail(), errdefs.ErrUnavailable))
	case <-m.life.Done():
	}
}

// Config is what the machine was started with.
func (m *Machine) Config() vm.Config { return m.config }

// Die ends the machine as a crash of its VMM: every connection breaks and Err is why,
// nil for an error like a real machine's. It returns at once; Done tells when all of it
// is over. The end that comes first counts.
func (m *Machine) Die(why error) {
	if why == nil {
		why = fmt.Errorf("fake ended (killed); the last lines of its console: %s: %w", m.consoleTail(), errdefs.ErrUnavailable)
	}
	m.finish(why)
}

func (m *Machine) consoleTail() string {
	if m.config.Console == nil {
		return "(none)"
	}
	return m.config.Console.Last()
}

func (m *Machine) finish(why error) {
	m.ending.Do(func() {
		m.err = why
		m.end()
		go func() {
			<-m.linked
			if m.link != nil {
				m.link.close()
			}
			close(m.done)
		}()
	})
}

// awaitLink waits for the guest to have booted, as vm.Machine's streams do.
func (m *Machine) awaitLink(ctx context.Context) error {
	select {
	case <-m.linked:
	case <-m.life.Done():
	case <-ctx.Done():
		return context.Cause(ctx)
	}
	if m.life.Err() != nil {
		return m.explain(fmt.Errorf("connecting to the agent: the machine has ended: %w", errdefs.ErrUnavailable))
	}
	return nil
}

// explain replaces the error of a machine that is known dead by the reason.
func (m *Machine) explain(err error) error {
	if why := m.Err(); why != nil {
		return why
	}
	return err
}

// Dial implements vm.Machine.
func (m *Machine) Dial(ctx context.Context) (net.Conn, error) {
	if err := m.awaitLink(ctx); err != nil {
		return nil, err
	}
	stream, err := m.link.dial()
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
	stream, err := m.link.accept(ctx)
	if err != nil {
		return nil, m.explain(err)
	}
	return stream, nil
}

// Pid implements vm.Machine.
func (m *Machine) Pid() int { return m.pid }

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
	if !m.undying {
		m.finish(nil)
	}
	select {
	case <-m.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for the VMM, process %d, to end: %w", m.pid, ctx.Err())
	}
}
