package main

import (
	"encoding/xml"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/msb-runtime/containerd-shim-msb/test/collector"
)

// The plot is XML, and has a bar for each multiple.
func TestPlot(t *testing.T) {
	multiples := make(map[string][]float64)
	for i, job := range jobs {
		multiples[job.name] = []float64{0.7, float64(1 + i)}
	}
	// Besides the bars, the background and those of the legend.
	expectRectangles(t, plot(multiples), len(bars)*len(jobs)+1+len(bars))
}

// The drawing of a trace is XML, and has a bar for each span that is the shim's or has led to
// one, in the order of a tree.
func TestDrawTrace(t *testing.T) {
	began := time.Unix(1, 0)
	span := func(id, parent, name, service string, at int) collector.Span {
		return collector.Span{
			Trace: benchTrace, ID: id, Parent: parent, Name: name, Resource: map[string]string{"service.name": service},
			Began: began.Add(time.Duration(at) * time.Millisecond), Ended: began.Add(time.Duration(at+7) * time.Millisecond),
		}
	}
	rows := rowsOf([]collector.Span{
		span("1", benchSpan, "Tasks/Create <x>", "containerd", 0),
		span("2", "1", "not on the way", "containerd", 1),
		span("3", "1", "Task/Create", "containerd", 2),
		span("4", "3", "Task/Create", shimService, 3),
		span("6", benchSpan, "Tasks/Start", shimService, 4),
		span("5", "4", "share", shimService, 5),
	}, benchSpan, 0)
	var order []string
	for _, r := range rows {
		order = append(order, r.ID+strings.Repeat("<", r.depth))
	}
	if want := []string{"1", "3<", "4<<", "5<<<", "6"}; !slices.Equal(order, want) {
		t.Errorf("the rows are %v, want %v", order, want)
	}
	expectRectangles(t, drawTrace(rows), len(rows)+1+len(traceColours))
}

// expectRectangles fails unless an SVG is XML with so many.
func expectRectangles(t *testing.T, svg string, want int) {
	t.Helper()
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
	if rectangles != want {
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
