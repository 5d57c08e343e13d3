package vm

import (
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestConsoleLines(t *testing.T) {
	var lines []string
	c := NewConsole(func(line string) { lines = append(lines, line) })
	for _, part := range []string{"one\r\ntw", "o\n\n", "\x1b[31mred\x07\n", strings.Repeat("x", 10_000), "\n", "\xff\n", "unfinished"} {
		if n, err := c.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
	}
	want := []string{"one", "two", "[31mred", strings.Repeat("x", consoleLine), "?"}
	if !slices.Equal(lines, want) {
		t.Errorf("lines %q", lines)
	}
	if tail := c.Tail(); !slices.Equal(tail, append(want, "unfinished")) {
		t.Errorf("tail %q", tail)
	}
}

// A guest that floods its console neither fills the log nor takes memory, and is
// heard again when it calms down.
func TestConsoleFlood(t *testing.T) {
	var lines []string
	c := NewConsole(func(line string) { lines = append(lines, line) })
	now := time.Now()
	c.now, c.refill = func() time.Time { return now }, now
	for i := range 100_000 {
		fmt.Fprintf(c, "line %d\n", i)
	}
	if len(lines) != consoleBurst {
		t.Errorf("%d lines were forwarded at once", len(lines))
	}
	if tail := c.Tail(); len(tail) != consoleTail || tail[consoleTail-1] != "line 99999" {
		t.Errorf("tail %q", tail)
	}
	now = now.Add(time.Second)
	fmt.Fprintln(c, "calm")
	if last := lines[len(lines)-2:]; !strings.Contains(last[0], "99800 lines") || last[1] != "calm" {
		t.Errorf("after a pause: %q", last)
	}
}

func TestConsoleBeside(t *testing.T) {
	var lines []string
	c := NewConsole(func(line string) { lines = append(lines, line) })
	fmt.Fprintln(c.Beside("helper"), "said")
	if !slices.Equal(lines, []string{"helper: said"}) || len(c.Tail()) != 0 {
		t.Errorf("lines %q, tail %q", lines, c.Tail())
	}
}
