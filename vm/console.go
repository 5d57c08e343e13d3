package vm

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"time"
	"unicode"
	"unicode/utf8"

	"github.com/msb-runtime/containerd-shim-msb/internal/flood"
)

const (
	consoleTail      = 20  // lines kept for error messages
	consoleLine      = 512 // bytes of one line that are kept
	consoleBurst     = 200 // lines forwarded at once …
	consolePerSecond = 20  // … and then per second
)

// A Console takes the output of a guest's kernel and of its VMM, line by line.
// The output belongs to the guest, so it is bounded: long lines are cut,
// control characters are replaced, and a guest that floods it is cut off until
// it calms down. It keeps the last lines for error messages.
type Console struct {
	line func(string)
	now  func() time.Time

	mu      sync.Mutex
	partial []byte      // the line that is not finished, cut; guarded by mu
	tail    ring        // the last lines, as they came but cut; guarded by mu
	gate    *flood.Gate // guarded by mu
}

// A ring holds the last lines, of which the next takes the oldest one's place.
type ring struct {
	lines [consoleTail][]byte
	next  int
}

// NewConsole returns a Console that hands each line to the given function,
// which must not block.
func NewConsole(line func(string)) *Console {
	return &Console{line: line, now: time.Now, gate: flood.NewGate(consoleBurst, consolePerSecond)}
}

// Beside returns a Console for a helper of the VMM: its lines go where c's go,
// with a name before them, and its tail is its own.
func (c *Console) Beside(name string) *Console {
	return NewConsole(func(line string) { c.line(name + ": " + line) })
}

// Write takes output as it comes. It never fails.
func (c *Console) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	n, now := len(p), c.now()
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			c.keep(p)
			break
		}
		c.keep(p[:end])
		c.flush(now)
		p = p[end+1:]
	}
	return n, nil
}

// Tail returns the last lines, oldest first, an unfinished one included.
func (c *Console) Tail() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	var lines []string
	for i := range consoleTail {
		lines = appendLine(lines, c.tail.lines[(c.tail.next+i)%consoleTail])
	}
	return appendLine(lines, c.partial)
}

func appendLine(lines []string, line []byte) []string {
	if !visible(line) {
		return lines
	}
	return append(lines, Printable(string(line), consoleLine))
}

// Last is the Tail in one line, for a message.
func (c *Console) Last() string {
	lines := c.Tail()
	if len(lines) == 0 {
		return "(none)"
	}
	return strings.Join(lines, " | ")
}

// keep adds to the unfinished line. It keeps one byte more than is shown, which
// tells that the line was cut.
func (c *Console) keep(p []byte) {
	room := consoleLine + 1 - len(c.partial)
	c.partial = append(c.partial, p[:min(room, len(p))]...)
}

// flush finishes a line. In a flood that is cheap: the line changes places with the
// tail's oldest, whose memory takes the next one, and only what is shown is made
// printable.
func (c *Console) flush(now time.Time) {
	line := c.partial
	if !visible(line) {
		c.partial = line[:0]
		return
	}
	oldest := &c.tail.lines[c.tail.next]
	*oldest, c.partial = line, (*oldest)[:0]
	c.tail.next = (c.tail.next + 1) % consoleTail
	dropped, ok := c.gate.Pass(now, 1)
	if !ok {
		return
	}
	if dropped > 0 {
		c.line(fmt.Sprintf("(%d lines of console output dropped: the guest prints too fast)", dropped))
	}
	c.line(Printable(string(line), consoleLine))
}

// visible tells whether a line shows anything.
func visible(line []byte) bool {
	return bytes.IndexFunc(line, func(r rune) bool { return r != ' ' && unicode.IsPrint(r) }) >= 0
}

// Printable makes one line of a text that is not the host's own, for a log or an
// error: what a terminal would act upon is replaced by a space, and what is longer
// than limit bytes is cut, which "…" shows. A limit is at least the 3 bytes of that.
func Printable(text string, limit int) string {
	const mark = "…"
	cut := len(text) > limit
	if cut {
		text = whole(text, max(0, limit-len(mark)))
	}
	text = strings.TrimSpace(strings.Map(func(r rune) rune {
		if unicode.IsPrint(r) {
			return r
		}
		return ' '
	}, strings.ToValidUTF8(text, "?")))
	if cut {
		text += mark
	}
	return text
}

// whole is the beginning of a longer text, of at most n bytes, that does not end
// within a character.
func whole(text string, n int) string {
	for end := n; end > 0 && end > n-utf8.UTFMax; end-- {
		if utf8.RuneStart(text[end]) {
			return text[:end]
		}
	}
	return text[:n]
}
