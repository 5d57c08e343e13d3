package socket

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"google.golang.org/protobuf/encoding/protodelim"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/test/counted"
	"github.com/msb-runtime/containerd-shim-msb/test/itself"
	"github.com/msb-runtime/containerd-shim-msb/vm/mux"
)

const (
	// patience is how long a test waits for what must happen.
	patience = time.Minute
	// slack is what a hostile guest may make the host's memory grow by in all.
	slack = 32 << 20
)

// intruder is the host's end of a session whose streams the table serves, and the
// connection to it of a guest that sends frames of its own making.
func intruder(t *testing.T, table *Table) (*mux.Session, net.Conn) {
	t.Helper()
	itself.NothingLeft(t)
	here, there := net.Pipe()
	host := mux.Host(here)
	t.Cleanup(func() { host.Close(); there.Close() })
	serve(t, table, host)
	return host, there
}

func wantGrowth(t *testing.T, before, most int64) {
	t.Helper()
	grown := itself.Memory() - before
	t.Logf("the host has grown by %d KiB", grown>>10)
	if grown > most {
		t.Errorf("the host has grown by %d bytes", grown)
	}
}

// opening are the frames that open a stream to a socket.
func opening(t *testing.T, id uint32, tag string) []byte {
	t.Helper()
	var header bytes.Buffer
	_, err := protodelim.MarshalTo(&header, &api.StreamHeader{
		Purpose: &api.StreamHeader_Socket{Socket: &api.SocketStream{Tag: tag, Peer: &api.Peer{}}},
	})
	if err != nil {
		t.Fatal(err)
	}
	frames := mux.Frame{Kind: mux.FrameOpen, Stream: id}.Append(nil)
	frames = mux.Frame{Kind: mux.FrameData, Stream: id, Length: header.Len()}.Append(frames)
	return append(frames, header.Bytes()...)
}

// closes counts in a channel the streams that the host closes.
func closes(conn io.Reader) <-chan uint32 {
	closed := make(chan uint32, 1024)
	go func() {
		defer close(closed)
		var header [mux.FrameSize]byte
		for {
			if _, err := io.ReadFull(conn, header[:]); err != nil {
				return
			}
			frame := mux.ParseFrame(header[:])
			switch frame.Kind {
			case mux.FrameData:
				if _, err := io.CopyN(io.Discard, conn, int64(frame.Length)); err != nil {
					return
				}
			case mux.FrameClose:
				closed <- frame.Stream
			}
		}
	}()
	return closed
}

// 15,000 streams without a whole header: the first few wait for theirs, and the guest
// is ended for the others.
func TestStreamsWithoutHeader(t *testing.T) {
	var table Table
	host, conn := intruder(t, &table)
	go func() { _, _ = io.Copy(io.Discard, conn) }()
	before := itself.Memory()
	_ = conn.SetWriteDeadline(time.Now().Add(patience))
	for n := range uint32(15_000) {
		frames := mux.Frame{Kind: mux.FrameOpen, Stream: 2 + 2*n}.Append(nil)
		frames = mux.Frame{Kind: mux.FrameData, Stream: 2 + 2*n, Length: 1}.Append(frames)
		if _, err := conn.Write(append(frames, 100)); err != nil {
			break
		}
	}
	select {
	case <-host.Done():
	case <-time.After(patience):
		t.Fatal("the session lives on")
	}
	if err := host.Err(); !errors.Is(err, mux.ErrViolation) {
		t.Errorf("the session ended with %v", err)
	}
	wantGrowth(t, before, 4<<20)
}

// A stream has a few seconds for its header, and others wait meanwhile; nobody is
// refused who comes after so many as the agent opens at a time.
func TestHeaderTakesTooLong(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	listen(t, path, "echo")
	var table Table
	s, err := add(t, &table, path, false)
	if err != nil {
		t.Fatal(err)
	}
	session := guest(t, &table)
	var silent []*mux.Stream
	for range MaxOpening {
		stream, err := session.Open()
		if err != nil {
			t.Fatal(err)
		}
		silent = append(silent, stream)
	}
	start := time.Now()
	late := start.Add(patience) // for all of them
	if _, err := open(t, session, s.Tag); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took < HeaderTimeout/2 {
		t.Errorf("one more than %d streams were without a connection, after %s", MaxOpening, took)
	}
	for _, stream := range silent {
		_ = stream.SetReadDeadline(late)
		if _, err := stream.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("a stream without a header: %v", err)
		}
	}
}

