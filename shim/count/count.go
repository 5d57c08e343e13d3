// Package count is what the shims of this host have done, in numbers, for msbctl metrics. All of
// them add to one file, which each has mapped: a sum over all since the host's boot, which outlives
// every shim. They are on whether or not anybody reads them.
//
//	count.go    what is counted
//	layout.go   the file: its counters, and the tables of their labels
//	file.go     the file is made, mapped and read
package count

import (
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/errdefs"
)

// A VM is how a start came to its VM.
type VM int

// The ways. The zero VM is none: the start has not come so far.
const (
	NoVM   VM = iota
	Cold      // it boots, and spares are off
	Spare     // it had booted before it was needed
	Missed    // it boots: spares are on, and there was none that fits
	Joined    // it is the pod's
)

// A Result is how a process has ended.
type Result int

// The results.
const (
	Success Result = iota // status 0
	Failure               // another status
	Lost                  // it has ended with its VM
)

// SetDriver says which driver has started this process' VM: one for all, as a shim has one VM.
func SetDriver(name string) {
	driver.Store(int32(max(slices.Index(drivers[:], name), 0)))
	early.count(true)
}

var driver atomic.Int32 // of drivers

// early are the phases that ended before there was a driver: shim start, the first share, network.
// They are counted with it, or with none when the start ends without one.
var early waiting

// waiting are phases that wait to be counted.
type waiting struct {
	mu    sync.Mutex
	over  bool                      // there is a driver; guarded by mu
	n     int                       // guarded by mu
	ended [2 * len(phases)]struct { // guarded by mu
		phase int
		took  time.Duration
	}
}

// add keeps a phase, and tells whether it has: not when none is early any more, nor any number.
func (w *waiting) add(phase int, took time.Duration) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.over || w.n == len(w.ended) {
		return false
	}
	w.ended[w.n].phase, w.ended[w.n].took = phase, took
	w.n++
	return true
}

// count counts what waits. From the last time on nothing does.
func (w *waiting) count(last bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.over = w.over || last
	for _, ended := range w.ended[:w.n] {
		addPhase(ended.phase, ended.took)
	}
	w.n = 0
}

// AddPhase counts a phase that has ended. A name that is none of the table's is not counted.
func AddPhase(name string, took time.Duration) {
	phase := slices.Index(phases[:], name)
	if phase < 0 {
		return
	}
	took = max(took, 0) // a clock that was set back
	if early.add(phase, took) {
		return
	}
	addPhase(phase, took)
}

func addPhase(phase int, took time.Duration) {
	bucket := 0
	for bucket < len(bounds) && took > bounds[bucket] {
		bucket++
	}
	add(func(p *page) {
		h := &p.phases[phase][driver.Load()]
		h.nanoseconds.Add(uint64(took))
		h.buckets[bucket].Add(1)
	})
}

// AddStart counts the start of a container, or of a sandbox of the Sandbox API, whose VM was to be
// booted or joined, once it has succeeded or failed.
func AddStart(vm VM, succeeded bool) {
	if vm == NoVM {
		return
	}
	early.count(false)
	add(func(p *page) { p.starts[driver.Load()][vm-1][index(!succeeded)].Add(1) })
}

// AddRefusal counts a start that was refused before a VM was booted or joined.
func AddRefusal(err error) {
	early.count(false)
	class := classOf(err)
	add(func(p *page) { p.refusals[class].Add(1) })
}

// AddExit counts the end of a process that containerd was told of.
func AddExit(exec bool, result Result) { add(func(p *page) { p.exits[index(exec)][result].Add(1) }) }

// AddStreamRefused counts a stream of a guest's that was refused; the guest goes on.
func AddStreamRefused(err error) {
	class := classOf(err)
	add(func(p *page) { p.streams[class].Add(1) })
}

// AddOverrun counts a call that a guest has not answered within its budget. It loses its VM.
func AddOverrun() { add(func(p *page) { p.overruns.Add(1) }) }

// AddViolation counts a guest that has sent what no agent does. It loses its VM.
func AddViolation() { add(func(p *page) { p.violations.Add(1) }) }

func index(yes bool) int {
	if yes {
		return 1
	}
	return 0
}

// classOf is an error's class, as the edge tells it to containerd: of classes.
func classOf(err error) int {
	if class := slices.Index(classes[:], errdefs.Resolve(err).Error()); class >= 0 {
		return class
	}
	return len(classes) - 1
}
