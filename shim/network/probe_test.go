package network

import "testing"

// The tests' host can do what a VM's network needs; a trial of it leaves nothing.
func TestTry(t *testing.T) {
	if got := Try(); got != (Trial{}) {
		t.Errorf("Try = %+v", got)
	}
}
