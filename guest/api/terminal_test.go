package api

import (
	"bytes"
	"io"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
)

func TestCheckTerminal(t *testing.T) {
	for name, c := range map[string]struct {
		terminal *Terminal
		allowed  bool
	}{
		"usual":          {&Terminal{Term: "xterm-256color", Size: &WindowSize{Rows: 24, Columns: 80}}, true},
		"size not known": {&Terminal{Term: "screen.xterm-new"}, true},
		"the largest":    {&Terminal{Term: "vt100+fnkeys", Size: &WindowSize{Rows: MaxWindow, Columns: MaxWindow}}, true},
		"rows":           {&Terminal{Term: "dumb", Size: &WindowSize{Rows: MaxWindow + 1}}, false},
		"columns":        {&Terminal{Term: "dumb", Size: &WindowSize{Columns: 1<<32 - 1}}, false},
		"no type":        {&Terminal{}, false},
		"nothing":        {nil, false},
		"a path":         {&Terminal{Term: "../x"}, false},
		"two lines":      {&Terminal{Term: "a\nb"}, false},
		"another name":   {&Terminal{Term: "ä"}, false},
		"a long one":     {&Terminal{Term: strings.Repeat("x", maxTerm+1)}, false},
	} {
		if err := CheckTerminal(c.terminal); (err == nil) != c.allowed || err != nil && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// What is no size, or a large message, is not taken.
func TestReceiveWindow(t *testing.T) {
	var sent bytes.Buffer
	want := &WindowSize{Rows: MaxWindow, Columns: 1}
	if err := SendWindow(&sent, want); err != nil {
		t.Fatal(err)
	}
	if got, err := ReceiveWindow(&sent); err != nil || got.Rows != want.Rows || got.Columns != want.Columns || sent.Len() > 0 {
		t.Errorf("%v, %v", got, err)
	}
	for name, text := range map[string]string{
		"nothing":      "",
		"an end":       "\x04\x08\x01",
		"no message":   "\x03abc",
		"a long one":   "\x21" + strings.Repeat("\x08\x01", 17),
		"a large size": "\x04\x08\x80\x80\x04",
	} {
		if _, err := ReceiveWindow(io.MultiReader(strings.NewReader(text))); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}
