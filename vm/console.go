package vm

import (
	"bytes"
	"fmt"
	"strings"
	"sync"
	"time"
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
	partial []byte   // guarded by mu
	tail    []string // guarded by mu
	budget  float64  // lines that may be forwarded now; guarded by mu
	refill  time.Time
	dropped int
}

// NewConsole returns a Console that hands each line to the given function,
// which must not block.
func NewConsole(line func(string)) *Console {
	return &Console{line: line, now: time.Now, budget: consoleBurst, refill: time.Now()}
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
	n := len(p)
	for len(p) > 0 {
		end := bytes.IndexByte(p, '\n')
		if end < 0 {
			c.keep(p)
			break
		}
		c.keep(p[:end])
		c.flush()
		p = p[end+1:]
	}
	return n, nil
}

// Tail returns the last lines, oldest first, an unfinished one included.
func (c *Console) Tail() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	lines := append([]string(nil), c.tail...)
	if last := printable(c.partial); last != "" {
		lines = append(lines, last)
	}
	return lines
}

// Last is the Tail in one line, for a message.
func (c *Console) Last() string {
	lines := c.Tail()
	if len(lines) == 0 {
		return "(none)"
	}
	return strings.Join(lines, " | ")
}

func (c *Console) keep(p []byte) {
	if room := consoleLine - len(c.partial); len(p) > room {
		p = p[:room]
	}
	c.partial = append(c.partial, p...)
}

func (c *Console) flush() {
	line := printable(c.partial)
	c.partial = c.partial[:0]
	if line == "" {
		return
	}
	if len(c.tail) == consoleTail {
		c.tail = append(c.tail[:0], c.tail[1:]...)
	}
	c.tail = append(c.tail, line)
	c.forward(line)
}

// forward is a token bucket: a full one holds consoleBurst lines.
func (c *Console) forward(line string) {
	now := c.now()
	c.budget = min(consoleBurst, c.budget+now.Sub(c.refill).Seconds()*consolePerSecond)
	c.refill = now
	if c.budget < 1 {
		c.dropped++
		return
	}
	if c.dropped > 0 {
		c.line(fmt.Sprintf("(%d lines of console output dropped: the guest prints too fast)", c.dropped))
		c.dropped = 0
	}
	c.budget--
	c.line(line)
}

// printable replaces what a terminal would act upon; a log is read in one.
func printable(p []byte) string {
	return strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r == 0x7f || (r >= 0x80 && r < 0xa0) {
			return ' '
		}
		return r
	}, strings.ToValidUTF8(string(p), "?")))
}