// As many connections as there may be, to a server that does not read, and one more.
func TestServerThatDoesNotRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	var table Table
	s, err := add(t, &table, path, false)
	if err != nil {
		t.Fatal(err)
	}
	host, conn := intruder(t, &table)
	closed := closes(conn)
	before := itself.Memory()
	payload := make([]byte, mux.Window)
	_ = conn.SetWriteDeadline(time.Now().Add(10 * patience))
	for n := range uint32(MaxConnections) {
		id := 2 + 2*n
		if _, err := conn.Write(opening(t, id, s.Tag)); err != nil {
			t.Fatal(host.Err())
		}
		server, err := listener.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer server.Close()
		if err := server.(*net.UnixConn).SetReadBuffer(4 << 10); err != nil {
			t.Fatal(err)
		}
		// What it may send by now: the header was given no new credit for.
		allowed := mux.Window - len(opening(t, id, s.Tag)) + 2*mux.FrameSize
		frames := mux.Frame{Kind: mux.FrameData, Stream: id, Length: allowed}.Append(nil)
		if _, err := conn.Write(append(frames, payload[:allowed]...)); err != nil {
			t.Fatal(host.Err())
		}
	}
	wantGrowth(t, before, slack)
	last := uint32(2 + 2*MaxConnections)
	if _, err := conn.Write(opening(t, last, s.Tag)); err != nil {
		t.Fatal(host.Err())
	}
	select {
	case id := <-closed:
		if id != last {
			t.Errorf("stream %d was closed", id)
		}
	case <-time.After(patience):
		t.Error("one connection more was not refused")
	}
}

// A guest is told why it is refused.
func TestLimit(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	listen(t, path, "echo")
	var table Table
	s, err := add(t, &table, path, false)
	if err != nil {
		t.Fatal(err)
	}
	table.opened = MaxConnections
	want, counts := fmt.Sprintf("%d connections are open", MaxConnections), counted.Begin(t)
	if _, err := open(t, guest(t, &table), s.Tag); err == nil || !strings.Contains(err.Error(), want) {
		t.Errorf("one more: %v", err)
	}
	if got := counts(); got != "streams resource exhausted 1" {
		t.Errorf("counted: %s", got)
	}
}

// A stream that has no header is refused, one that is closed before is not.
func TestHeaderIsNone(t *testing.T) {
	var table Table
	session, counts := guest(t, &table), counted.Begin(t)
	for _, header := range []string{"", "\x05ab", "\x02ab"} {
		stream, err := session.Open()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Write([]byte(header)); err != nil {
			t.Fatal(err)
		}
		if err := stream.CloseWrite(); err != nil {
			t.Fatal(err)
		}
		_ = stream.SetReadDeadline(time.Now().Add(patience))
		if _, err := stream.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("%q: %v", header, err)
		}
	}
	if got := counts(); got != "streams other 1" {
		t.Errorf("counted: %s", got)
	}
}

// A guest that is refused 20,000 times and closes none of its streams.
func TestRefusedWithoutEnd(t *testing.T) {
	var table Table
	host, conn := intruder(t, &table)
	closed := closes(conn)
	before, counts := itself.Memory(), counted.Begin(t)
	_ = conn.SetWriteDeadline(time.Now().Add(10 * patience))
	const streams = 20_000
	for n := range uint32(streams) {
		if n >= MaxOpening { // as the agent does it
			if _, open := <-closed; !open {
				t.Fatal(host.Err())
			}
		}
		if _, err := conn.Write(opening(t, 2+2*n, "so_other")); err != nil {
			t.Fatal(host.Err())
		}
	}
	wantGrowth(t, before, 4<<20)
	itself.Await(t, "all refusals to be counted", func() bool { return counts() == fmt.Sprintf("streams not found %d", streams) })
}

// A guest that connects for ever and reads no answer is ended, or waited for, at no
// cost.
func TestRefusalsThatNobodyReads(t *testing.T) {
	var table Table
	_, conn := intruder(t, &table)
	before := itself.Memory()
	_ = conn.SetWriteDeadline(time.Now().Add(5 * time.Second))
	for n := range uint32(1 << 20) {
		if _, err := conn.Write(opening(t, 2+2*n, "so_other")); err != nil {
			break
		}
	}
	wantGrowth(t, before, 4<<20)
}
