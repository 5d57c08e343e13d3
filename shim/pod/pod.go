// Package pod says who is in a VM. A pod is one VM and its members, the containers; a
// single container is a pod of one. Its life is a line:
//
//	New        nothing is there
//	Prepared   the VM has its place on the host, and things can be shared with it
//	Booting    the VM starts
//	Running    its agent answers: others may join
//	Ending     what runs in it is ended, in order
//	Gone       nothing of it is left on the host
//
// A pod has an owner: the container that it was made for, or a sandbox of the Sandbox API.
// The VM is ended in order when the owner leaves or its sandbox is stopped, and when the
// shim ends. Members that are left then stay until their clients delete them.
package pod

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
)

// A State is a point of a pod's life.
type State int

// The states, in their order.
const (
	New State = iota
	Prepared
	Booting
	Running
	Ending
	Gone
)

// agentGrace is how long a VM may live on when its agent's events have ended. Often they
// end because the VM does, and are only noticed first.
const agentGrace = time.Second

// A Member is a container in a pod.
type Member interface {
	// End ends the member in the VM, and takes back what it has of the host. It is called
	// when the pod ends with the member in it. ctx bounds how long the guest may take.
	End(ctx context.Context)
	// Lost is called when the VM has ended with the member in it, and may be called again,
	// also at the same time.
	Lost()
}

// A Pod may be used concurrently.
type Pod struct {
	ctx    context.Context // the shim's
	follow func(*sandbox.Sandbox)
	empty  func()

	mu       sync.Mutex
	state    State              // guarded by mu
	id       string             // of the sandbox, empty for a container by itself; guarded by mu
	owner    string             // id of the member that owns it; guarded by mu
	held     bool               // a sandbox of the Sandbox API owns it; guarded by mu
	holder   Holder             // guarded by mu
	prepared *sandbox.Prepared  // nil before Prepared; guarded by mu
	sandbox  *sandbox.Sandbox   // nil before Running; guarded by mu
	members  map[string]Member  // guarded by mu
	stopBoot context.CancelFunc // guarded by mu
	booted   chan struct{}      // closed when booting is over; guarded by mu
	gone     chan struct{}      // closed when it is Gone
}

// A Holder is the process that holds the namespaces which a pod's containers share.
type Holder struct {
	// Pid is the placeholder's, on the host; Guest the process in the guest.
	Pid, Guest uint32
}

// A Make says what a new pod calls.
type Make struct {
	// Follow follows what happens in a VM, from its boot on, until its agent is gone.
	Follow func(*sandbox.Sandbox)
	// Empty is called when there is no VM and nobody needs the shim: no member is left, and
	// no sandbox holds the pod. It may be called more than once, and must not wait.
	Empty func()
}

// Open returns a new pod. ctx ends with the shim.
func Open(ctx context.Context, how Make) *Pod {
	return &Pod{ctx: ctx, follow: how.Follow, empty: how.Empty, members: map[string]Member{}, gone: make(chan struct{})}
}

// Add makes a container a member. Its id is taken until Leave.
func (p *Pod) Add(id string, member Member) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.members[id] != nil {
		return fmt.Errorf("task %s: %w", id, errdefs.ErrAlreadyExists)
	}
	p.members[id] = member
	return nil
}

// Member returns a container, or nil.
func (p *Pod) Member(id string) Member {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.members[id]
}

// Members are all containers.
func (p *Pod) Members() []Member {
	p.mu.Lock()
	defer p.mu.Unlock()
	members := make([]Member, 0, len(p.members))
	for _, member := range p.members {
		members = append(members, member)
	}
	return members
}

// Hold makes a sandbox of the Sandbox API the owner of a new pod, until Release.
func (p *Pod) Hold(id string) error {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.held {
		return fmt.Errorf("sandbox %s: %w", p.id, errdefs.ErrAlreadyExists)
	}
	if p.state != New {
		return p.taken()
	}
	p.id, p.held = id, true
	return nil
}

// Release undoes Hold. The pod must have ended, or never have been prepared.
func (p *Pod) Release() {
	p.mu.Lock()
	p.held = false
	p.mu.Unlock()
	p.checkEmpty()
}

// Held tells whether a sandbox of the Sandbox API owns the pod.
func (p *Pod) Held() bool { return p.HeldBy() != "" }

// HeldBy is the id of the sandbox of the Sandbox API that owns the pod, or empty.
func (p *Pod) HeldBy() string {
	p.mu.Lock()
	defer p.mu.Unlock()
	if !p.held {
		return ""
	}
	return p.id
}

