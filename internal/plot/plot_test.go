package plot

import (
	"encoding/xml"
	"errors"
	"io"
	"slices"
	"strings"
	"testing"
)

// The plot is XML whatever the names are, and has a bar for each multiple.
func TestSVG(t *testing.T) {
	svg := Bars{
		Title: "<title> & more", Series: []string{"<one>", "two"},
		Rows: []Row{
			{Name: "both & <all>", Bars: []Bar{{0, 0.7}, {1, 12}}},
			{Name: "the second", Bars: []Bar{{1, 1}}},
			{Name: "none"},
		},
	}.SVG()
	if strings.Contains(svg, "%!") {
		t.Errorf("a format is wrong:\n%s", svg)
	}
	fills := make(map[string]int)
	var texts []string
	decoder := xml.NewDecoder(strings.NewReader(svg))
	for {
		token, err := decoder.Token()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		switch token := token.(type) {
		case xml.StartElement:
			for _, attribute := range token.Attr {
				if token.Name.Local == "rect" && attribute.Name.Local == "fill" {
					fills[attribute.Value]++
				}
			}
		case xml.CharData:
			texts = append(texts, string(token))
		}
	}
	// One more of each colour is in the legend.
	if fills["white"] != 1 || fills[colours[0]] != 2 || fills[colours[1]] != 3 || len(fills) != 3 {
		t.Errorf("rectangles: %v\n%s", fills, svg)
	}
	for _, want := range []string{"<title> & more", "<one>", "both & <all>", "none", "0.7 ×", "12 ×"} {
		if !slices.Contains(texts, want) {
			t.Errorf("%q is not there: %q", want, texts)
		}
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
