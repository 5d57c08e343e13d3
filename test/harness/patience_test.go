package harness

import (
	"testing"
	"time"
)

// Who knows that something never comes may wait less long; what is no duration is not passed over.
func TestPatience(t *testing.T) {
	for given, want := range map[string]time.Duration{"": 10 * time.Minute, "90s": 90 * time.Second, "x": 0, "-1s": 0, "60": 0} {
		func() {
			defer func() {
				if failed := recover() != nil; failed != (want == 0) {
					t.Errorf("%q: a panic: %v", given, failed)
				}
			}()
			if got := patience(given); got != want {
				t.Errorf("%q: %v", given, got)
			}
		}()
	}
}

// Who waits looks often, but leaves the processor to what it waits for.
func TestPauseAfter(t *testing.T) {
	for look, want := range map[time.Duration]time.Duration{
		0: 20 * time.Millisecond, 100 * time.Millisecond: 100 * time.Millisecond, time.Minute: 500 * time.Millisecond,
	} {
		if got := pauseAfter(look); got != want {
			t.Errorf("after a look of %v: %v", look, got)
		}
	}
}
