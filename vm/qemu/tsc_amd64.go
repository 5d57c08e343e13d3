package qemu

import (
	"time"
)

// rdtsc reads the processor's time stamp counter.
func rdtsc() int64

// tscSample pairs a reading of the counter with the time. Two of them some
// milliseconds apart give its frequency; the first is taken at start-up, so
// nobody waits for the second.
type tscSample struct {
	ticks int64
	at    time.Time
}

var tscStart = sampleTSC()

func sampleTSC() tscSample { return tscSample{ticks: rdtsc(), at: time.Now()} }

// tscKHz measures the frequency of the host's time stamp counter, which is also
// the one that a guest under software emulation reads.
func tscKHz() int64 {
	const window = 10 * time.Millisecond // 100 ns of jitter are 10 ppm of it
	if rest := window - time.Since(tscStart.at); rest > 0 {
		time.Sleep(rest)
	}
	end := sampleTSC()
	return int64(float64(end.ticks-tscStart.ticks) / (end.at.Sub(tscStart.at).Seconds() * 1000))
}
