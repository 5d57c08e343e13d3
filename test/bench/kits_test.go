package main

import (
	"errors"
	"slices"
	"testing"
	"time"
)

// Each way is measured as often as the others, and is the first of a round as often as they are.
func TestInTurns(t *testing.T) {
	defer func(rounds int) { *startRounds = rounds }(*startRounds)
	*startRounds = 3
	ways := []*way{{name: "a"}, {name: "b"}}
	var order []string
	err := inTurns(ways, func(w *way, round int) (time.Duration, error) {
		order = append(order, w.name)
		return time.Duration(round), nil
	})
	if want := []string{"a", "b", "b", "a", "a", "b"}; err != nil || !slices.Equal(order, want) {
		t.Errorf("%v in the order %v, want %v", err, order, want)
	}
	for _, w := range ways {
		if want := []time.Duration{0, 1, 2}; !slices.Equal(w.times, want) {
			t.Errorf("%s took %v, want %v", w.name, w.times, want)
		}
	}
	failed := errors.New("failed")
	if err := inTurns(ways, func(*way, int) (time.Duration, error) { return 0, failed }); !errors.Is(err, failed) || err.Error() != "a: failed" {
		t.Errorf("of one that fails: %v", err)
	}
}
