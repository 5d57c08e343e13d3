package api

import (
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"time"

	"google.golang.org/protobuf/encoding/protodelim"
	"google.golang.org/protobuf/proto"
)

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

// Conn is a connection of which one direction can be ended.
type Conn interface {
	net.Conn
	CloseWrite() error
}

// Join copies between a connection and a stream, in both directions, until both
// have ended. The end of one direction is passed on and leaves the other open
// (shutdown(2), SHUT_WR); an error, such as that the connection was closed, ends
// both. The caller closes both.
func Join(conn Conn, stream net.Conn) {
	breakOff := func(err error) {
		if err != nil {
			conn.Close()
			_ = stream.SetDeadline(time.Unix(1, 0))
		}
	}
	var copies sync.WaitGroup
	copies.Go(func() {
		_, err := io.CopyBuffer(onlyWriter{conn}, onlyReader{stream}, make([]byte, joinChunk))
		breakOff(err)
		_ = conn.CloseWrite()
	})
	copies.Go(func() {
		_, err := io.CopyBuffer(onlyWriter{stream}, onlyReader{conn}, make([]byte, joinChunk))
		breakOff(err)
		stream.Close() // sends the end, and still receives
	})
	copies.Wait()
}

// joinChunk is the most that one step of Join moves, in bytes.
const joinChunk = 64 << 10

// onlyReader and onlyWriter hide methods by which io.CopyBuffer would do without
// its buffer.
type (
	onlyReader struct{ io.Reader }
	onlyWriter struct{ io.Writer }
)

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
