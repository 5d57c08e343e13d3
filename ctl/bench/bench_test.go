package bench

import (
	"context"
	"errors"
	"fmt"
	"reflect"
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
		if got := Percentile(c.times, c.hundredths); got != c.want {
			t.Errorf("percentile %d of %d times is %d, want %d", c.hundredths, len(c.times), got, c.want)
		}
	}
}

// The ways take turns, every other round the other way round.
func TestInTurns(t *testing.T) {
	var order []string
	one := func(way, round int) error {
		order = append(order, fmt.Sprint(round, way))
		return nil
	}
	err := inTurns(t.Context(), 2, 3, one)
	if err != nil {
		t.Error(err)
	}
	if want := []string{"0 0", "0 1", "1 1", "1 0", "2 0", "2 1", "3 1", "3 0"}; !reflect.DeepEqual(order, want) {
		t.Errorf("the order was %q", order)
	}
	broken := errors.New("broken")
	if err := inTurns(t.Context(), 2, 3, func(way, round int) error {
		if round == 2 {
			return broken
		}
		return one(way, round)
	}); !errors.Is(err, broken) {
		t.Errorf("%v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	order = nil
	if err := inTurns(ctx, 2, 3, func(way, round int) error {
		cancel()
		return one(way, round)
	}); !errors.Is(err, context.Canceled) || len(order) != 1 {
		t.Errorf("it goes on when it is ended: %v, %q", err, order)
	}
}

func TestStrip(t *testing.T) {
	times := func(milliseconds ...int) (times []time.Duration) {
		for _, ms := range milliseconds {
			times = append(times, time.Duration(ms)*time.Millisecond)
		}
		return times
	}
	fast, slow := times(10, 10, 10, 10, 100), times(1000, 1000)
	strip := NewStrip(5, fast, slow)
	for _, c := range []struct {
		times []time.Duration
		want  string
	}{
		{fast, "█ ▂  "}, // each place is √10 times the one before
		{slow, "    █"},
		{times(31, 32, 900), " █  ▄"},
	} {
		if got := strip.Draw(c.times); got != c.want {
			t.Errorf("%v: %q, want %q", c.times, got, c.want)
		}
	}
	if got := NewStrip(3, slow).Draw(slow); got != "█  " {
		t.Errorf("of one time: %q", got)
	}
}
