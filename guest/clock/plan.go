package clock

import "time"

const (
	// interval is the time between two looks at the host's clock. What drifts most, a host
	// whose clock NTP corrects by 500 ppm, drifts 30 ms meanwhile.
	interval = time.Minute
	// slewing is how long a correction takes at most, and when the next look is then.
	slewing = 10 * time.Second
	// large is the error from which on the clock is set: slewing would take too long.
	large = 500 * time.Millisecond
	// small is an error that a whole interval may take to go.
	small = 10 * time.Millisecond
	// bound is what the error is to stay below.
	bound = 50 * time.Millisecond
	// maxRate is the most that the clock runs faster or slower than it would, as a part
	// of one: a large error within slewing.
	maxRate = float64(large) / float64(slewing)
)

// A sample is one look at the host's clock.
type sample struct {
	// offset is by how much the guest's clock is behind, if the question took as long as
	// the answer. It is wrong by half of the round trip at most.
	offset time.Duration
	// rtt is the round trip's time.
	rtt time.Duration
}

// A correction is what a sample leads to.
type correction struct {
	// step is by how much the clock is set; 0 mostly.
	step time.Duration
	// rate is by which part of one the clock runs faster until the next look.
	rate float64
	// next is the time until then.
	next time.Duration
}

// correct decides. Only what is certainly large is set, and what may be none is not
// corrected at all. Otherwise the clock runs faster or slower, by so much that it agrees at
// the next look: it never goes back.
func (s sample) correct() correction {
	certain := s.offset.Abs() - s.rtt/2
	switch {
	case certain > large:
		return correction{step: s.offset, next: slewing}
	case certain <= 0 && s.rtt/2 <= bound:
		return correction{next: interval}
	case certain <= 0:
		return correction{next: slewing}
	case s.offset.Abs() <= small:
		return correction{rate: rate(s.offset, interval), next: interval}
	}
	return correction{rate: rate(s.offset, slewing), next: slewing}
}

// rate is that which makes up for an offset in a time.
func rate(offset, in time.Duration) float64 {
	return min(max(float64(offset)/float64(in), -maxRate), maxRate)
}
