package bench

import (
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

// The ways take turns, every other round the other way round, and the first one does not count.
func TestInTurns(t *testing.T) {
	var order []string
	one := func(way, round int) (start, end time.Duration, err error) {
		order = append(order, fmt.Sprint(round, way))
		return time.Duration(round), time.Duration(10*round + way), nil
	}
	times, err := inTurns(2, 3, one)
	want := []Times{{[]time.Duration{1, 2, 3}, []time.Duration{10, 20, 30}}, {[]time.Duration{1, 2, 3}, []time.Duration{11, 21, 31}}}
	if err != nil || !reflect.DeepEqual(times, want) {
		t.Errorf("%v, %v", times, err)
	}
	if want := []string{"0 0", "0 1", "1 1", "1 0", "2 0", "2 1", "3 1", "3 0"}; !reflect.DeepEqual(order, want) {
		t.Errorf("the order was %q", order)
	}
	broken := errors.New("broken")
	if _, err := inTurns(2, 3, func(way, round int) (start, end time.Duration, err error) {
		if round == 2 {
			return 0, 0, broken
		}
		return one(way, round)
	}); !errors.Is(err, broken) {
		t.Errorf("%v", err)
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
