// Package undo keeps what takes back the steps of a piece of work. Who does a step adds
// its undo beside it; after an error, or at the end of what was made, all run, the last
// first.
package undo

import (
	"errors"
	"sync"
)

// A Stack holds undos. Its zero value is empty. It may be used concurrently.
type Stack struct {
	mu    sync.Mutex
	steps []func() error // guarded by mu
}

// Add puts the undo of a step that was done on the stack.
func (s *Stack) Add(step func() error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.steps = append(s.steps, step)
}

// Run runs all undos, the last first, whatever becomes of one, and empties the stack.
func (s *Stack) Run() error {
	s.mu.Lock()
	steps := s.steps
	s.steps = nil
	s.mu.Unlock()
	var errs []error
	for i := len(steps) - 1; i >= 0; i-- {
		errs = append(errs, steps[i]())
	}
	return errors.Join(errs...)
}
