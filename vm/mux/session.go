package mux

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"sync"
	"time"
)

// A Session is one end of the connection that carries the streams. It implements
// net.Listener for the streams that the other side opens. Its methods may be called
// concurrently.
type Session struct {
	side
	conn     io.ReadWriteCloser
	accepted chan *Stream
	done     chan struct{} // closed when err is set

	mu      sync.Mutex // guards all below, and the state of the streams
	streams map[uint32]*Stream
	next    uint32 // number of the next stream to open
	last    uint32 // number of the last one that the other side opened
	large   int    // streams that may yet get a LargeWindow
	out     []byte // frames to be sent
	unsent  *sync.Cond
	room    *sync.Cond // in out
	err     error      // why the session has ended
}

// Host starts the host's end of a session, which owns the connection.
func Host(conn net.Conn) *Session { return start(conn, hostSide) }

// Guest starts the guest's end of a session, which owns the connection.
func Guest(conn io.ReadWriteCloser) *Session { return start(conn, guestSide) }

func start(conn io.ReadWriteCloser, side side) *Session {
	s := newSession(conn, side)
	go s.receive()
	go s.send()
	return s
}

func newSession(conn io.ReadWriteCloser, side side) *Session {
	s := &Session{
		side: side, conn: conn, accepted: make(chan *Stream, side.backlog), done: make(chan struct{}),
		streams: make(map[uint32]*Stream), next: side.first, large: side.large,
	}
	s.unsent, s.room = sync.NewCond(&s.mu), sync.NewCond(&s.mu)
	return s
}

// Open opens a stream. It does not wait for the other side. The caller closes the
// stream.
func (s *Session) Open() (*Stream, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.err != nil {
		return nil, s.err
	}
	if s.next+2 < s.next {
		return nil, errors.New("the session has used up the numbers of its streams")
	}
	stream := newStream(s, s.next)
	s.next += 2
	s.streams[stream.id] = stream
	s.control(Frame{Kind: FrameOpen, Stream: stream.id})
	return stream, nil
}

// AcceptContext returns the next stream that the other side has opened. It fails
// when ctx or the session ends. The caller closes the stream.
func (s *Session) AcceptContext(ctx context.Context) (*Stream, error) {
	select {
	case stream := <-s.accepted:
		return stream, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	case <-s.done:
		return nil, s.Err()
	}
}

// Accept implements net.Listener.
func (s *Session) Accept() (net.Conn, error) {
	stream, err := s.AcceptContext(context.Background())
	if err != nil {
		return nil, err
	}
	return stream, nil
}

// Addr implements net.Listener.
func (s *Session) Addr() net.Addr { return address{} }

// address is that of both ends of every stream.
type address struct{}

func (address) Network() string { return "msb" }
func (address) String() string  { return Port }

// Close ends the session and its streams at once, and closes the connection.
func (s *Session) Close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fail(net.ErrClosed)
	return nil
}

// Done is closed when the session has ended.
func (s *Session) Done() <-chan struct{} { return s.done }

// Err tells why the session has ended; nil means that it has not. It is of the class
// ErrViolation if that was the other side's fault. With errors.Is every such error
// is net.ErrClosed and io.ErrClosedPipe, too.
func (s *Session) Err() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.err
}

// ended is the error of a session that has ended, and of its streams.
type ended struct{ error }

func (e ended) Unwrap() error        { return e.error }
func (e ended) Is(target error) bool { return target == net.ErrClosed || target == io.ErrClosedPipe }

// fail ends the session. It is called with mu held.
func (s *Session) fail(err error) {
	if s.err != nil {
		return
	}
	s.err = ended{err}
	close(s.done)
	for _, stream := range s.streams {
		stream.gone = s.err
		stream.wake()
	}
	clear(s.streams)
	s.unsent.Broadcast()
	s.room.Broadcast()
	s.conn.Close()
}

func (s *Session) violation(format string, args ...any) error {
	return fmt.Errorf("%s %s: %w", s.peer, fmt.Sprintf(format, args...), ErrViolation)
}

// control sends a frame without a payload. It does not wait: what a side sends so is
// limited by what its users do. It is called with mu held.
func (s *Session) control(frame Frame) {
	if s.err != nil {
		return
	}
	if len(s.out)+FrameSize > SendBuffer+FrameSize+maxData+ControlBuffer {
		s.fail(s.violation("does not read, and more than %d bytes wait for it", len(s.out)))
		return
	}
	s.out = frame.Append(s.out)
	s.unsent.Signal()
}

