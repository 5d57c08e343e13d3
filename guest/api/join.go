package api

import (
	"io"
	"net"
	"sync"

	"github.com/msb-runtime/containerd-shim-msb/internal/copying"
)

// JoinBuffer is what Join keeps, in bytes, beside what the stream's windows hold.
const JoinBuffer = 16 << 10

// Conn is a connection of which one direction can be ended.
type Conn interface {
	net.Conn
	CloseWrite() error
}

// Join copies between a connection and a stream, in both directions, until both
// have ended. The end of one direction is passed on and leaves the other open
// (shutdown(2), SHUT_WR); an error, such as that the connection was closed, ends
// both, and the stream's other end reads an error. It closes both.
func Join(conn Conn, stream net.Conn) {
	var copies sync.WaitGroup
	defer stream.Close()
	defer conn.Close()
	defer copies.Wait()
	copies.Go(func() {
		// A stream of vm/mux writes out of its window: no buffer is needed.
		_, err := io.Copy(onlyWriter{conn}, stream)
		if err != nil {
			breakOff(conn, stream)
		}
		_ = conn.CloseWrite()
	})
	if err := copying.Through(JoinBuffer, stream, conn); err != nil {
		breakOff(conn, stream)
	}
	CloseWrite(stream)
}

func breakOff(conn, stream net.Conn) {
	conn.Close()
	if stream, ok := stream.(interface{ Reset() error }); ok {
		_ = stream.Reset()
		return
	}
	stream.Close()
}

// CloseWrite ends one direction of a stream. One that has no such end is closed.
func CloseWrite(stream net.Conn) {
	if stream, ok := stream.(Conn); ok {
		_ = stream.CloseWrite()
		return
	}
	stream.Close()
}

// onlyWriter hides methods by which io.Copy would move bytes in another way.
type onlyWriter struct{ io.Writer }
