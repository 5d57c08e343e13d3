package mux

import "time"

// A bucket limits how often something happens (a token bucket). It is used by one
// goroutine.
type bucket struct {
	tokens float64
	filled time.Time
	now    func() time.Time
}

func newBucket(now func() time.Time) *bucket {
	return &bucket{tokens: KeepAliveBurst, filled: now(), now: now}
}

// take tells whether it may happen once more now.
func (b *bucket) take() bool {
	now := b.now()
	b.tokens = min(KeepAliveBurst, b.tokens+now.Sub(b.filled).Seconds()*KeepAlivesPerSecond)
	b.filled = now
	if b.tokens < 1 {
		return false
	}
	b.tokens--
	return true
}