// data sends a frame with a payload. It is called with mu held when hasRoom says that
// it may.
func (s *Session) data(stream uint32, payload []byte) {
	s.out = append(Frame{Kind: FrameData, Length: len(payload), Stream: stream}.Append(s.out), payload...)
	s.unsent.Signal()
}

func (s *Session) hasRoom() bool { return len(s.out) < SendBuffer }

// send writes frames to the connection until the session ends.
func (s *Session) send() {
	var spare []byte
	s.mu.Lock()
	defer s.mu.Unlock()
	for {
		for len(s.out) == 0 && s.err == nil {
			s.unsent.Wait()
			s.gather()
		}
		if s.err != nil {
			return
		}
		batch := s.out
		s.out = spare[:0]
		s.room.Broadcast()
		s.mu.Unlock()
		err := s.write(batch)
		s.mu.Lock()
		spare = batch
		if err != nil {
			s.fail(err)
		}
	}
}

// gather lets goroutines go first that are about to send, too: each write wakes the other side up, by an
// exit of the VM or an interrupt. It is called with mu held.
func (s *Session) gather() {
	s.mu.Unlock()
	runtime.Gosched()
	s.mu.Lock()
}

func (s *Session) write(batch []byte) error {
	if conn, ok := s.conn.(net.Conn); ok && s.stall > 0 {
		_ = conn.SetWriteDeadline(time.Now().Add(s.stall))
	}
	_, err := s.conn.Write(batch)
	switch {
	case errors.Is(err, os.ErrDeadlineExceeded):
		return s.violation("has not read %d bytes in %s", len(batch), s.stall)
	case err != nil:
		return fmt.Errorf("sending to %s: %w", s.peer, err)
	}
	return nil
}

// receive reads frames from the connection until the session ends. It never sends:
// so two sides that both write cannot wait for each other.
func (s *Session) receive() {
	in := bufio.NewReader(s.conn)
	var header [FrameSize]byte
	for {
		_, err := io.ReadFull(in, header[:])
		if err == nil {
			err = s.handle(ParseFrame(header[:]), in)
		}
		if err != nil {
			if errors.Is(err, io.EOF) {
				err = io.ErrUnexpectedEOF // io.EOF is the orderly end of a stream, which this is not
			}
			if !errors.Is(err, ErrViolation) {
				err = fmt.Errorf("receiving from %s: %w", s.peer, err)
			}
			s.mu.Lock()
			defer s.mu.Unlock()
			s.fail(err)
			return
		}
	}
}

func (s *Session) handle(frame Frame, in *bufio.Reader) error {
	if frame.Kind == FrameData {
		return s.receiveData(frame, in)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch frame.Kind {
	case FrameOpen:
		return s.receiveOpen(frame.Stream)
	case FrameEnd, FrameClose, FrameCredit:
		stream, err := s.find(frame.Stream)
		if stream != nil {
			stream.handle(frame)
		}
		return err
	}
	return s.violation("sent a frame of the unknown kind %d", frame.Kind)
}

// find returns a stream, or nil if it was closed. It is called with mu held.
func (s *Session) find(id uint32) (*Stream, error) {
	if stream := s.streams[id]; stream != nil {
		return stream, nil
	}
	if id == 0 || s.ours(id) && id >= s.next || !s.ours(id) && id > s.last {
		return nil, s.violation("sent a frame for stream %d, which was never opened", id)
	}
	return nil, nil
}

// ours tells whether this side gives the number.
func (s *Session) ours(id uint32) bool { return id%2 == s.first%2 }

func (s *Session) receiveOpen(id uint32) error {
	if s.ours(id) || id <= s.last {
		return s.violation("opened stream %d, after %d", id, s.last)
	}
	s.last = id
	stream := newStream(s, id)
	select {
	case s.accepted <- stream:
		s.streams[id] = stream
		return nil
	default:
		return s.violation("opened more than %d streams that nobody has accepted yet", s.backlog)
	}
}

func (s *Session) receiveData(frame Frame, in *bufio.Reader) error {
	if frame.Length == 0 || frame.Length > maxData {
		return s.violation("sent a frame with %d bytes", frame.Length)
	}
	s.mu.Lock()
	stream, err := s.find(frame.Stream)
	if stream == nil {
		s.mu.Unlock()
		if err == nil {
			_, err = in.Discard(frame.Length)
		}
		return err
	}
	first, second, err := stream.reserve(frame.Length)
	s.mu.Unlock()
	if err != nil {
		return err
	}
	// Without the lock: this waits for as long as the other side likes.
	for _, part := range [][]byte{first, second} {
		if _, err := io.ReadFull(in, part); err != nil {
			return err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	stream.commit(frame.Length)
	return nil
}
