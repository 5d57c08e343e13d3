package e2e

import "testing"

// What is looked at here takes its time, and nobody's work: a kernel that gives memory back at its
// leisure, a clock that goes a little slower, a guest that does not answer. It does so at once.
func TestPatience(t *testing.T) {
	nothingLeft(t)
	for name, test := range map[string]func(*testing.T){
		"memory returns":      memoryReturns,
		"the clocks agree":    clockAgrees,
		"the guest is frozen": guestFrozen,
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			test(t)
		})
	}
}
