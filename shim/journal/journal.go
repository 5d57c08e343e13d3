// Package journal bounds the log of the shim. What makes a library of the shim log
// may be the guest's doing: ttrpc's client, for one, logs a line for each message
// on a stream that it does not know. containerd copies all of it into its own log.
//
// The last lines are kept in memory, too, those of the guest's console apart (tail.go), and told
// to an operator's program that asks the shim for them (serve.go).
package journal

import (
	"bytes"
	"fmt"
	"io"
	"maps"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"github.com/msb-runtime/containerd-shim-msb/internal/flood"
)

const (
	// maxLine is the size to which a line is cut, in bytes.
	maxLine = 8 << 10
	// burst and perSecond are how many bytes are written at once, and then each
	// second: with the counts of what was dropped, less than a mebibyte in any
	// minute.
	burst     = 512 << 10
	perSecond = 8 << 10
)

// Bound limits what the logger writes to where it writes to now: long lines are
// cut, and what comes too fast is dropped and counted. What is written and is not the
// console's is kept in Log. Only the first call for an output does anything. Others may log at
// the same time, but not change the output.
func Bound(logger *logrus.Logger) { bound(logger, Log, time.Now) }

func bound(logger *logrus.Logger, tail *Tail, now func() time.Time) {
	if _, done := logger.Out.(*writer); !done {
		logger.SetOutput(newWriter(logger.Out, logger.Formatter, tail, now))
		logger.SetFormatter(marking{logger.Formatter})
	}
}

// Named has each line tell whose it is: fields that it does not have are added. It is called
// before Bound.
func Named(logger *logrus.Logger, fields logrus.Fields) {
	logger.SetFormatter(naming{logger.Formatter, fields})
}

// A naming formatter adds fields.
type naming struct {
	logrus.Formatter
	fields logrus.Fields
}

// Format implements logrus.Formatter.
func (n naming) Format(entry *logrus.Entry) ([]byte, error) {
	named := *entry // it may be somebody else's, too
	named.Data = maps.Clone(n.fields)
	maps.Copy(named.Data, entry.Data)
	return n.Formatter.Format(&named)
}

// consoleMark is before a line of the console on its way from the formatter to the writer. No line
// begins with it otherwise: what a formatter does not quote is printable.
var consoleMark = []byte{0}

// A marking formatter marks lines of the console.
type marking struct{ logrus.Formatter }

// Format implements logrus.Formatter.
func (m marking) Format(entry *logrus.Entry) ([]byte, error) {
	line, err := m.Formatter.Format(entry)
	if err == nil && entry.Data[sourceField] == consoleSource {
		line = append(bytes.Clone(consoleMark), line...)
	}
	return line, err
}

// A writer takes one line with each write.
type writer struct {
	now       func() time.Time
	formatter logrus.Formatter
	tail      *Tail

	mu   sync.Mutex
	out  io.Writer   // guarded by mu
	gate *flood.Gate // guarded by mu
}

func newWriter(out io.Writer, formatter logrus.Formatter, tail *Tail, now func() time.Time) *writer {
	return &writer{now: now, formatter: formatter, tail: tail, out: out, gate: flood.NewGate(burst, perSecond)}
}

// Write writes a line, or drops it. It takes no longer than the writes to the
// output, and does not log: the logger holds its lock.
func (w *writer) Write(p []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	unmarked, isConsole := bytes.CutPrefix(p, consoleMark)
	line, now := cut(unmarked), w.now()
	dropped, ok := w.gate.Pass(now, len(line))
	if !ok {
		return len(p), nil
	}
	if dropped > 0 {
		if err := w.tell(now, dropped); err != nil {
			return 0, err
		}
	}
	// It is kept first: the output may hang.
	if !isConsole {
		w.keep(now, line)
	}
	if _, err := w.out.Write(line); err != nil {
		return 0, err
	}
	return len(p), nil
}

func (w *writer) keep(now time.Time, line []byte) {
	w.tail.Add(now, string(bytes.TrimSuffix(line, []byte("\n"))))
}

// tell writes how many lines were dropped. That is at most once a second, and not
// counted itself.
func (w *writer) tell(now time.Time, dropped int) error {
	line, err := w.formatter.Format(&logrus.Entry{
		Time: now, Level: logrus.WarnLevel,
		Message: fmt.Sprintf("%d lines of the shim's log were dropped: they came too fast", dropped),
	})
	if err != nil {
		return err
	}
	w.keep(now, line)
	_, err = w.out.Write(line)
	return err
}

// cut shortens a line that is too long. What was cut within quotes is quoted again,
// so that the line remains one of fields and their values.
func cut(line []byte) []byte {
	const mark = "…"
	if len(line) <= maxLine {
		return line
	}
	kept, quoted := whole(line[:maxLine-len(mark)-len("\"\n")])
	short := append(append(make([]byte, 0, maxLine), kept...), mark...)
	if quoted {
		short = append(short, '"')
	}
	return append(short, '\n')
}

// whole leaves away what a text ends within, be it a character or an escape
// sequence (strconv.Quote), and tells whether the rest ends within quotes.
func whole(text []byte) (kept []byte, quoted bool) {
	const longest = len(`\U0010ffff`)
	escape := -longest // where the last escape sequence begins
	for i := 0; i < len(text); i++ {
		switch {
		case text[i] == '\\' && quoted:
			escape = i
			i++ // what is escaped is no quote
		case text[i] == '"':
			quoted = !quoted
		}
	}
	if quoted && len(text)-escape < longest {
		return text[:escape], true
	}
	return bytes.ToValidUTF8(text, nil), quoted
}
