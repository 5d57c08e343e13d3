package vm

import (
	"fmt"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"
	"unicode"
	"unicode/utf8"
)

func TestConsoleLines(t *testing.T) {
	var lines []string
	c := NewConsole(func(line string) { lines = append(lines, line) })
	for _, part := range []string{"one\r\ntw", "o\n\n", "\x1b[31mred\x07\n", strings.Repeat("x", 10_000), "\n", "\xff\n", "unfinished"} {
		if n, err := c.Write([]byte(part)); n != len(part) || err != nil {
			t.Fatalf("Write = %d, %v", n, err)
		}
	}
	want := []string{"one", "two", "[31mred", strings.Repeat("x", consoleLine-len("…")) + "…", "?"}
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
	c.now = func() time.Time { return now }
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

// A flood costs no memory: a hundred megabytes, or a million lines of next to
// nothing, which cost the most time.
func TestConsoleMemory(t *testing.T) {
	const most = 1 << 20 // bytes, for all lines that are shown
	for name, flood := range map[string]struct {
		piece string
		size  int
	}{
		"lines":       {strings.Repeat("x", 127) + "\n", 100 << 20},
		"long lines":  {strings.Repeat("x", 32<<10-1) + "\n", 100 << 20},
		"no line":     {strings.Repeat("x", 32<<10), 100 << 20},
		"short lines": {"x\n", 2 << 20},
		"empty lines": {"\x07\n", 2 << 20},
		"controls":    {"\x1b[2J\xff\n", 6 << 20},
	} {
		t.Run(name, func(t *testing.T) {
			c := NewConsole(func(string) {})
			output := []byte(strings.Repeat(flood.piece, max(1, 32<<10/len(flood.piece))))
			before := allocated()
			for range flood.size / len(output) {
				if _, err := c.Write(output); err != nil {
					t.Fatal(err)
				}
			}
			if got := allocated() - before; got > most {
				t.Errorf("%d bytes were allocated", got)
			}
			if len(c.Tail()) > consoleTail+1 || len(c.Last()) > (consoleTail+1)*(consoleLine+3) {
				t.Errorf("the tail has %d lines, of %d bytes", len(c.Tail()), len(c.Last()))
			}
		})
	}
}

// allocated is how many bytes were allocated until now, whether in use or not.
func allocated() uint64 {
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return stats.TotalAlloc
}

func TestConsoleQuote(t *testing.T) {
	c := NewConsole(func(string) {})
	if got := c.Last(); got != "(none)" {
		t.Errorf("without output: %q", got)
	}
	fmt.Fprint(c, "one\n\n\x07\ntwo\nthree")
	if got := c.Last(); got != "one | two | three" {
		t.Errorf("with output: %q", got)
	}
}

func TestPrintable(t *testing.T) {
	for _, test := range []struct {
		text  string
		limit int
		want  string
	}{
		{"", 9, ""},
		{"  plain\n", 9, "plain"},
		{"two\r\nlines", 99, "two  lines"},
		{"\x1b[31mred\x07\u0085\u202e\u2028.", 99, "[31mred    ."},
		{"\xff\xfe!", 9, "?!"},
		{"a\x9b2Jb\x9d0;t\x9c", 99, "a?2Jb?0;t?"},
		{"a\u009b2Jb\u009d0;t\u009c", 99, "a 2Jb 0;t"},
		{"À ěÝ 書 \U0001f600", 99, "À ěÝ 書 \U0001f600"},
		{"\xc4\xc2\x9b!", 99, "? !"},
		{"123456789", 9, "123456789"},
		{"1234567890", 9, "123456…"},
		{"ääääää", 9, "äää…"},
		{"ääääää", 10, "äää…"},
		{strings.Repeat("\x80", 20), 9, "?…"},
		{"long", 3, "…"},
	} {
		if got := Printable(test.text, test.limit); got != test.want {
			t.Errorf("Printable(%q, %d) = %q, not %q", test.text, test.limit, got, test.want)
		}
	}
}

func FuzzPrintable(f *testing.F) {
	for _, seed := range []string{"a\x1b\xffä\n", "\x9b2J\x9d0;t\x9c", "\u009b2J\u009d0;t\u009c", "À ěÝ 書 \xe6\x9b"} {
		f.Add(seed, 5)
	}
	f.Fuzz(func(t *testing.T, text string, limit int) {
		if limit < 3 || limit > 1<<20 {
			return
		}
		got := Printable(text, limit)
		if len(got) > limit || !utf8.ValidString(got) || strings.ContainsFunc(got, func(r rune) bool { return !unicode.IsPrint(r) }) {
			t.Errorf("Printable(%q, %d) = %q", text, limit, got)
		}
	})
}

func TestConsoleBeside(t *testing.T) {
	var lines []string
	c := NewConsole(func(line string) { lines = append(lines, line) })
	fmt.Fprintln(c.Beside("helper"), "said")
	if !slices.Equal(lines, []string{"helper: said"}) || len(c.Tail()) != 0 {
		t.Errorf("lines %q, tail %q", lines, c.Tail())
	}
}
