package mux

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"syscall"
	"time"
)

// A Stream is a byte stream to the other side. It implements net.Conn. One goroutine
// may read from it and others may write to it at the same time.
type Stream struct {
	session *Session
	id      uint32
	writing sync.Mutex // makes one Write follow the other

	// The rest is guarded by session.mu.
	readable, writable *sync.Cond

	received ring
	window   int  // most that received may come to hold
	granted  int  // bytes that the other side may still send
	read     int  // bytes read that no new credit was given for
	atEnd    bool // the other side sends no more

	credit   int  // bytes that this side may still send
	finished bool // this side sends no more

	closed bool  // by this side
	gone   error // set when the other side has closed it, or the session has ended

	readDeadline, writeDeadline deadline
}

var _ net.Conn = (*Stream)(nil)

// deadline is one of a stream's.
type deadline struct {
	timer  *time.Timer
	passed bool
}

func newStream(session *Session, id uint32) *Stream {
	return &Stream{
		session: session, id: id, window: Window, granted: Window, credit: Window,
		readable: sync.NewCond(&session.mu), writable: sync.NewCond(&session.mu),
	}
}

// Read implements net.Conn.
func (s *Stream) Read(p []byte) (int, error) {
	s.session.mu.Lock()
	defer s.session.mu.Unlock()
	if err := s.awaitData(); err != nil {
		return 0, err
	}
	n := s.received.read(p)
	s.consumed(n)
	return n, nil
}

// WriteTo implements io.WriterTo: it needs no buffer.
func (s *Stream) WriteTo(w io.Writer) (total int64, err error) {
	for {
		s.session.mu.Lock()
		err := s.awaitData()
		data := s.received.peek()
		s.session.mu.Unlock()
		if errors.Is(err, io.EOF) {
			return total, nil
		}
		if err != nil {
			return total, err
		}
		n, err := w.Write(data)
		total += int64(n)
		s.session.mu.Lock()
		if !s.closed {
			s.received.discard(n)
			s.consumed(n)
		}
		s.session.mu.Unlock()
		if err != nil {
			return total, err
		}
	}
}

// awaitData waits until there is something to read. Like all below that are not
// exported it is called with session.mu held.
func (s *Stream) awaitData() error {
	for {
		switch {
		case s.closed:
			return net.ErrClosed
		case s.readDeadline.passed:
			return os.ErrDeadlineExceeded
		case s.received.n > 0:
			return nil
		case s.atEnd:
			return io.EOF
		case s.gone != nil:
			return s.gone
		}
		s.readable.Wait()
	}
}

// consumed gives the other side new credit for bytes that were read.
func (s *Stream) consumed(n int) {
	s.read += n
	if s.read < s.window/2 || s.atEnd || s.gone != nil {
		return
	}
	credit := s.read
	if s.window == Window && s.session.large > 0 {
		s.session.large--
		s.window = LargeWindow
		credit += LargeWindow - Window
	}
	s.read = 0
	s.granted += credit
	s.session.control(Frame{Kind: FrameCredit, Length: credit, Stream: s.id})
}

// reserve returns where n bytes go that the other side sends.
func (s *Stream) reserve(n int) (first, second []byte, err error) {
	switch {
	case s.atEnd:
		return nil, nil, s.session.violation("sent more on stream %d after its end", s.id)
	case n > s.granted:
		return nil, nil, s.session.violation("sent %d bytes on stream %d, where it may send %d", n, s.id, s.granted)
	}
	s.granted -= n
	first, second = s.received.reserve(n, s.window)
	return first, second, nil
}

// commit makes the bytes readable that were reserved.
func (s *Stream) commit(n int) {
	if !s.closed {
		s.received.commit(n)
		s.readable.Broadcast()
	}
}

// handle does what the other side says in a frame without a payload.
func (s *Stream) handle(frame Frame) {
	switch frame.Kind {
	case FrameEnd:
		s.atEnd = true
		s.readable.Broadcast()
	case FrameCredit:
		s.credit += frame.Length
		s.writable.Broadcast()
	case FrameClose:
		delete(s.session.streams, s.id)
		if frame.Length == aborted {
			s.gone = &net.OpError{Op: "read", Net: address{}.Network(), Err: syscall.ECONNRESET}
		} else {
			s.atEnd = true
			s.gone = fmt.Errorf("%s has closed the stream: %w", s.session.peer, io.ErrClosedPipe)
		}
		s.wake()
	}
}

