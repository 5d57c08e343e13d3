package clock

import (
	"math"
	"testing"
	"time"
)

func TestCorrect(t *testing.T) {
	const ms = time.Millisecond
	for name, c := range map[string]struct {
		offset, rtt time.Duration
		want        correction
	}{
		"none":                      {0, ms, correction{next: time.Minute}},
		"within the round trip":     {-2 * ms, 5 * ms, correction{next: time.Minute}},
		"small":                     {6 * ms, ms, correction{rate: 0.0001, next: time.Minute}},
		"small, ahead":              {-6 * ms, ms, correction{rate: -0.0001, next: time.Minute}},
		"behind":                    {300 * ms, ms, correction{rate: 0.03, next: 10 * time.Second}},
		"ahead":                     {-300 * ms, ms, correction{rate: -0.03, next: 10 * time.Second}},
		"as much as is slewed":      {-500 * ms, 0, correction{rate: -0.05, next: 10 * time.Second}},
		"large":                     {501 * ms, ms, correction{step: 501 * ms, next: 10 * time.Second}},
		"large, ahead":              {-501 * ms, ms, correction{step: -501 * ms, next: 10 * time.Second}},
		"an hour":                   {-time.Hour, ms, correction{step: -time.Hour, next: 10 * time.Second}},
		"an hour, slow":             {time.Hour, 2 * time.Second, correction{step: time.Hour, next: 10 * time.Second}},
		"perhaps large":             {600 * ms, 400 * ms, correction{rate: 0.05, next: 10 * time.Second}},
		"perhaps large, ahead":      {-600 * ms, 400 * ms, correction{rate: -0.05, next: 10 * time.Second}},
		"perhaps none, and slow":    {60 * ms, 200 * ms, correction{next: 10 * time.Second}},
		"perhaps none, within 50ms": {40 * ms, 100 * ms, correction{next: time.Minute}},
	} {
		got := sample{offset: c.offset, rtt: c.rtt}.correct()
		if math.Abs(got.rate-c.want.rate) > 1e-9 || got.step != c.want.step || got.next != c.want.next {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

// The kernel takes 10% by ticks, and 500 ppm by frequency (adjtimex(2)).
func TestTicks(t *testing.T) {
	for rate, want := range map[float64][2]int64{
		0:         {0, 0},
		0.05:      {500, 0},
		-0.05:     {-500, 0},
		0.0001:    {1, 0},
		0.00003:   {0, 30 << 16},
		-0.00016:  {-2, 40 << 16},
		0.0000005: {0, 1 << 15},
	} {
		ticks, frequency := ticks(rate)
		if ticks != want[0] || math.Abs(float64(frequency-want[1])) > 1 {
			t.Errorf("%v: %d, %d, want %d", rate, ticks, frequency, want)
		}
	}
}
