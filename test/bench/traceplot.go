package main

import (
	"fmt"
	"html"
	"strings"
	"time"
)

// Measures of the drawing, in pixels.
const (
	traceWidth  = 900
	traceLeft   = 360 // of the axis
	traceRight  = 830
	traceTop    = 64
	traceRow    = 20
	traceIndent = 14
	traceBar    = 11
	traceBottom = 40 // below the axis
)

// traceColours are those of the bars, by whose they are.
var traceColours = []struct{ of, name, colour string }{
	{"containerd", "containerd", "#8a8a8a"}, {"shim", "the shim", "#1f6fb2"}, {"guest", "the shim's calls to the guest", "#d97a1e"},
}

// drawTrace is an SVG of spans: a bar for each, along the time.
func drawTrace(rows []row) string {
	var first, last time.Time
	for _, r := range rows {
		if first.IsZero() || r.Began.Before(first) {
			first = r.Began
		}
		if r.Ended.After(last) {
			last = r.Ended
		}
	}
	step := tickOf(last.Sub(first))
	x := func(at time.Duration) float64 {
		return traceLeft + float64(at)/float64(last.Sub(first))*(traceRight-traceLeft)
	}
	bottom := traceTop + traceRow*len(rows)
	var svg strings.Builder
	fmt.Fprintf(&svg, `<svg xmlns="http://www.w3.org/2000/svg" width="%[1]d" height="%[2]d" viewBox="0 0 %[1]d %[2]d" font-family="sans-serif" font-size="12" fill="#222">`+"\n",
		traceWidth, bottom+traceBottom)
	svg.WriteString(`<rect width="100%" height="100%" fill="white"/>` + "\n")
	svg.WriteString(`<text x="16" y="24" font-size="15" font-weight="bold">One trace: a container starts</text>` + "\n")
	for i, c := range traceColours {
		fmt.Fprintf(&svg, `<rect x="%d" y="34" width="12" height="12" fill="%s"/><text x="%d" y="45">%s</text>`+"\n", traceLeft+130*i, c.colour, traceLeft+130*i+18, c.name)
	}
	for at := time.Duration(0); at <= last.Sub(first); at += step {
		fmt.Fprintf(&svg, `<line x1="%.1[1]f" y1="%[2]d" x2="%.1[1]f" y2="%[3]d" stroke="#ddd"/><text x="%.1[1]f" y="%[4]d" text-anchor="middle">%[5]s</text>`+"\n",
			x(at), traceTop-4, bottom, bottom+20, at)
	}
	for i, r := range rows {
		top, from, to := traceTop+traceRow*i, x(r.Began.Sub(first)), x(r.Ended.Sub(first))
		fmt.Fprintf(&svg, `<text x="%d" y="%d">%s</text>`+"\n", 16+traceIndent*r.depth, top+14, html.EscapeString(r.Name))
		fmt.Fprintf(&svg, `<rect x="%.1f" y="%d" width="%.1f" height="%d" fill="%s"/><text x="%.1f" y="%d" font-size="10">%s</text>`+"\n",
			from, top+4, max(to-from, 1), traceBar, r.colour(), to+4, top+13, roundly(r.Ended.Sub(r.Began)))
	}
	svg.WriteString("</svg>\n")
	return svg.String()
}

func (r row) colour() string {
	for _, c := range traceColours {
		if c.of == r.of() {
			return c.colour
		}
	}
	return "black"
}

// tickOf is 1, 2 or 5 times a power of 10 nanoseconds, of which a time has at most 8.
func tickOf(all time.Duration) time.Duration {
	for power := time.Nanosecond; ; power *= 10 {
		for _, digit := range []time.Duration{1, 2, 5} {
			if all <= 8*digit*power {
				return digit * power
			}
		}
	}
}

// roundly is a time with two or three digits.
func roundly(d time.Duration) string {
	unit := time.Microsecond
	for d >= 1000*unit {
		unit *= 10
	}
	return d.Round(unit).String()
}
