package journal

import (
	"context"
	"sync"
	"time"

	"github.com/containerd/log"
)

// maxTail is how much a Tail keeps, in bytes, and perLine what each line counts beside its text:
// without, empty lines would cost nothing.
const (
	maxTail = 64 << 10
	perLine = 64
)

// Log and Console are the last lines of this process, which has one log, and at most one VM.
// What a guest prints cannot push out what the shim has to say: the log is without it.
var Log, Console = new(Tail), new(Tail)

// A Line is one without its end.
type Line struct {
	Time time.Time
	Text string
}

func (l Line) size() int { return perLine + len(l.Text) }

// A Tail keeps the last lines, of which each has a number. Whoever reads asks for those from a
// number on: nothing is kept for a reader, so that one who is slow holds up nobody, and misses
// what has been pushed out meanwhile.
type Tail struct {
	mu      sync.Mutex
	lines   []Line        // guarded by mu
	first   uint64        // the number of the first of them; guarded by mu
	size    int           // of all of them; guarded by mu
	changed chan struct{} // closed with the next line; nil when nobody waits; guarded by mu
}

// Add adds a line, and pushes out what there is no more room for. It waits for nobody.
func (t *Tail) Add(at time.Time, text string) {
	line := Line{at, text}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.lines = append(t.lines, line)
	t.size += line.size()
	for t.size > maxTail && len(t.lines) > 1 {
		t.size -= t.lines[0].size()
		t.lines[0] = Line{} // its memory goes now, and not when the array moves
		t.lines = t.lines[1:]
		t.first++
	}
	if t.changed != nil {
		close(t.changed)
		t.changed = nil
	}
}

// From returns the lines from a number on, as far as they are kept, and how many are not. When
// there are none, changed is closed with the next one.
func (t *Tail) From(number uint64) (lines []Line, lost uint64, changed <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if number < t.first {
		lost, number = t.first-number, t.first
	}
	if past := number - t.first; past < uint64(len(t.lines)) {
		return append(lines, t.lines[past:]...), lost, nil
	}
	if t.changed == nil {
		t.changed = make(chan struct{})
	}
	return nil, lost, t.changed
}

// The field by which a line of the log is known as one of the console.
const (
	sourceField   = "source"
	consoleSource = "console"
)

// ToConsole logs a line of the console, and keeps it. It is the caller's to bound.
func ToConsole(ctx context.Context, line string) {
	Console.Add(time.Now(), line)
	log.G(ctx).WithField(sourceField, consoleSource).Info(line)
}
