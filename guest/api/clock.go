package api

import (
	"encoding/binary"
	"time"
)

// On a ClockStream a question is one byte, its number, which is never 0. An answer is
// ClockAnswerSize bytes: the number of its question, and the host's time in nanoseconds
// since the epoch, big-endian.
const ClockAnswerSize = 1 + 8

// ClockJumped stands for the number of a question when the host says by itself that its
// clock was set.
const ClockJumped = 0

// How often the agent may ask: the host closes the stream of one that asks more.
const (
	ClockBurst     = 20
	ClockPerSecond = 10
)

// AppendClockAnswer appends an answer to b.
func AppendClockAnswer(b []byte, number byte, now time.Time) []byte {
	return binary.BigEndian.AppendUint64(append(b, number), uint64(now.UnixNano()))
}

// ParseClockAnswer reads an answer of ClockAnswerSize bytes.
func ParseClockAnswer(b []byte) (number byte, now time.Time) {
	return b[0], time.Unix(0, int64(binary.BigEndian.Uint64(b[1:])))
}
