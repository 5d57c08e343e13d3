package count

import (
	"sync/atomic"
	"time"
)

// What follows is the layout of the file, with the tables. Whoever changes any of it, even the
// order of a table, gives it another version: TestLayout says so. Shims of the other version count
// in their own file.
const (
	fileName = "counts-1"
	magic    = "msbcnt-1"
)

// phases are those of shim/trace, which adds to them.
var phases = [...]string{
	"shim start", "share", "network", "VMM start", "guest boot", "spare",
	"hand over", "hooks", "start", "drain", "delete in the guest", "remove", "leave",
}

// drivers are their names, and "none" for starts that ended before a VMM was started.
var drivers = [...]string{"none", "krun", "qemu"}

// bounds are the upper ends of a histogram's buckets. One more is for what takes longer.
var bounds = [...]time.Duration{
	time.Millisecond, 5 * time.Millisecond, 20 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2 * time.Second, 5 * time.Second, 15 * time.Second, time.Minute,
}

var (
	vms       = [...]string{"cold", "spare", "missed", "joined"} // from Cold on
	outcomes  = [...]string{"success", "failure"}
	processes = [...]string{"container", "exec"}
	results   = [...]string{"success", "failure", "lost"} // of Result
)

// classes are those of errors in errdefs' words, which are in the errors' texts, too. The last is
// any other.
var classes = [...]string{
	"invalid argument", "not found", "already exists", "permission denied", "resource exhausted", "failed precondition",
	"not implemented", "unavailable", "context deadline exceeded", "context canceled", "other",
}

// A page is the file. Each of its counters only grows.
type page struct {
	magic      [len(magic)]byte
	overruns   atomic.Uint64
	violations atomic.Uint64
	exits      [len(processes)][len(results)]atomic.Uint64
	starts     [len(drivers)][len(vms)][len(outcomes)]atomic.Uint64
	refusals   [len(classes)]atomic.Uint64
	streams    [len(classes)]atomic.Uint64
	phases     [len(phases)][len(drivers)]histogram
}

// A histogram is of durations. What is in a bucket is in no other.
type histogram struct {
	nanoseconds atomic.Uint64 // of all together
	buckets     [len(bounds) + 1]atomic.Uint64
}

// Counts are all counters, as they are read.
type Counts struct {
	// Phases are those that there were.
	Phases []Phase
	// Starts are by driver, vm and result.
	Starts []Counter
	// Refusals are starts that were refused, by class.
	Refusals []Counter
	// Exits are by process and result.
	Exits []Counter
	// Streams are those of guests that were refused, by class.
	Streams []Counter
	// Overruns are calls that guests have not answered in time, and Violations guests that have
	// sent what no agent does.
	Overruns, Violations uint64
}

// A Counter has the values of its labels.
type Counter struct {
	Labels []string
	Count  uint64
}

// A Phase is how often there was one of a name with a driver.
type Phase struct {
	Name, Driver string
	Count        uint64
	// Buckets are how many took no longer than a time in seconds.
	Buckets map[float64]uint64
	Sum     time.Duration // of all together
}

// counts reads all of them. What is added meanwhile is there or not.
func (p *page) counts() (c Counts) {
	c.Overruns, c.Violations = p.overruns.Load(), p.violations.Load()
	for i := range p.exits {
		for j := range p.exits[i] {
			c.Exits = append(c.Exits, Counter{[]string{processes[i], results[j]}, p.exits[i][j].Load()})
		}
	}
	for i := range p.starts {
		for j := range p.starts[i] {
			for k := range p.starts[i][j] {
				c.Starts = append(c.Starts, Counter{[]string{drivers[i], vms[j], outcomes[k]}, p.starts[i][j][k].Load()})
			}
		}
	}
	for i, class := range classes {
		c.Refusals = append(c.Refusals, Counter{[]string{class}, p.refusals[i].Load()})
		c.Streams = append(c.Streams, Counter{[]string{class}, p.streams[i].Load()})
	}
	for i := range p.phases {
		for j := range p.phases[i] {
			if phase := p.phases[i][j].read(); phase.Count > 0 {
				phase.Name, phase.Driver = phases[i], drivers[j]
				c.Phases = append(c.Phases, phase)
			}
		}
	}
	return c
}

func (h *histogram) read() Phase {
	read := Phase{Buckets: make(map[float64]uint64, len(bounds)), Sum: time.Duration(h.nanoseconds.Load())}
	for i := range h.buckets {
		read.Count += h.buckets[i].Load()
		if i < len(bounds) {
			read.Buckets[bounds[i].Seconds()] = read.Count
		}
	}
	return read
}
