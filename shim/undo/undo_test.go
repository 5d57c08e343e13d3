package undo

import (
	"errors"
	"strings"
	"testing"
)

// The last step is undone first, an error keeps nothing from being undone, and nothing is
// undone twice.
func TestRun(t *testing.T) {
	var stack Stack
	var order []string
	broken := errors.New("broken")
	for _, step := range []struct {
		name string
		err  error
	}{{"first", nil}, {"second", broken}, {"third", nil}} {
		stack.Add(func() error {
			order = append(order, step.name)
			return step.err
		})
	}
	if err := stack.Run(); !errors.Is(err, broken) {
		t.Errorf("Run = %v", err)
	}
	if got := strings.Join(order, " "); got != "third second first" {
		t.Errorf("undone: %s", got)
	}
	if err := stack.Run(); err != nil || len(order) != 3 {
		t.Errorf("a second Run = %v, undone: %v", err, order)
	}
}
