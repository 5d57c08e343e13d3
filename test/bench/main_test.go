package main

import (
	"testing"
	"time"
)

func TestPercentile(t *testing.T) {
	var hundred []time.Duration
	for i := range 100 {
		hundred = append(hundred, time.Duration(100-i))
	}
	for _, c := range []struct {
		times      []time.Duration
		hundredths int
		want       time.Duration
	}{
		{hundred, 50, 50},
		{hundred, 95, 95},
		{hundred, 99, 99},
		{hundred[:30], 99, 100},
		{hundred[:7], 50, 97},
		{hundred[:1], 99, 100},
	} {
		if got := percentile(c.times, c.hundredths); got != c.want {
			t.Errorf("percentile %d of %d times is %d, want %d", c.hundredths, len(c.times), got, c.want)
		}
	}
}
