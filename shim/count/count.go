// Package count is what a shim has done, in numbers, for msbctl metrics. A shim is one process,
// and so are its counters. They are on whether or not anybody reads them: an addition for each.
package count

import (
	"context"
	"sync/atomic"
	"time"
)

// phases are those of shim/trace, which adds to them.
var phases = map[string]*struct{ count, nanoseconds atomic.Uint64 }{
	"shim start": {}, "share": {}, "network": {}, "VMM start": {}, "guest boot": {}, "spare": {},
	"hand over": {}, "hooks": {}, "start": {}, "drain": {}, "delete in the guest": {}, "remove": {}, "leave": {},
}

var (
	exits    [2][Result_LOST + 1]atomic.Uint64 // by whether it is an exec, and by result
	overruns atomic.Uint64
)

// AddPhase counts a phase that has ended.
func AddPhase(name string, took time.Duration) {
	if p := phases[name]; p != nil {
		p.count.Add(1)
		p.nanoseconds.Add(uint64(max(took, 0)))
	}
}

// IsPhase tells whether a phase is one that is counted.
func IsPhase(name string) bool { return phases[name] != nil }

// AddExit counts the end of a process.
func AddExit(exec bool, result Result) { exits[index(exec)][result].Add(1) }

// AddOverrun counts a call that a guest has not answered within its budget.
func AddOverrun() { overruns.Add(1) }

// Read is all that was counted.
func Read(context.Context, *ReadRequest) (*Counts, error) {
	counts := &Counts{Phases: map[string]*Phase{}, Overruns: overruns.Load()}
	for name, p := range phases {
		if n := p.count.Load(); n > 0 {
			counts.Phases[name] = &Phase{Count: n, Nanoseconds: p.nanoseconds.Load()}
		}
	}
	for _, exec := range []bool{false, true} {
		for result := range exits[index(exec)] {
			counts.Exits = append(counts.Exits, &Exits{Exec: exec, Result: Result(result), Count: exits[index(exec)][result].Load()})
		}
	}
	return counts, nil
}

func index(exec bool) int {
	if exec {
		return 1
	}
	return 0
}
