package clock

import (
	"fmt"
	"math"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// Modes of adjtimex(2) (Linux, include/uapi/linux/timex.h).
const (
	adjFrequency = 0x0002
	adjSetOffset = 0x0100
	adjNano      = 0x2000
	adjTick      = 0x4000
)

const (
	// tick is the length of a tick in microseconds; a change of one is 100 ppm.
	tick       = 10_000
	ppmPerTick = 1e6 / tick
	// frequencyUnit is how adjtimex counts ppm: with 16 bits behind the point.
	frequencyUnit = 1 << 16
)

// kernel is the guest's clock, CLOCK_REALTIME. Its rate is CLOCK_MONOTONIC's, too.
type kernel struct{}

func (kernel) now() time.Time { return time.Now() }

// step sets the clock forward, or back.
func (kernel) step(by time.Duration) error {
	seconds := by.Truncate(time.Second)
	if by < seconds { // the part of a second is not to be negative
		seconds -= time.Second
	}
	// With adjNano what is called microseconds is nanoseconds.
	return adjust(unix.Timex{
		Modes: adjSetOffset | adjNano,
		Time:  unix.Timeval{Sec: int64(seconds / time.Second), Usec: int64(by - seconds)},
	})
}

// slew makes the clock run faster by a part of one, or slower.
func (kernel) slew(rate float64) error {
	ticks, frequency := ticks(rate)
	return adjust(unix.Timex{Modes: adjTick | adjFrequency, Tick: tick + ticks, Freq: frequency})
}

// ticks is a rate in adjtimex's terms: the frequency alone has room for 500 ppm only.
func ticks(rate float64) (ticks, frequency int64) {
	ppm := rate * 1e6
	whole := math.Round(ppm / ppmPerTick)
	return int64(whole), int64((ppm - whole*ppmPerTick) * frequencyUnit)
}

func adjust(change unix.Timex) error {
	if _, err := unix.Adjtimex(&change); err != nil {
		return fmt.Errorf("adjusting the clock: %w", os.NewSyscallError("adjtimex", err))
	}
	return nil
}
