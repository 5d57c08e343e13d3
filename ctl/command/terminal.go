package command

import (
	"bytes"
	"context"
	"errors"
	"io"
	"os"
	"os/signal"
	"sync"
	"time"

	"golang.org/x/sys/unix"
	"golang.org/x/term"

	"github.com/msb-runtime/containerd-shim-msb/ctl/screen"
	"github.com/msb-runtime/containerd-shim-msb/ctl/survey"
)

const (
	// leaveKey, typed so many times in a row, ends a program that takes no other key: ^], as for
	// machinectl(1).
	leaveKey   = ']' - '@'
	leaveTimes = 3
	// chunk is how much is read of a terminal at once, in bytes, and maxChunks how many of them wait for
	// a program that does not read: a large paste.
	chunk     = 4 << 10
	maxChunks = 256
	// unshown is how long to wait for a terminal that takes no text, before it is left as it is.
	unshown = time.Second
)

// A terminal lends the operator's terminal to a program: what is typed goes there as it is, ^C too
// (raw mode, termios(3)), and what is shown passes a filter. A side that is no terminal stays as it is.
type terminal struct {
	in, out *os.File // nil: no terminal
	found   *unix.Termios
	writer  io.Writer
	sizes   chan survey.Size // the last one that nobody has taken
	end     context.CancelCauseFunc

	signals chan os.Signal
	writing chan struct{} // has one while something is written, or nothing more is to be
	filter  screen.Filter // of who writes

	mu       sync.Mutex
	restored bool // guarded by mu
}

// lend begins it, until restore. end is called when the operator leaves.
func lend(in io.Reader, out io.Writer, end context.CancelCauseFunc) (*terminal, error) {
	t := &terminal{
		in: terminalOf(in), out: terminalOf(out), writer: out, end: end,
		sizes: make(chan survey.Size, 1), signals: make(chan os.Signal, 8), writing: make(chan struct{}, 1),
	}
	if t.in != nil {
		var err error
		if t.found, err = unix.IoctlGetTermios(int(t.in.Fd()), unix.TCGETS); err != nil {
			return nil, os.NewSyscallError("TCGETS", err)
		}
	}
	signal.Notify(t.signals, unix.SIGWINCH, unix.SIGCONT, unix.SIGQUIT) // before one could end this program in raw mode
	if err := t.raw(); err != nil {
		signal.Stop(t.signals)
		return nil, err
	}
	go t.follow()
	return t, nil
}

// terminalOf is a stream if it is a terminal.
func terminalOf(stream any) *os.File {
	if o, ok := stream.(*output); ok {
		stream = o.Writer
	}
	if file, ok := stream.(*os.File); ok && term.IsTerminal(int(file.Fd())) {
		return file
	}
	return nil
}

func (t *terminal) raw() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.in == nil || t.restored {
		return nil
	}
	_, err := term.MakeRaw(int(t.in.Fd()))
	return err
}

// restore gives the terminal back, as it was found. What was typed and not read goes nowhere: it was
// for the program, and not for who reads next.
func (t *terminal) restore() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.restored {
		return
	}
	t.restored = true
	signal.Stop(t.signals)
	close(t.signals)
	if t.found != nil {
		_ = unix.IoctlSetInt(int(t.in.Fd()), unix.TCFLSH, unix.TCIFLUSH)
		_ = unix.IoctlSetTermios(int(t.in.Fd()), unix.TCSETS, t.found)
	}
	written := make(chan struct{})
	go func() {
		defer close(written)
		t.writing <- struct{}{} // for good
		if t.out != nil {
			_, _ = t.out.Write(t.filter.Reset())
		}
	}()
	select {
	case <-written:
	case <-time.After(unshown):
	}
}

// guard restores the terminal before a panic ends the program: that of a goroutine passes by what its
// caller has deferred.
func (t *terminal) guard() {
	if p := recover(); p != nil {
		t.restore()
		panic(p)
	}
}

// follow takes signals, until restore: a size that changes; a stop that is over, during which the
// shell has had the terminal; and what would end this program without restore.
func (t *terminal) follow() {
	defer t.guard()
	for s := range t.signals {
		switch s {
		case unix.SIGQUIT:
			t.end(errors.New("ended by a signal, and the program with it"))
			continue
		case unix.SIGCONT:
			_ = t.raw()
		}
		select {
		case <-t.sizes:
		default:
		}
		t.sizes <- t.size() // nobody else sends
	}
}

// size is the terminal's; that of what is none is not known.
func (t *terminal) size() survey.Size {
	for _, side := range []*os.File{t.out, t.in} {
		if side != nil {
			if columns, rows, err := term.GetSize(int(side.Fd())); err == nil {
				return survey.Size{Rows: uint16(rows), Columns: uint16(columns)}
			}
		}
	}
	return survey.Size{}
}

// program is the terminal of the program that it is lent to.
func (t *terminal) program() *survey.Terminal {
	name := os.Getenv("TERM")
	if name == "" {
		name = "dumb"
	}
	return &survey.Terminal{Term: name, Size: t.size(), Sizes: t.sizes}
}

// Write shows what the program prints.
func (t *terminal) Write(text []byte) (int, error) {
	defer t.guard()
	t.writing <- struct{}{} // never again after restore
	defer func() { <-t.writing }()
	shown := text
	if t.out != nil {
		shown = t.filter.Append(nil, text)
	}
	if _, err := t.writer.Write(shown); err != nil {
		return 0, err
	}
	return len(text), nil
}

// A keyboard is what the operator types, who can leave. It is read whether or not the program reads:
// what nobody has room for is dropped, as a terminal does (n_tty), so that leaveKey is seen behind it.
type keyboard struct {
	chunks chan []byte
	rest   []byte // of the chunk that is read
}

// keyboard begins to read what is typed. What comes from no terminal is not typed, and stays as it is.
func (t *terminal) keyboard(in io.Reader) io.Reader {
	if t.in == nil {
		return in
	}
	k := &keyboard{chunks: make(chan []byte, maxChunks)}
	go k.listen(t)
	return k
}

// listen reads until the input ends or the operator leaves.
func (k *keyboard) listen(t *terminal) {
	defer t.guard()
	defer close(k.chunks)
	pressed := 0 // how often leaveKey was the last key
	text := make([]byte, chunk)
	for {
		n, err := t.in.Read(text)
		for _, key := range text[:n] {
			if key != leaveKey {
				pressed = 0
			} else if pressed++; pressed == leaveTimes {
				t.end(errors.New("ended by ^], and the program with it"))
				return
			}
		}
		if n > 0 {
			select {
			case k.chunks <- bytes.Clone(text[:n]):
			default:
			}
		}
		if err != nil {
			return
		}
	}
}

func (k *keyboard) Read(text []byte) (int, error) {
	for len(k.rest) == 0 {
		var more bool
		if k.rest, more = <-k.chunks; !more {
			return 0, io.EOF
		}
	}
	n := copy(text, k.rest)
	k.rest = k.rest[n:]
	return n, nil
}
