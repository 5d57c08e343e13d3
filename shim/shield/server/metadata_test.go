package server

import (
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// Where two writes can have one mtime, set-id bits that are set between them wait
// for the next.
func TestRipen(t *testing.T) {
	for _, age := range []time.Duration{0, tick / 2, -time.Hour} {
		host := unix.Stat_t{Mtim: unix.NsecToTimespec(time.Now().Add(-age).UnixNano())}
		began := time.Now()
		ripen(&host)
		if waited := time.Since(began); waited < min(tick, tick-age)-time.Millisecond || waited > 100*tick {
			t.Errorf("a file written %v ago: waited %v", age, waited)
		}
	}
}
