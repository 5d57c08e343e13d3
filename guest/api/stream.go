package api

import (
	"errors"
	"fmt"
	"io"

	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"
)

// MaxOpening is how many streams the agent opens at a time that the host has not
// answered yet. The host ends a guest that opens many more (mux.Backlog).
const MaxOpening = 16

// MaxGroups is how many supplementary groups of a process that connects to a socket are
// carried.
const MaxGroups = 256

// maxHeader bounds the messages that open a stream, in bytes.
const maxHeader = 4 << 10

// OpenStream sends the header of a new stream and waits for the agent's reply.
func OpenStream(stream io.ReadWriter, header *StreamHeader) error {
	if _, err := protodelim.MarshalTo(stream, header); err != nil {
		return err
	}
	var reply StreamReply
	if err := receive(stream, &reply); err != nil {
		return err
	}
	if reply.Error != "" {
		return errors.New(reply.Error)
	}
	return nil
}

// AcceptStream reads the header of a new stream. The caller answers it with
// ReplyStream.
func AcceptStream(stream io.Reader) (*StreamHeader, error) {
	var header StreamHeader
	if err := receive(stream, &header); err != nil {
		return nil, fmt.Errorf("reading a stream's header: %w", err)
	}
	return &header, nil
}

// ReplyStream tells the host that the stream is ready, or why it is not.
func ReplyStream(stream io.Writer, cause error) error {
	var reply StreamReply
	if cause != nil {
		reply.Error = cause.Error()
	}
	_, err := protodelim.MarshalTo(stream, &reply)
	return err
}

func receive(stream io.Reader, message proto.Message) error {
	return protodelim.UnmarshalOptions{MaxSize: maxHeader}.UnmarshalFrom(byteReader{stream}, message)
}

// byteReader reads no further than it is asked: what follows a header belongs
// to the stream's user.
type byteReader struct{ io.Reader }

func (r byteReader) ReadByte() (byte, error) {
	var b [1]byte
	_, err := io.ReadFull(r.Reader, b[:])
	return b[0], err
}
