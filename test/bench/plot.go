package main

import (
	"fmt"
	"html"
	"math"
	"os"
	"strings"
	"time"
)

// Measures of the plot, in pixels.
const (
	plotWidth  = 860
	plotLeft   = 300 // of the axis
	plotRight  = 790
	plotTop    = 64
	barHeight  = 10
	jobHeight  = 32
	plotBottom = 40 // below the axis
)

// bar is one of those of each job.
type bar struct{ place, name, colour string }

var bars = []bar{{"erofs", "erofs, in the guest", "#1f6fb2"}, {"overlayfs", "overlayfs, over virtio-fs", "#d97a1e"}}

// writePlot draws how often the guest's tmpfs's time each job takes, by the medians, into a file.
func writePlot(path string, times map[string]map[string][]time.Duration) error {
	multiples := make(map[string][]float64)
	for _, job := range jobs {
		for _, bar := range bars {
			multiple := float64(median(times[bar.place][job.work])) / float64(median(times["tmpfs"][job.work]))
			multiples[job.name] = append(multiples[job.name], multiple)
		}
	}
	return os.WriteFile(path, []byte(plot(multiples)), 0o644)
}

// plot is an SVG of horizontal bars, in the order of jobs and bars, on a logarithmic axis. Bars
// begin at 1, to the left if they are less. The background is white wherever it is shown.
func plot(multiples map[string][]float64) string {
	least, most := 1., 1.
	for _, all := range multiples {
		for _, multiple := range all {
			least, most = min(least, multiple), max(most, multiple)
		}
	}
	ticks := ticksOf(least, most)
	low, high := math.Log(ticks[0]), math.Log(ticks[len(ticks)-1])
	x := func(multiple float64) float64 {
		return plotLeft + (math.Log(multiple)-low)/(high-low)*(plotRight-plotLeft)
	}
	bottom := plotTop + jobHeight*len(jobs)
	var svg strings.Builder
	fmt.Fprintf(&svg, `<svg xmlns="http://www.w3.org/2000/svg" width="%[1]d" height="%[2]d" viewBox="0 0 %[1]d %[2]d" font-family="sans-serif" font-size="13" fill="#222">`+"\n",
		plotWidth, bottom+plotBottom)
	fmt.Fprintf(&svg, `<rect width="100%%" height="100%%" fill="white"/>`+"\n")
	fmt.Fprintf(&svg, `<text x="16" y="24" font-size="15" font-weight="bold">Time as a multiple of the guest's tmpfs: less is better</text>`+"\n")
	for i, bar := range bars {
		left := plotLeft + 240*i
		fmt.Fprintf(&svg, `<rect x="%d" y="38" width="12" height="12" fill="%s"/><text x="%d" y="49">%s</text>`+"\n", left, bar.colour, left+18, html.EscapeString(bar.name))
	}
	for _, tick := range ticks {
		colour := "#ddd"
		if tick == 1 {
			colour = "#222"
		}
		fmt.Fprintf(&svg, `<line x1="%.1[1]f" y1="%[2]d" x2="%.1[1]f" y2="%[3]d" stroke="%[4]s"/><text x="%.1[1]f" y="%[5]d" text-anchor="middle">%.3[6]g ×</text>`+"\n",
			x(tick), plotTop-4, bottom, colour, bottom+20, tick)
	}
	for i, job := range jobs {
		top := plotTop + jobHeight*i
		fmt.Fprintf(&svg, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", plotLeft-10, top+18, html.EscapeString(job.name))
		for b, multiple := range multiples[job.name] {
			from, to := min(x(1), x(multiple)), max(x(1), x(multiple))
			y := top + 3 + b*(barHeight+2)
			fmt.Fprintf(&svg, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/><text x="%.1f" y="%d" font-size="11">%.3g ×</text>`+"\n",
				from, y, max(to-from, 1), barHeight, bars[b].colour, to+4, y+9, multiple)
		}
	}
	svg.WriteString("</svg>\n")
	return svg.String()
}

// ticksOf are 1, 2 and 5 times powers of 10, from at most the least to at least the most.
func ticksOf(least, most float64) (ticks []float64) {
	for power := math.Floor(math.Log10(least)); ; power++ {
		for _, digit := range []float64{1, 2, 5} {
			tick := digit * math.Pow(10, power)
			if tick <= least {
				ticks = ticks[:0]
			}
			ticks = append(ticks, tick)
			if tick >= most && len(ticks) > 1 {
				return ticks
			}
		}
	}
}
