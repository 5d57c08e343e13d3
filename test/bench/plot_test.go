package main

import (
	"encoding/xml"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

// The plot is XML, and has a bar for each multiple.
func TestPlot(t *testing.T) {
	multiples := make(map[string][]float64)
	for i, job := range jobs {
		multiples[job.name] = []float64{0.7, float64(1 + i)}
	}
	svg := plot(multiples)
	if strings.Contains(svg, "%!") {
		t.Errorf("a format is wrong:\n%s", svg)
	}
	decoder := xml.NewDecoder(strings.NewReader(svg))
	rectangles := 0
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if start, ok := token.(xml.StartElement); ok && start.Name.Local == "rect" {
			rectangles++
		}
	}
	// Besides the bars, the background and those of the legend.
	if want := len(bars)*len(jobs) + 1 + len(bars); rectangles != want {
		t.Errorf("%d rectangles, want %d", rectangles, want)
	}
}

func TestTicks(t *testing.T) {
	for _, c := range []struct {
		least, most float64
		want        []float64
	}{
		{0.7, 13, []float64{0.5, 1, 2, 5, 10, 20}},
		{1, 1, []float64{1, 2}},
		{0.03, 4, []float64{0.02, 0.05, 0.1, 0.2, 0.5, 1, 2, 5}},
	} {
		if got := ticksOf(c.least, c.most); !slices.EqualFunc(got, c.want, func(a, b float64) bool { return a/b > 0.999 && a/b < 1.001 }) {
			t.Errorf("%v to %v: %v, want %v", c.least, c.most, got, c.want)
		}
	}
}
