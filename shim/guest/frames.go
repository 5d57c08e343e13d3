package guest

import (
	"encoding/binary"
	"fmt"
	"net"

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

// frames is the connection of the calls. It ends the VM of a guest that sends a frame
// larger than maxFrame, before anything is kept of it.
type frames struct {
	net.Conn
	machine Machine

	header [headerSize]byte
	have   int    // bytes of header
	rest   uint32 // bytes of the payload still to come
}

// Read implements net.Conn. ttrpc has one reader.
func (f *frames) Read(p []byte) (int, error) {
	n, err := f.Conn.Read(p)
	if violation := f.check(p[:n]); violation != nil {
		f.machine.End(violation)
		return 0, violation
	}
	return n, err
}

// check follows the frames in what was read.
func (f *frames) check(data []byte) error {
	for len(data) > 0 {
		if f.rest > 0 {
			skip := min(uint32(len(data)), f.rest)
			f.rest -= skip
			data = data[skip:]
			continue
		}
		n := copy(f.header[f.have:], data)
		f.have += n
		data = data[n:]
		if f.have < headerSize {
			return nil
		}
		f.have = 0
		if f.rest = binary.BigEndian.Uint32(f.header[:]); f.rest > maxFrame {
			return fmt.Errorf("the guest sent a message of %d bytes, and %d is the most: %w", f.rest, maxFrame, errdefs.ErrUnavailable)
		}
	}
	return nil
}
