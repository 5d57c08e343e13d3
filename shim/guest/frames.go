package guest

import (
	"encoding/binary"
	"fmt"
	"net"
	"sync/atomic"

	"github.com/containerd/errdefs"

	"github.com/msb-runtime/containerd-shim-msb/shim/count"
)

const (
	// headerSize is the size in bytes of the header before each payload of ttrpc: the
	// payload's length (4, big endian), the stream (4, too), the type (1) and flags (1)
	// (ttrpc, PROTOCOL.md).
	headerSize = 10
	// maxFrame is the size in bytes of the largest payload that the agent may send. ttrpc
	// itself takes 4 MiB; the agent's answers have a few KiB.
	maxFrame = 64 << 10
)

// The types of frames.
const (
	frameRequest = 1 + iota
	frameResponse
	frameData
)

// A header is the header of a frame.
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

// next takes the next bytes, and calls check with each header that they complete. It stops
// at the first error.
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

// frames is the connection of the calls. It ends the VM of a guest that sends what no agent
// does: a frame larger than maxFrame, of which nothing is kept, or one that answers no call.
// For each of the latter ttrpc's client would log a line.
//
// It counts answers, and does not match each with its call: that is enough to bound what
// comes. A second answer to one call is found when there are more answers than calls. To a call that
// has a stream of answers ttrpc's server may send its last twice, when the method ends before it has its
// request: that is no violation.
type frames struct {
	net.Conn
	machine Machine

	sent, received parser
	answers        uint32        // how many have come
	last           atomic.Uint32 // the last stream that the host opened: 1, 3, 5, one for each call
	following      atomic.Uint32 // the last of these on which the guest may send data
	followed       atomic.Uint32 // how many of these there were
}

// Write implements net.Conn. ttrpc has one writer.
func (f *frames) Write(p []byte) (int, error) {
	_ = f.sent.next(p, f.open)
	return f.Conn.Write(p)
}

// open notes that the host opens a stream. ttrpc's client sets flags on a request for which
// more than one answer may come, as for the guest's events.
func (f *frames) open(h *header) error {
	if h.kind() == frameRequest {
		f.last.Store(h.stream())
		if h.flags() != 0 {
			f.following.Store(h.stream())
			f.followed.Add(1)
		}
	}
	return nil
}

// Read implements net.Conn. ttrpc has one reader.
func (f *frames) Read(p []byte) (int, error) {
	n, err := f.Conn.Read(p)
	if violation := f.received.next(p[:n], f.check); violation != nil {
		violation = fmt.Errorf("the guest sent %w: %w", violation, errdefs.ErrUnavailable)
		count.AddViolation()
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
		if f.answers++; f.answers > last/2+1+f.followed.Load() {
			return fmt.Errorf("more answers than it got calls, %d", last/2+1)
		}
		return nil
	case h.kind() == frameData && known && h.stream() == f.following.Load():
		return nil
	}
	return fmt.Errorf("what answers no call: a message of type %d on stream %d", h.kind(), h.stream())
}
