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

const (
	// maxHeader bounds the messages that open a stream, in bytes.
	maxHeader = 4 << 10
	// maxExit bounds the message of a program's end, in bytes.
	maxExit = 64
)

// OpenStream sends the header of a new stream and waits for the agent's reply.
func OpenStream(stream io.ReadWriter, header *StreamHeader) error {
	if err := SendHeader(stream, header); err != nil {
		return err
	}
	return AwaitReply(stream)
}

// SendHeader sends the header of a new stream, to which there is a reply.
func SendHeader(stream io.Writer, header *StreamHeader) error {
	_, err := protodelim.MarshalTo(stream, header)
	return err
}

// AwaitReply waits for the agent's reply to the header of a new stream.
func AwaitReply(stream io.Reader) error {
	var reply StreamReply
	if err := receive(stream, &reply, maxHeader); err != nil {
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
	if err := receive(stream, &header, maxHeader); err != nil {
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

// SendExit tells the host how a program of its operator's has ended.
func SendExit(stream io.Writer, status uint32) error {
	_, err := protodelim.MarshalTo(stream, &ShellExit{Status: status})
	return err
}

// ReceiveExit reads how a program has ended. A message that is too long is an error.
func ReceiveExit(stream io.Reader) (status uint32, err error) {
	var exit ShellExit
	err = receive(stream, &exit, maxExit)
	return exit.Status, err
}

// receive reads a message that has at most so many bytes.
func receive(stream io.Reader, message proto.Message, most int64) error {
	return protodelim.UnmarshalOptions{MaxSize: most}.UnmarshalFrom(byteReader{stream}, message)
}

// byteReader reads no further than it is asked: what follows a header belongs
// to the stream's user.
type byteReader struct{ io.Reader }

func (r byteReader) ReadByte() (byte, error) {
	var b [1]byte
	_, err := io.ReadFull(r.Reader, b[:])
	return b[0], err
}
