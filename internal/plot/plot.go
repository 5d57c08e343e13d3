// Package plot draws multiples as horizontal bars, as SVG.
package plot

import (
	"fmt"
	"html"
	"math"
	"strings"
)

// Bars are a plot of them. They begin at 1, to the left if they are less, on a logarithmic axis.
type Bars struct {
	Title  string
	Series []string // at most as many as there are colours
	Rows   []Row
}

// A Row is a name, and a bar for each of some series.
type Row struct {
	Name string
	Bars []Bar
}

// A Bar is one of a series, by its number. Its multiple is more than 0.
type Bar struct {
	Series   int
	Multiple float64
}

var colours = []string{"#1f6fb2", "#d97a1e", "#8a8a8a"}

// Measures, in pixels.
const (
	width     = 860
	left      = 300 // of the axis
	right     = 790
	top       = 64
	barHeight = 10
	gap       = 2
	margin    = 5  // of a row, above and below
	bottom    = 40 // below the axis
	legend    = 240
)

func (r Row) height() int { return max(len(r.Bars), 1)*(barHeight+gap) - gap + 2*margin }

// SVG draws it. The background is white wherever it is shown.
func (b Bars) SVG() string {
	least, most, end := 1., 1., top
	for _, row := range b.Rows {
		end += row.height()
		for _, bar := range row.Bars {
			least, most = min(least, bar.Multiple), max(most, bar.Multiple)
		}
	}
	ticks := ticksOf(least, most)
	low, high := math.Log(ticks[0]), math.Log(ticks[len(ticks)-1])
	x := func(multiple float64) float64 { return left + (math.Log(multiple)-low)/(high-low)*(right-left) }
	var svg strings.Builder
	fmt.Fprintf(&svg, `<svg xmlns="http://www.w3.org/2000/svg" width="%[1]d" height="%[2]d" viewBox="0 0 %[1]d %[2]d" font-family="sans-serif" font-size="13" fill="#222">`+"\n",
		width, end+bottom)
	fmt.Fprintf(&svg, `<rect width="100%%" height="100%%" fill="white"/>`+"\n")
	fmt.Fprintf(&svg, `<text x="16" y="24" font-size="15" font-weight="bold">%s</text>`+"\n", html.EscapeString(b.Title))
	for i, name := range b.Series {
		at := width - 20 - legend*(len(b.Series)-i)
		fmt.Fprintf(&svg, `<rect x="%d" y="38" width="12" height="12" fill="%s"/><text x="%d" y="49">%s</text>`+"\n", at, colours[i], at+18, html.EscapeString(name))
	}
	for _, tick := range ticks {
		colour := "#ddd"
		if tick == 1 {
			colour = "#222"
		}
		fmt.Fprintf(&svg, `<line x1="%.1[1]f" y1="%[2]d" x2="%.1[1]f" y2="%[3]d" stroke="%[4]s"/><text x="%.1[1]f" y="%[5]d" text-anchor="middle">%.3[6]g ×</text>`+"\n",
			x(tick), top-4, end, colour, end+20, tick)
	}
	at := top
	for _, row := range b.Rows {
		fmt.Fprintf(&svg, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", left-10, at+row.height()/2+4, html.EscapeString(row.Name))
		for i, bar := range row.Bars {
			from, to := min(x(1), x(bar.Multiple)), max(x(1), x(bar.Multiple))
			y := at + margin + i*(barHeight+gap)
			fmt.Fprintf(&svg, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/><text x="%.1f" y="%d" font-size="11">%.3g ×</text>`+"\n",
				from, y, max(to-from, 1), barHeight, colours[bar.Series], to+4, y+9, bar.Multiple)
		}
		at += row.height()
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
