package pod

import "context"

// Leave is the end of a membership. With its owner the pod ends. The container has nothing
// of the VM any more.
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
	return p.End(ctx)
}

// End ends the VM in order: what still runs in it is killed, its data is written back, and
// nothing on the host is in use any more when it returns. A boot that is under way is ended,
// too, and a pod in which nothing was prepared has ended with that: it gets no VM any more.
// End may be called again, and at the same time: who comes later waits for the end.
func (p *Pod) End(ctx context.Context) error {
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
	p.endMembers(context.WithoutCancel(ctx))
	return p.close()
}

// endMembers ends the members, all at once: they are killed, and write their data back.
// When the guest's time for that is over, the VM goes as it is.
func (p *Pod) endMembers(ctx context.Context) {
	place := p.Place()
	if place == nil {
		return
	}
	ctx, cancel := context.WithTimeout(ctx, place.Budgets().Prompt)
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

// close takes the VM and its place away. Its members know of it when anyone does: what they
// ran can be deleted from then on.
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

// checkEmpty tells when nobody needs the shim any more.
func (p *Pod) checkEmpty() {
	state := p.State()
	if (state == Gone || state == New) && !p.Busy() {
		p.empty()
	}
}
