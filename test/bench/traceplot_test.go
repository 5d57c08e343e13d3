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
