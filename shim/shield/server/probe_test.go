package server

import "testing"

func TestTry(t *testing.T) {
	if got := Try(); got.Mount != nil {
		t.Errorf("Try = %+v", got)
	} else if got.Passthrough != nil {
		t.Logf("no passthrough here: %v", got.Passthrough)
	}
}
