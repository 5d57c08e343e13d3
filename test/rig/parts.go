package rig

import (
	"context"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/core/events"
	"github.com/containerd/containerd/v2/core/runtime"

	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
	"github.com/msb-runtime/containerd-shim-msb/shim/network"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/vm"
	"github.com/msb-runtime/containerd-shim-msb/vm/jail"
)

// Published is what containerd has been told.
type Published struct {
	mu     sync.Mutex
	events []any         // guarded by mu
	held   chan struct{} // not nil: nothing is taken until it is closed; guarded by mu
}

// Hold makes it a containerd that takes no events, until release is called.
func (p *Published) Hold() (release func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	held := make(chan struct{})
	p.held = held
	return func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.held = nil
		close(held)
	}
}

// Publish implements shim.Publisher.
func (p *Published) Publish(_ context.Context, _ string, event events.Event) error {
	p.mu.Lock()
	held := p.held
	p.mu.Unlock()
	if held != nil {
		<-held
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.events = append(p.events, event)
	return nil
}

// Close implements shim.Publisher.
func (p *Published) Close() error { return nil }

// All are the events so far.
func (p *Published) All() []any {
	p.mu.Lock()
	defer p.mu.Unlock()
	return slices.Clone(p.events)
}

// Topics are those of all events, without what they have in common: "create start exit".
func (p *Published) Topics() string {
	var topics []string
	for _, event := range p.All() {
		topics = append(topics, strings.TrimPrefix(runtime.GetTopic(event), "/tasks/"))
	}
	return strings.Join(topics, " ")
}

// Flush waits until all events have gone out.
func (r *Rig) Flush() {
	r.T.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := r.queue.Flush(ctx); err != nil {
		r.T.Error(err)
	}
}

// A Placeholder is a process that is none. Kill ends it as somebody else would.
type Placeholder struct {
	pid    int
	exited chan struct{}
	once   sync.Once
}

// firstPid is the first placeholder's: above what a kernel gives.
const firstPid = 1 << 23

func (r *Rig) startPlaceholder(jail.Program, *jail.Root, *os.File) (sandbox.Process, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	stand := &Placeholder{pid: firstPid + len(r.stands), exited: make(chan struct{})}
	r.stands = append(r.stands, stand)
	return stand, nil
}

// Placeholders are all that were started, the oldest first.
func (r *Rig) Placeholders() []*Placeholder {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.stands)
}

// Pid implements sandbox.Process.
func (p *Placeholder) Pid() int { return p.pid }

// Exited implements sandbox.Process.
func (p *Placeholder) Exited() <-chan struct{} { return p.exited }

// End implements sandbox.Process.
func (p *Placeholder) End(time.Duration) { p.Kill() }

// Kill ends it.
func (p *Placeholder) Kill() { p.once.Do(func() { close(p.exited) }) }

// noNetwork is one without interfaces.
type noNetwork struct{}

func (noNetwork) VM() vm.Network                              { return vm.Network{} }
func (noNetwork) Follow(context.Context, network.Guest) error { return nil }
func (noNetwork) Sync(context.Context, network.Guest) error   { return nil }
func (noNetwork) Move(mountns.Namespace, string) error        { return nil }
func (noNetwork) Close() error                                { return nil }
