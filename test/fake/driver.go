// Package fake is a machine without a VM: a vm.Driver whose guest is an agent in
// this process. The life of a container, its end, and answers that no honest guest
// gives become unit tests of milliseconds.
//
//	driver := &fake.Driver{}            // the code under test starts machines with it
//	agent := driver.Machines()[0].Agent // what the guest was asked, and what it answers
//
// Without more the agent behaves as containerd's task service for runc does, and its
// containers run the small programs that are described at Programs. A test bends it
// where it needs to:
//
//	agent.On("Kill", fake.Hang)         // this call gets no answer
//	gate := agent.Gate("Create")        // this one stops on its way, until the test lets it go
//	agent.SendEvent(event)              // any event at all
//	machine.Die(nil)                    // the VMM crashes
//
// The streams between host and guest are those of vm/mux over an in-memory connection, with
// the bounds of the real ones. Nothing here waits outside of Go, so that tests may
// run in a bubble of testing/synctest, where 25 seconds pass at once; only the streams
// of sockets and ports (Agent.OpenSocket, Agent.ServePort) need the kernel.
package fake

import (
	"context"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/msb-runtime/containerd-shim-msb/vm"
)

// A Driver is a vm.Driver. The zero value starts machines that boot at once and behave.
// Its fields are set before it is used.
type Driver struct {
	// As is what Name answers, instead of "fake".
	As string
	// Checking is what Check answers; nil: this host can run machines.
	Checking func(context.Context) error
	// Starting is called by Start with the machine's configuration. Its error is Start's;
	// while it does not return, the machine does not run.
	Starting func(context.Context, vm.Config) error
	// Prepare is called by Start with the new machine, before the guest boots: the place
	// to set what its agent does from the first call on.
	Prepare func(*Machine)
	// Boot is the guest's boot; nil: it takes no time.
	Boot Boot
	// Pid is what Machine.Pid answers; 0: this process, so that /proc has it. A test of
	// code that signals the VMM sets the pid of a process to lose.
	Pid int
	// Undying machines do not end when they are stopped, as a VMM that hangs in the
	// kernel does not. They end by Machine.Die.
	Undying bool

	mu       sync.Mutex
	machines []*Machine // guarded by mu
}

var _ vm.Driver = (*Driver)(nil)

// Name implements vm.Driver.
func (d *Driver) Name() string {
	if d.As != "" {
		return d.As
	}
	return "fake"
}

// Check implements vm.Driver.
func (d *Driver) Check(ctx context.Context) error {
	if d.Checking == nil {
		return nil
	}
	return d.Checking(ctx)
}

// Start implements vm.Driver.
func (d *Driver) Start(ctx context.Context, config vm.Config) (vm.Machine, error) {
	if d.Starting != nil {
		if err := d.Starting(ctx, config); err != nil {
			return nil, err
		}
	}
	if ctx.Err() != nil {
		return nil, context.Cause(ctx)
	}
	m := newMachine(config, d.Pid, d.Undying)
	d.mu.Lock()
	d.machines = append(d.machines, m)
	d.mu.Unlock()
	if d.Prepare != nil {
		d.Prepare(m)
	}
	go m.run(d.Boot)
	return m, nil
}

// Machines are all that were started, the oldest first, ended ones too.
func (d *Driver) Machines() []*Machine {
	d.mu.Lock()
	defer d.mu.Unlock()
	return slices.Clone(d.machines)
}

// A Boot is how a guest boots: its agent answers when Boot has returned, and with an
// error the machine dies of it. It returns when ctx ends, which is when the machine does.
type Boot func(ctx context.Context, m *Machine) error

// NeverBoots is the Boot of a guest whose agent never answers.
func NeverBoots(ctx context.Context, _ *Machine) error {
	<-ctx.Done()
	return nil
}

// BootsAfter is a Boot that takes some time.
func BootsAfter(d time.Duration) Boot {
	return func(ctx context.Context, _ *Machine) error {
		pause(ctx, d)
		return nil
	}
}

// BootsWhen is a Boot that ends when told is closed.
func BootsWhen(told <-chan struct{}) Boot {
	return func(ctx context.Context, _ *Machine) error {
		select {
		case <-told:
		case <-ctx.Done():
		}
		return nil
	}
}

// DiesBooting is the Boot of a machine that ends instead.
func DiesBooting(why error) Boot {
	return func(_ context.Context, m *Machine) error {
		m.Die(why)
		return nil
	}
}

// pause waits for d or the end of ctx.
func pause(ctx context.Context, d time.Duration) {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-ctx.Done():
	}
}

// pidOr is pid, or this process's.
func pidOr(pid int) int {
	if pid != 0 {
		return pid
	}
	return os.Getpid()
}
