package fake

import (
	"context"
	"sync"
)

// A Gate holds calls up, so that a test does something else at that moment.
type Gate struct {
	agent   *Agent
	arrived chan *Call
	passes  chan struct{}
	open    chan struct{}
	once    sync.Once
}

// gateRoom is how many calls a gate can tell of, and how many passes it can hold.
const gateRoom = 1024

// Gate holds up every call of a name (see On) before the agent does anything.
func (a *Agent) Gate(name string) *Gate { return a.gate(name, a.before) }

// GateAfter holds up every call of a name when the agent has done it, before it answers.
func (a *Agent) GateAfter(name string) *Gate { return a.gate(name, a.after) }

func (a *Agent) gate(name string, where map[string][]*Gate) *Gate {
	name = resolve(name)
	g := &Gate{
		agent: a, arrived: make(chan *Call, gateRoom),
		passes: make(chan struct{}, gateRoom), open: make(chan struct{}),
	}
	a.mu.Lock()
	defer a.mu.Unlock()
	where[name] = append(where[name], g)
	return g
}

// Arrived has each call that has come to the gate.
func (g *Gate) Arrived() <-chan *Call { return g.arrived }

// Wait waits for a call to have come to the gate. It fails when ctx or the machine ends.
func (g *Gate) Wait(ctx context.Context) (*Call, error) {
	select {
	case call := <-g.arrived:
		return call, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-g.agent.life().Done():
		return nil, errEnded
	}
}

// Pass lets one call go on: one that is waiting, or the next.
func (g *Gate) Pass() { g.passes <- struct{}{} }

// Open lets all calls go on, now and later.
func (g *Gate) Open() { g.once.Do(func() { close(g.open) }) }

// hold returns when the call may go on, or the machine has ended.
func (g *Gate) hold(call *Call) {
	select {
	case <-g.open:
		return
	default:
	}
	select {
	case g.arrived <- call:
	default: // told of enough
	}
	select {
	case <-g.passes:
	case <-g.open:
	case <-g.agent.life().Done():
	}
}