func (s *Stream) wake() {
	s.readable.Broadcast()
	s.writable.Broadcast()
	s.session.room.Broadcast()
}

// Write implements net.Conn. It returns when the bytes are on their way; the other
// side need not have read them.
func (s *Stream) Write(p []byte) (total int, err error) {
	s.writing.Lock()
	defer s.writing.Unlock()
	s.session.mu.Lock()
	defer s.session.mu.Unlock()
	for total < len(p) {
		if err := s.awaitCredit(); err != nil {
			return total, err
		}
		n := min(len(p)-total, s.credit, maxData)
		s.session.data(s.id, p[total:total+n])
		s.credit -= n
		total += n
	}
	return total, nil
}

// awaitCredit waits until something may be sent.
func (s *Stream) awaitCredit() error {
	for {
		switch {
		case s.closed, s.finished:
			return net.ErrClosed
		case s.writeDeadline.passed:
			return os.ErrDeadlineExceeded
		case s.gone != nil:
			return s.gone
		case s.credit == 0:
			s.writable.Wait()
		case !s.session.hasRoom():
			s.session.room.Wait()
		default:
			return nil
		}
	}
}

// CloseWrite ends this side's direction: the other side reads an end after all that
// was written, and may still send. It does not wait.
func (s *Stream) CloseWrite() error {
	s.session.mu.Lock()
	defer s.session.mu.Unlock()
	switch {
	case s.closed:
		return net.ErrClosed
	case s.gone != nil:
		return s.gone
	case !s.finished:
		s.finished = true
		s.session.control(Frame{Kind: FrameEnd, Stream: s.id})
		s.wake()
	}
	return nil
}

// Close closes the stream: the other side reads an end after all that was written,
// and what it still sends is thrown away. It does not wait.
func (s *Stream) Close() error { return s.close(0) }

// Reset closes the stream so that the other side reads an error (ECONNRESET) instead
// of an end. It does not wait.
func (s *Stream) Reset() error { return s.close(aborted) }

func (s *Stream) close(how int) error {
	s.session.mu.Lock()
	defer s.session.mu.Unlock()
	if s.closed {
		return nil
	}
	s.closed = true
	if s.window == LargeWindow {
		s.session.large++
	}
	s.received = ring{}
	s.readDeadline.stop()
	s.writeDeadline.stop()
	if s.gone == nil {
		delete(s.session.streams, s.id)
		s.session.control(Frame{Kind: FrameClose, Length: how, Stream: s.id})
	}
	s.wake()
	return nil
}

// LocalAddr implements net.Conn.
func (s *Stream) LocalAddr() net.Addr { return address{} }

// RemoteAddr implements net.Conn.
func (s *Stream) RemoteAddr() net.Addr { return address{} }

// SetDeadline implements net.Conn.
func (s *Stream) SetDeadline(t time.Time) error {
	s.set(&s.readDeadline, t)
	s.set(&s.writeDeadline, t)
	return nil
}

// SetReadDeadline implements net.Conn.
func (s *Stream) SetReadDeadline(t time.Time) error {
	s.set(&s.readDeadline, t)
	return nil
}

// SetWriteDeadline implements net.Conn.
func (s *Stream) SetWriteDeadline(t time.Time) error {
	s.set(&s.writeDeadline, t)
	return nil
}

func (s *Stream) set(d *deadline, t time.Time) {
	s.session.mu.Lock()
	defer s.session.mu.Unlock()
	d.stop()
	if s.closed || t.IsZero() {
		return
	}
	wait := time.Until(t)
	if wait <= 0 {
		d.passed = true
		s.wake()
		return
	}
	var timer *time.Timer
	timer = time.AfterFunc(wait, func() {
		s.session.mu.Lock()
		defer s.session.mu.Unlock()
		if d.timer == timer { // it was not set again meanwhile
			d.passed = true
			s.wake()
		}
	})
	d.timer = timer
}

func (d *deadline) stop() {
	if d.timer != nil {
		d.timer.Stop()
	}
	*d = deadline{}
}
