package command

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"os"
	"strconv"
	"strings"
	"sync"
	"text/tabwriter"
	"unicode"
	"unicode/utf16"
	"unicode/utf8"

	"github.com/urfave/cli/v3"
)

// An output is the program's, and knows what could not be written.
type output struct {
	io.Writer
	mu  sync.Mutex
	err error // the first; guarded by mu
}

func (o *output) Write(data []byte) (int, error) {
	n, err := o.Writer.Write(data)
	if err != nil {
		o.mu.Lock()
		defer o.mu.Unlock()
		if o.err == nil {
			o.err = err
		}
	}
	return n, err
}

func (o *output) failed() error {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.err
}

// jsonFlag is of every command that prints something.
func jsonFlag() cli.Flag {
	return &cli.BoolFlag{Name: "json", Usage: "print JSON, for programs"}
}

// printJSON prints a value as JSON of several lines, in which nothing is left that a terminal would
// act upon.
func printJSON(w io.Writer, value any) error { return writeJSON(w, value, "  ") }

// printObject is printJSON in one line.
func printObject(w io.Writer, value any) error { return writeJSON(w, value, "") }

func writeJSON(w io.Writer, value any, indent string) error {
	var b bytes.Buffer
	encoder := json.NewEncoder(&b)
	encoder.SetIndent("", indent)
	encoder.SetEscapeHTML(false)
	if err := encoder.Encode(value); err != nil {
		return err
	}
	_, err := io.WriteString(w, escape(b.String(), func(r rune, raw string) string {
		if r == '\n' { // JSON has none in a text
			return raw
		}
		if high, low := utf16.EncodeRune(r); high != utf8.RuneError {
			return fmt.Sprintf(`\u%04x\u%04x`, high, low)
		}
		return fmt.Sprintf(`\u%04x`, r)
	}))
	return err
}

// visible is a text in which what is not printable is an escape sequence as Go writes it: no
// terminal acts upon it, be it ESC or a control character of 8 bits (C1), alone or in UTF-8.
func visible(text string) string {
	return escape(text, func(r rune, raw string) string {
		if r == utf8.RuneError && len(raw) == 1 {
			return fmt.Sprintf(`\x%02x`, raw[0])
		}
		return strings.Trim(strconv.QuoteRune(r), "'")
	})
}

// visibleLines is visible for a text of lines, which may have tabs.
func visibleLines(text string) string {
	return escape(text, func(r rune, raw string) string {
		if r == '\n' || r == '\t' {
			return raw
		}
		return visible(raw)
	})
}

// escape replaces what is not printable.
func escape(text string, by func(r rune, raw string) string) string {
	var b strings.Builder
	for text != "" {
		r, size := utf8.DecodeRuneInString(text)
		if r == utf8.RuneError && size == 1 || !unicode.IsPrint(r) {
			b.WriteString(by(r, text[:size]))
		} else {
			b.WriteString(text[:size])
		}
		text = text[size:]
	}
	return b.String()
}

// columns are lines whose fields are apart by tabs, as a table. The caller flushes it.
func columns(w io.Writer) *tabwriter.Writer {
	const gap = 2
	return tabwriter.NewWriter(w, 0, 0, gap, ' ', 0)
}

// A colour is the number of one, as terminals have it (console_codes(4)).
type colour string

const (
	red    colour = "31"
	green  colour = "32"
	yellow colour = "33"
)

// A painter gives words a colour, or leaves them as they are.
type painter func(colour, string) string

// painterOf is for what is written to w: on a terminal there is colour, unless somebody does
// not want it (no-color.org).
func painterOf(w io.Writer) painter {
	if !isTerminal(w) || os.Getenv("NO_COLOR") != "" {
		return func(_ colour, text string) string { return text }
	}
	return func(c colour, text string) string { return "\x1b[" + string(c) + "m" + text + "\x1b[0m" }
}

func isTerminal(w io.Writer) bool { return terminalOf(w) != nil }
