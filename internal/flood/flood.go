// Package flood limits what may come in a flood: a bounded part of it passes, the
// rest is dropped and counted.
package flood

import "time"

// A Gate is a token bucket. At first, and after a quiet time, as many tokens pass
// at once as it holds; then, as many a second as are refilled. Once it has dropped
// something it drops everything until the refill of one second has gathered. So a
// flood shows as a few pieces and one count each second, not as a count after each
// piece. It is not for use by several goroutines at once.
type Gate struct {
	burst, perSecond float64

	tokens  float64
	filled  time.Time // when tokens was right; zero before the first use
	dropped int
}

// NewGate returns a full Gate that holds burst tokens and gets perSecond back each
// second.
func NewGate(burst, perSecond int) *Gate {
	return &Gate{burst: float64(burst), perSecond: float64(perSecond), tokens: float64(burst)}
}

// Pass takes the tokens that something costs and reports whether it may pass. If so,
// dropped is how many were dropped since the last that did.
func (g *Gate) Pass(now time.Time, cost int) (dropped int, ok bool) {
	if !g.filled.IsZero() {
		g.tokens = min(g.burst, g.tokens+now.Sub(g.filled).Seconds()*g.perSecond)
	}
	g.filled = now
	need := float64(cost)
	if g.dropped > 0 {
		need = max(need, min(g.burst, g.perSecond))
	}
	if g.tokens < need {
		g.dropped++
		return 0, false
	}
	dropped, g.dropped = g.dropped, 0
	g.tokens -= float64(cost)
	return dropped, true
}
