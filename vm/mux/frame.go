package mux

import "encoding/binary"

// A Kind says what a frame means.
type Kind uint8

// The kinds of frames.
const (
	// FrameOpen opens the stream.
	FrameOpen Kind = iota + 1
	// FrameData is followed by Length bytes of the stream, 32 KiB at most.
	FrameData
	// FrameEnd says that the sender sends no more bytes on the stream.
	FrameEnd
	// FrameClose says that the sender has forgotten the stream. With a Length of 0
	// all was sent that was to be; with 1 it was broken off.
	FrameClose
	// FrameCredit allows the receiver Length more bytes on the stream.
	FrameCredit
)

// aborted is the Length of a FrameClose that breaks a stream off.
const aborted = 1

// A Frame is the header of a frame.
type Frame struct {
	Kind   Kind
	Length int // 24 bits
	Stream uint32
}

// FrameSize is the size of a header in bytes.
const FrameSize = 8

// Append appends the header to b.
func (f Frame) Append(b []byte) []byte {
	b = binary.BigEndian.AppendUint32(b, uint32(f.Kind)<<24|uint32(f.Length)&(1<<24-1))
	return binary.BigEndian.AppendUint32(b, f.Stream)
}

// ParseFrame reads a header of FrameSize bytes.
func ParseFrame(b []byte) Frame {
	first := binary.BigEndian.Uint32(b)
	return Frame{Kind: Kind(first >> 24), Length: int(first & (1<<24 - 1)), Stream: binary.BigEndian.Uint32(b[4:])}
}
