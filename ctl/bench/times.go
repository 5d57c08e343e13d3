package bench

import (
	"math"
	"slices"
	"strings"
	"time"
)

// Percentile is the shortest of some times that so many in a hundred of them do not exceed.
func Percentile(times []time.Duration, hundredths int) time.Duration {
	sorted := slices.Sorted(slices.Values(times))
	return sorted[(len(sorted)*hundredths+99)/100-1]
}

// Ratio is how many times as long some times are as others, at a percentile.
func Ratio(times, others []time.Duration, hundredths int) float64 {
	return float64(Percentile(times, hundredths)) / float64(Percentile(others, hundredths))
}

// A Strip is a line on which times are drawn, from Low at its left end to High at its right, on
// a logarithmic scale.
type Strip struct {
	Low, High time.Duration
	Width     int
}

// NewStrip has room for all of some times.
func NewStrip(width int, all ...[]time.Duration) Strip {
	times := slices.Concat(all...)
	return Strip{slices.Min(times), slices.Max(times), width}
}

// Draw draws how many of some times fall to each place: nothing for none, and the higher the
// more there are, up to a full block.
func (s Strip) Draw(times []time.Duration) string {
	counts := make([]int, s.Width)
	for _, one := range times {
		counts[s.place(one)]++
	}
	most := slices.Max(counts)
	heights := []rune("▁▂▃▄▅▆▇█")
	var line strings.Builder
	for _, count := range counts {
		if count == 0 {
			line.WriteByte(' ')
			continue
		}
		line.WriteRune(heights[(count*len(heights)-1)/most])
	}
	return line.String()
}

func (s Strip) place(one time.Duration) int {
	if s.High <= s.Low {
		return 0
	}
	part := math.Log(float64(one)/float64(s.Low)) / math.Log(float64(s.High)/float64(s.Low))
	return min(max(int(math.Round(part*float64(s.Width-1))), 0), s.Width-1)
}
