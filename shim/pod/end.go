package pod

import (
	"context"
	"time"
)

// Leave ends the membership of a container, which has given back all that it had of the VM.
// When the owner leaves, the pod ends; a deadline of ctx is for what the guest still has to do
// for the other members.
func (p *Pod) Leave(ctx context.Context, id string) error {
	p.mu.Lock()
	_, present := p.members[id]
	delete(p.members, id)
	owner := present && p.owner == id && p.state != New
	p.mu.Unlock()
	defer p.checkEmpty()
	if !owner {
		return nil
	}
	deadline, _ := ctx.Deadline()
	return p.end(context.WithoutCancel(ctx), deadline)
}

// End ends the VM in order: what still runs in it is killed, and its data is written back.
// When End returns, nothing on the host is in use any more. A boot that is under way is
// ended, too. A pod that was never prepared is gone at once, and gets no VM any more. End may
// be called more than once, also at the same time: later calls wait for the first.
func (p *Pod) End(ctx context.Context) error { return p.end(ctx, time.Time{}) }

// end is End, before a deadline if there is one.
func (p *Pod) end(ctx context.Context, deadline time.Time) error {
	p.mu.Lock()
	if p.state >= Ending {
		p.mu.Unlock()
		select {
		case <-p.gone:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}
	booting := p.state == Booting
	p.state = Ending
	p.mu.Unlock()
	if booting {
		p.stopBoot()
		<-p.booted
	}
	p.endMembers(context.WithoutCancel(ctx), deadline)
	return p.close()
}

// endMembers ends the members, all at once: they are killed, and write their data back.
// When the guest's time for that is over, the VM goes as it is.
func (p *Pod) endMembers(ctx context.Context, deadline time.Time) {
	place := p.Place()
	if place == nil {
		return
	}
	if latest := time.Now().Add(place.Budgets().Prompt); deadline.IsZero() || deadline.After(latest) {
		deadline = latest
	}
	ctx, cancel := context.WithDeadline(ctx, deadline)
	defer cancel()
	ended := make(chan struct{})
	members := p.Members()
	for _, member := range members {
		go func() {
			member.End(ctx)
			ended <- struct{}{}
		}()
	}
	for range members {
		<-ended
	}
}

// close takes the VM and its place away. The members are told before anyone can see that the
// pod is gone: what ran in them can be deleted by then.
func (p *Pod) close() error {
	p.mu.Lock()
	prepared, booted := p.prepared, p.sandbox != nil
	p.mu.Unlock()
	var err error
	if prepared != nil {
		err = prepared.Close()
	}
	if booted {
		p.tellMembers()
	}
	p.mu.Lock()
	p.state, p.prepared, p.sandbox = Gone, nil, nil
	close(p.gone)
	p.mu.Unlock()
	p.checkEmpty()
	return err
}

// tellMembers tells the members that the VM has ended.
func (p *Pod) tellMembers() {
	for _, member := range p.Members() {
		member.Lost()
	}
}

// Busy tells whether somebody still needs the shim: a member, or a sandbox that holds it.
func (p *Pod) Busy() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.members) > 0 || p.held
}

// checkEmpty calls empty if there is no VM and nobody needs the shim.
func (p *Pod) checkEmpty() {
	state := p.State()
	if (state == Gone || state == New) && !p.Busy() {
		p.empty()
	}
}
