package api

import (
	"bufio"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A process's input goes to the guest in frames: a length of four bytes, big
// endian, and as many bytes of input. The length 0 is the end of the input. So
// the end is a message as any other, and the stream itself stays open until the
// host has no more use for it: a stream of which one side is closed is ended
// after a while, whether the guest has read everything or not.

const (
	// inputChunk is the most input in one frame, in bytes.
	inputChunk = 64 << 10
	// inputHeader is the size of a frame's length, in bytes.
	inputHeader = 4
	// inputBuffer is the most that one read of the receiver takes, in bytes:
	// every wake-up costs the same, so each should move much.
	inputBuffer = 256 << 10
)

// SendInput sends what it reads until the end of it, and then that end. An error
// says that reading or sending failed; the guest is not told an end then.
func SendInput(stream io.Writer, input io.Reader) error {
	frame := make([]byte, inputHeader+inputChunk)
	for {
		n, err := input.Read(frame[inputHeader:])
		if n > 0 {
			if err := sendFrame(stream, frame, n); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return sendFrame(stream, frame, 0)
		}
		if err != nil {
			return fmt.Errorf("reading input: %w", err)
		}
	}
}

// sendFrame sends the first n bytes of input that a frame holds, in one write.
func sendFrame(stream io.Writer, frame []byte, n int) error {
	binary.BigEndian.PutUint32(frame, uint32(n))
	if _, err := stream.Write(frame[:inputHeader+n]); err != nil {
		return fmt.Errorf("sending input: %w", err)
	}
	return nil
}

// ReceiveInput writes what SendInput sends until the end of the input. A stream
// that ends before that is an io.ErrUnexpectedEOF.
func ReceiveInput(output io.Writer, stream io.Reader) error {
	frames := bufio.NewReaderSize(stream, inputBuffer)
	for {
		header, err := take(frames, inputHeader)
		if err != nil {
			return err
		}
		length := binary.BigEndian.Uint32(header)
		if length == 0 {
			return nil
		}
		if length > inputChunk {
			return fmt.Errorf("receiving input: a frame of %d bytes is longer than %d", length, inputChunk)
		}
		input, err := take(frames, int(length))
		if err != nil {
			return err
		}
		if _, err := output.Write(input); err != nil {
			return fmt.Errorf("handing over input: %w", err)
		}
	}
}

// take returns the next n bytes, which are valid until the next call.
func take(frames *bufio.Reader, n int) ([]byte, error) {
	data, err := frames.Peek(n)
	if errors.Is(err, io.EOF) {
		err = io.ErrUnexpectedEOF
	}
	if err != nil {
		return nil, fmt.Errorf("receiving input: %w", err)
	}
	_, err = frames.Discard(n)
	return data, err
}
