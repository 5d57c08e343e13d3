// Package mux carries byte streams between the host and the agent of a guest over
// one connection, which is a virtio-serial port or a vsock connection. It is the
// only part of vm that the guest shares.
//
// # Why not a multiplexer of others
//
// The guest is hostile. What it can make the host keep must have a limit, and the
// multiplexers that there are trust their peer: with yamux a ping costs the host a
// goroutine, a stream at least 256 KiB and up to twice that, a stream that the host
// has closed stays until the guest agrees, and a guest that does not read blocks
// the host's Close.
//
// # The protocol
//
// Each side sends frames. A frame is a header of 8 bytes and, with FrameData, a
// payload:
//
//	byte 0     kind
//	bytes 1–3  length, big-endian: of the payload, or the number that the kind needs
//	bytes 4–7  stream, big-endian
//
// The side that opens a stream numbers it: the host's numbers are odd, the guest's
// even, and each is greater than the one before. A stream is open from FrameOpen
// until either side sends FrameClose; whoever closes a stream forgets it at once
// and ignores what still arrives for it. FrameEnd ends one direction (shutdown(2),
// SHUT_WR). No frame has an answer, so a receiver never has to send.
//
// # Flow control
//
// A side sends no more bytes on a stream than it has credit for. Each starts with
// Window bytes; the receiver gives new credit as its user reads. A stream whose user
// has shown that it reads gets a LargeWindow, and of those the host has
// LargeStreams at a time. So n streams cost the host at most
// n × Window + LargeStreams × (LargeWindow − Window) bytes.
//
// # What ends a session
//
// A violation of the protocol ends the session with an error that says which; so
// does a guest that takes nothing for StallTimeout. There is nothing to negotiate:
// both sides are built from one tree.
package mux

import (
	"errors"
	"time"
)

// Port is the name of the virtio-serial port that carries the streams; the
// guest finds it in /sys/class/virtio-ports/*/name.
const Port = "msb.agent"

// VsockPort is the port of the host (CID 2) that the agent connects to where the
// machine has a vsock device (vsock(7)).
const VsockPort = 1024

// What the host keeps for a guest at most. The sums in docs/security.md are made of
// these.
const (
	// Window is how many bytes a stream holds that its user has not read.
	Window = 32 << 10
	// LargeWindow is that of a stream whose user has been seen to read.
	LargeWindow = 256 << 10
	// LargeStreams is how many streams of the host have a LargeWindow at a time.
	LargeStreams = 16
	// Backlog is how many streams that the guest has opened may wait for Accept.
	// One more is a violation.
	Backlog = 32
	// SendBuffer is how many bytes of frames wait to be sent. A Write waits beyond
	// it. Twice as much is kept while the guest does not read.
	SendBuffer = 128 << 10
	// ControlBuffer is how many bytes of frames without a payload, for which nobody
	// waits, may be in the send buffer beyond that.
	ControlBuffer = 64 << 10
	// StallTimeout is how long the guest may take to read what is sent to it at a
	// time, which is less than SendBuffer and ControlBuffer together.
	StallTimeout = time.Minute
)

// maxData is the longest payload of a frame, in bytes.
const maxData = 32 << 10

// ErrViolation is the class of the error of a session that was ended because the
// other side did what it must not.
var ErrViolation = errors.New("violation of the stream protocol")

// A side is what host and guest have of their own. The guest trusts the host: only
// the host's bounds are tight.
type side struct {
	peer    string // for messages
	first   uint32 // number of the first stream that it opens
	backlog int
	large   int // streams with a LargeWindow
	stall   time.Duration
}

var (
	hostSide  = side{peer: "the guest", first: 1, backlog: Backlog, large: LargeStreams, stall: StallTimeout}
	guestSide = side{peer: "the host", first: 2, backlog: 1 << 10, large: 1 << 20}
)
