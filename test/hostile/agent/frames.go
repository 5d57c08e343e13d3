package main

import (
	"encoding/binary"
	"io"
	"sync"

	"github.com/msb-runtime/containerd-shim-msb/vm/mux"
)

// frames is a connection that carries frames, each a header and a body. What the agent
// writes goes through it, and other bytes go between its frames.
type frames struct {
	io.ReadWriteCloser
	header int              // length of a frame's header, in bytes
	length func([]byte) int // of the body, by the header

	deafened sync.Once
	deaf     chan struct{} // closed when nothing is to be read any more

	mu   sync.Mutex
	idle *sync.Cond // signalled when no frame is half written
	head []byte     // what is there of the header
	rest int        // what is missing of the body
}

func newFrames(conn io.ReadWriteCloser, header int, length func([]byte) int) *frames {
	f := &frames{ReadWriteCloser: conn, header: header, length: length, deaf: make(chan struct{})}
	f.idle = sync.NewCond(&f.mu)
	return f
}

// Write implements io.Writer.
func (f *frames) Write(p []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.follow(p)
	n, err := f.ReadWriteCloser.Write(p)
	if f.between() {
		f.idle.Broadcast()
	}
	return n, err
}

// follow keeps track of where frames begin.
func (f *frames) follow(p []byte) {
	for len(p) > 0 {
		if f.rest > 0 {
			n := min(f.rest, len(p))
			f.rest, p = f.rest-n, p[n:]
			continue
		}
		n := min(f.header-len(f.head), len(p))
		f.head, p = append(f.head, p[:n]...), p[n:]
		if len(f.head) == f.header {
			f.rest, f.head = f.length(f.head), f.head[:0]
		}
	}
}

func (f *frames) between() bool { return f.rest == 0 && len(f.head) == 0 }

// put writes bytes between two frames.
func (f *frames) put(p []byte) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	for !f.between() {
		f.idle.Wait()
	}
	_, err := f.ReadWriteCloser.Write(p)
	return err
}

// Read implements io.Reader. It never returns once the agent is deaf.
func (f *frames) Read(p []byte) (int, error) {
	n, err := f.ReadWriteCloser.Read(p)
	select {
	case <-f.deaf:
		select {}
	default:
		return n, err
	}
}

func (f *frames) stopReading() { f.deafened.Do(func() { close(f.deaf) }) }

// muxLength is how many bytes follow a header of vm/mux.
func muxLength(header []byte) int {
	frame := mux.ParseFrame(header)
	if frame.Kind != mux.FrameData {
		return 0 // the length is a number of something else
	}
	return frame.Length
}

func muxFrame(kind mux.Kind, stream uint32, length int, body []byte) []byte {
	return append(mux.Frame{Kind: kind, Length: length, Stream: stream}.Append(nil), body...)
}

// The frames of ttrpc (its PROTOCOL.md).
const (
	ttrpcHeader = 10

	ttrpcRequest  = 1
	ttrpcResponse = 2
	ttrpcData     = 3
)

func ttrpcLength(header []byte) int { return int(binary.BigEndian.Uint32(header)) }

func ttrpcFrame(kind byte, stream, length uint32, body []byte) []byte {
	frame := make([]byte, ttrpcHeader, ttrpcHeader+len(body))
	binary.BigEndian.PutUint32(frame, length)
	binary.BigEndian.PutUint32(frame[4:], stream)
	frame[8] = kind
	return append(frame, body...)
}
