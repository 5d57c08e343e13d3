package fake

import (
	"encoding/binary"
	"net"
	"sync"
	"time"

	"github.com/msb-runtime/containerd-shim-msb/vm/mux"
)

// frames are how a protocol divides a byte stream: a header of fixed length, and as
// many bytes behind it as the header says.
type frames struct {
	header int
	body   func(header []byte) int
}

var (
	// muxFrames are those of vm/mux.
	muxFrames = frames{header: mux.FrameSize, body: func(header []byte) int {
		if frame := mux.ParseFrame(header); frame.Kind == mux.FrameData {
			return frame.Length
		}
		return 0
	}}
	// ttrpcFrames: length (4), stream (4), type, flags (ttrpc, PROTOCOL.md).
	ttrpcFrames = frames{header: 10, body: func(header []byte) int {
		return int(binary.BigEndian.Uint32(header))
	}}
)

// A wire is a connection whose writer, which follows a protocol, can be interrupted
// between two frames by one that does not; and which can stop reading.
type wire struct {
	net.Conn
	frames frames

	turn    chan struct{} // has a token while no frame is half written
	header  []byte        // of the frame that is being written; Write's
	left    int           // of its body; Write's
	stopped chan struct{} // closed when nothing more is to be read
	stop    sync.Once
	closed  chan struct{}
	close   sync.Once
}

func newWire(conn net.Conn, frames frames) *wire {
	w := &wire{
		Conn: conn, frames: frames, turn: make(chan struct{}, 1),
		stopped: make(chan struct{}), closed: make(chan struct{}),
	}
	w.turn <- struct{}{}
	return w
}

// Write is for the one writer that follows the protocol.
func (w *wire) Write(p []byte) (int, error) {
	if w.between() {
		if err := w.begin(); err != nil {
			return 0, err
		}
	}
	w.advance(p)
	n, err := w.Conn.Write(p)
	if w.between() {
		w.turn <- struct{}{}
	}
	return n, err
}

// inject writes bytes of anyone's between two frames.
func (w *wire) inject(p []byte) error {
	if err := w.begin(); err != nil {
		return err
	}
	_, err := w.Conn.Write(p)
	w.turn <- struct{}{}
	return err
}

func (w *wire) begin() error {
	select {
	case <-w.turn:
		return nil
	case <-w.closed:
		return net.ErrClosed
	}
}

func (w *wire) between() bool { return len(w.header) == 0 && w.left == 0 }

// advance follows the frames in p.
func (w *wire) advance(p []byte) {
	for len(p) > 0 {
		if w.left > 0 {
			n := min(w.left, len(p))
			w.left, p = w.left-n, p[n:]
			continue
		}
		n := min(w.frames.header-len(w.header), len(p))
		w.header, p = append(w.header, p[:n]...), p[n:]
		if len(w.header) == w.frames.header {
			w.left = w.frames.body(w.header)
			w.header = w.header[:0]
		}
	}
}

// Read implements net.Conn.
func (w *wire) Read(p []byte) (int, error) {
	if w.isStopped() {
		<-w.closed
		return 0, net.ErrClosed
	}
	n, err := w.Conn.Read(p)
	if w.isStopped() {
		<-w.closed
		return 0, net.ErrClosed
	}
	return n, err
}

func (w *wire) isStopped() bool {
	select {
	case <-w.stopped:
		return true
	default:
		return false
	}
}

// stopReading lets no Read return until Close, not even the one that is under way.
func (w *wire) stopReading() {
	w.stop.Do(func() {
		close(w.stopped)
		_ = w.Conn.SetReadDeadline(time.Unix(1, 0))
	})
}

// Close implements net.Conn.
func (w *wire) Close() error {
	w.close.Do(func() { close(w.closed) })
	return w.Conn.Close()
}
