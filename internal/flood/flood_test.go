package flood

import (
	"testing"
	"time"
)

func TestGate(t *testing.T) {
	g, now := NewGate(100, 10), time.Now()
	for i, step := range []struct {
		wait    time.Duration
		cost    int
		dropped int
		ok      bool
	}{
		{0, 101, 0, false}, // more than it ever holds
		{0, 60, 1, true},
		{0, 50, 0, false},
		{0, 1, 1, true}, // 40 are left, which is more than a second brings
		{0, 39, 0, true},
		{0, 1, 0, false}, // empty
		{time.Second / 2, 1, 0, false},
		{time.Second / 2, 1, 2, true},
		{0, 9, 0, true},
		{0, 1, 0, false},
		{time.Hour, 100, 1, true}, // full, and no fuller
		{0, 1, 0, false},
	} {
		now = now.Add(step.wait)
		if dropped, ok := g.Pass(now, step.cost); dropped != step.dropped || ok != step.ok {
			t.Errorf("step %d: Pass = %d, %v", i, dropped, ok)
		}
	}
}

// Whatever comes, no more passes than the bucket holds and gets back, and a count
// at most once a second.
func TestGateFlood(t *testing.T) {
	const burst, perSecond, seconds = 200, 20, 60
	g, now := NewGate(burst, perSecond), time.Now()
	passed, counts, told, calls := 0, 0, 0, 0
	for range seconds * 1000 {
		for range 10 {
			calls++
			dropped, ok := g.Pass(now, 1)
			if ok {
				passed++
			}
			if dropped > 0 {
				counts++
				told += dropped
			}
		}
		now = now.Add(time.Millisecond)
	}
	if limit := burst + perSecond*seconds; passed > limit || passed < limit-perSecond {
		t.Errorf("%d of %d passed, the limit is %d", passed, calls, limit)
	}
	if counts > seconds {
		t.Errorf("%d counts in %d seconds", counts, seconds)
	}
	if dropped, ok := g.Pass(now.Add(time.Minute), 1); !ok || passed+told+dropped != calls {
		t.Errorf("%d passed and %d were counted, of %d", passed, told+dropped, calls)
	}
}
