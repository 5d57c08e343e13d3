package guest

import (
	"encoding/binary"
	"fmt"
	"net"
	"sync/atomic"

	"github.com/containerd/errdefs"
)

const (
	// headerSize is the size in bytes of the header before each frame of ttrpc: the
	// payload's length (4, big endian), the stream (4), type and flags (ttrpc, PROTOCOL.md).
	headerSize = 10
	// maxFrame is the largest payload in bytes that the agent may send. ttrpc itself takes
	// 4 MiB, and the answers of the agent have a few KiB.
	maxFrame = 256 << 10
)

// The types of frames.
const (
	frameRequest = 1 + iota
	frameResponse
	frameData
)

// A header is that of a frame.
type header [headerSize]byte

func (h *header) length() uint32 { return binary.BigEndian.Uint32(h[:]) }
func (h *header) stream() uint32 { return binary.BigEndian.Uint32(h[4:]) }
func (h *header) kind() byte     { return h[8] }
func (h *header) flags() byte    { return h[9] }

// A parser finds the headers in bytes that come in pieces.
type parser struct {
	header header
	have   int    // bytes of header
	rest   uint32 // bytes of the payload still to come
}

// next passes the headers that end in data, until one is wrong.
func (p *parser) next(data []byte, check func(*header) error) error {
	for len(data) > 0 {
		if p.rest > 0 {
			skip := min(uint32(len(data)), p.rest)
			p.rest -= skip
			data = data[skip:]
			continue
		}
		n := copy(p.header[p.have:], data)
		p.have += n
		data = data[n:]
		if p.have < headerSize {
			return nil
		}
		p.have, p.rest = 0, p.header.length()
		if err := check(&p.header); err != nil {
			return err
		}
	}
	return nil
}

// frames is the connection of the calls. It ends the VM of a guest that sends what no
// agent does: a frame larger than maxFrame, before anything is kept of it, or one that
// answers nothing. ttrpc's client would log a line for each of those.
type frames struct {
	net.Conn
	machine Machine

	sent, received parser
	answers        uint32        // how many came
	last           atomic.Uint32 // the last stream that was opened; they have odd numbers
	following      atomic.Uint32 // the last of them on which the guest may send data
}

// Write implements net.Conn. ttrpc has one writer.
func (f *frames) Write(p []byte) (int, error) {
	_ = f.sent.next(p, f.open)
	return f.Conn.Write(p)
}

// open notes that the host opens a stream. ttrpc's client has flags for those that are not
// over with an answer.
func (f *frames) open(h *header) error {
	if h.kind() == frameRequest {
		f.last.Store(h.stream())
		if h.flags() != 0 {
			f.following.Store(h.stream())
		}
	}
	return nil
}

// Read implements net.Conn. ttrpc has one reader.
func (f *frames) Read(p []byte) (int, error) {
	n, err := f.Conn.Read(p)
	if violation := f.received.next(p[:n], f.check); violation != nil {
		violation = fmt.Errorf("the guest sent %w: %w", violation, errdefs.ErrUnavailable)
		f.machine.End(violation)
		return 0, violation
	}
	return n, err
}

// check judges a frame of the guest.
func (f *frames) check(h *header) error {
	if h.length() > maxFrame {
		return fmt.Errorf("a message of %d bytes, and %d is the most", h.length(), maxFrame)
	}
	last := f.last.Load()
	known := h.stream()%2 == 1 && h.stream() <= last
	switch {
	case h.kind() == frameResponse && known:
		if f.answers++; f.answers > last/2+1 {
			return fmt.Errorf("more answers than it got calls, %d", f.answers-1)
		}
		return nil
	case h.kind() == frameData && known && h.stream() == f.following.Load():
		return nil
	}
	return fmt.Errorf("what answers no call: a message of type %d on stream %d", h.kind(), h.stream())
}