// Prepare makes the place of the VM on the host, by calling prepare. id is the sandbox's,
// and empty for a container by itself. owner is the id of the member that owns the pod, and
// empty for a pod that a sandbox holds.
func (p *Pod) Prepare(id, owner string, prepare func() (*sandbox.Prepared, error)) (*sandbox.Prepared, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.state != New || p.held != (owner == "") {
		return nil, p.taken()
	}
	prepared, err := prepare()
	if err != nil {
		return nil, err
	}
	p.state, p.id, p.owner, p.prepared = Prepared, id, owner, prepared
	return prepared, nil
}

func (p *Pod) taken() error {
	if p.state >= Ending {
		return p.ended()
	}
	return fmt.Errorf("this shim has a microVM already, which only containers of its pod can join: %w", errdefs.ErrFailedPrecondition)
}

// Boot boots the VM, by calling boot, and follows it from then on. The context that boot
// gets ends early if the pod is to end.
func (p *Pod) Boot(ctx context.Context, boot func(context.Context, *sandbox.Prepared) (*sandbox.Sandbox, error)) (*sandbox.Sandbox, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	p.mu.Lock()
	if p.state != Prepared {
		defer p.mu.Unlock()
		return nil, p.notPrepared()
	}
	booted := make(chan struct{})
	p.state, p.stopBoot, p.booted = Booting, cancel, booted
	prepared := p.prepared
	p.mu.Unlock()

	defer close(booted)
	sb, err := boot(ctx, prepared)
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case p.state != Booting:
		return nil, fmt.Errorf("%w, while it was being started", p.ended())
	case err != nil:
		return nil, err // the caller ends the pod
	}
	p.state, p.sandbox = Running, sb
	go p.watch(sb)
	return sb, nil
}

func (p *Pod) notPrepared() error {
	if p.state > Running {
		return p.ended()
	}
	return fmt.Errorf("the VM was started before: %w", errdefs.ErrFailedPrecondition)
}

func (p *Pod) ended() error {
	return fmt.Errorf("the VM was stopped: %w", errdefs.ErrFailedPrecondition)
}

// watch follows the VM to its end, and tells the members of it.
func (p *Pod) watch(sb *sandbox.Sandbox) {
	p.follow(sb)
	select {
	case <-sb.Done():
	case <-time.After(agentGrace):
		// Without its agent a guest is of no use. If the pod ends, the agent was let go of in
		// order, and the VM goes with the pod.
		if p.State() < Ending {
			sb.End(fmt.Errorf("the agent is gone: %w", errdefs.ErrUnavailable))
		}
		<-sb.Done()
	}
	if err := sb.Err(); err != nil {
		log.G(p.ctx).WithError(err).Error("the VM ended")
	}
	p.tellMembers()
	if p.Held() {
		if err := p.End(p.ctx); err != nil {
			log.G(p.ctx).WithError(err).Error("cleaning up after the end of a VM")
		}
	}
}

// Sandbox returns the running VM, or an error that says what became of it.
func (p *Pod) Sandbox() (*sandbox.Sandbox, error) {
	p.mu.Lock()
	sb := p.sandbox
	p.mu.Unlock()
	if sb == nil {
		return nil, fmt.Errorf("the VM is gone: %w", errdefs.ErrUnavailable)
	}
	return sb, sb.Guest.Alive()
}

// Place is the VM's place on the host, whether the VM runs or not. It is nil before Prepare
// and when the pod is gone.
func (p *Pod) Place() *sandbox.Prepared {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.prepared
}

// Join returns the running VM for a container that joins the pod of a sandbox, which id
// names.
func (p *Pod) Join(id string) (*sandbox.Sandbox, error) {
	sb, err := p.Sandbox()
	p.mu.Lock()
	defer p.mu.Unlock()
	if err == nil && p.id != id {
		err = errors.New("this shim runs another")
	}
	if err == nil && p.state != Running {
		err = p.ended()
	}
	if err != nil {
		return nil, fmt.Errorf("the sandbox %s of the container's pod does not run, create the pod anew: %v: %w", id, err, errdefs.ErrFailedPrecondition)
	}
	return sb, nil
}

// SetHolder notes who holds the namespaces that the pod's containers share.
func (p *Pod) SetHolder(holder Holder) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.holder = holder
}

// Holder is the process that SetHolder has noted; zero if there is none.
func (p *Pod) Holder() Holder {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.holder
}

// State is where in its life the pod is.
func (p *Pod) State() State {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.state
}

// Gone is closed when nothing of the VM is left.
func (p *Pod) Gone() <-chan struct{} { return p.gone }

// SharedMemory is the size in bytes of a pod's /dev/shm where nobody says, as with
// containerd's CRI plugin.
const SharedMemory = 64 << 20
