package mux

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/msb-runtime/containerd-shim-msb/test/itself"
)

// slack is what a hostile guest may make the host's memory grow by in all.
const slack = 32 << 20

// hostile is the host's end of a session whose guest sends frames of its own making.
func hostile(t *testing.T) (*Session, net.Conn) {
	t.Helper()
	itself.NothingLeft(t)
	here, there := itself.Connection(t)
	host := Host(here)
	t.Cleanup(func() { host.Close(); there.Close() })
	return host, there
}

// put sends frames until the host has enough of them.
func put(conn net.Conn, frames ...[]byte) {
	_ = conn.SetWriteDeadline(time.Now().Add(patience))
	_, _ = conn.Write(bytes.Join(frames, nil))
}

func frame(kind Kind, stream uint32, length int) []byte {
	return Frame{Kind: kind, Stream: stream, Length: length}.Append(nil)
}

func data(stream uint32, n int) []byte {
	return append(frame(FrameData, stream, n), make([]byte, n)...)
}

// wantViolation waits for the session to end, with a reason that says so.
func wantViolation(t *testing.T, host *Session, reason string) {
	t.Helper()
	select {
	case <-host.Done():
	case <-time.After(patience):
		t.Fatalf("the session lives on; want %q", reason)
	}
	if err := host.Err(); !errors.Is(err, ErrViolation) || !strings.Contains(err.Error(), reason) {
		t.Errorf("the session ended with %v; want %q", err, reason)
	}
}

// Each violation ends the session with its name.
func TestViolations(t *testing.T) {
	opened := frame(FrameOpen, 2, 0)
	full := append(opened, data(2, maxData)...) // Window
	for reason, frames := range map[string][]byte{
		"sent a frame of the unknown kind 0":                   frame(0, 1, 0),
		"sent a frame of the unknown kind 255":                 bytes.Repeat([]byte{0xff}, 64),
		"sent a frame with 0 bytes":                            append(opened, frame(FrameData, 2, 0)...),
		"sent a frame with 32769 bytes":                        append(opened, data(2, maxData+1)...),
		"sent a frame for stream 2, which was never opened":    data(2, 1),
		"sent a frame for stream 3, which was never opened":    frame(FrameCredit, 3, 1),
		"sent a frame for stream 0, which was never opened":    frame(FrameClose, 0, 0),
		"sent a frame for stream 4, which was never opened":    append(opened, frame(FrameEnd, 4, 0)...),
		"opened stream 3, after 0":                             frame(FrameOpen, 3, 0),
		"opened stream 0, after 0":                             frame(FrameOpen, 0, 0),
		"opened stream 2, after 2":                             append(opened, opened...),
		"sent 1 bytes on stream 2, where it may send 0":        append(full, data(2, 1)...),
		"sent more on stream 2 after its end":                  append(append(opened, frame(FrameEnd, 2, 0)...), data(2, 1)...),
		"sent a frame of the unknown kind 6":                   bytes.Repeat(frame(FrameCredit+1, 0, 0), 1000),
		"opened more than 32 streams that nobody has accepted": opens(2, Backlog+1),
	} {
		t.Run(reason, func(t *testing.T) {
			host, conn := hostile(t)
			if _, err := host.Open(); err != nil { // stream 1
				t.Fatal(err)
			}
			put(conn, frames)
			wantViolation(t, host, reason)
		})
	}
}

// opens are frames that open n streams.
func opens(first uint32, n int) (frames []byte) {
	for i := range n {
		frames = append(frames, frame(FrameOpen, first+2*uint32(i), 0)...)
	}
	return frames
}

// A guest that opens and closes streams for ever, and never reads what the host says
// to that, costs a send buffer, and in the end its session.
func TestOpenAndCloseWithoutReading(t *testing.T) {
	host, conn := hostile(t)
	before := itself.Memory()
	go func() {
		for {
			stream, err := host.Accept()
			if err != nil {
				return
			}
			stream.Close()
		}
	}()
	for id := uint32(2); ; id += 2 {
		select {
		case <-host.Done():
			// It may also be too fast for the host to close them.
			if err := host.Err(); !errors.Is(err, ErrViolation) || !strings.Contains(err.Error(), "does not read") && !strings.Contains(err.Error(), "accepted yet") {
				t.Errorf("the session ended with %v", err)
			}
			if grown := itself.Memory() - before; grown > 4<<20 {
				t.Errorf("the host has grown by %d bytes", grown)
			}
			return
		default:
			put(conn, frame(FrameOpen, id, 0), frame(FrameClose, id, 0))
			if id > 1<<24 {
				t.Fatal("the session lives on")
			}
			if id%64 == 0 {
				time.Sleep(time.Millisecond) // for the host to accept them
			}
		}
	}
}

// A stream that the host has closed is forgotten, whatever the guest does with it.
func TestClosedStreamsAreForgotten(t *testing.T) {
	host, conn := hostile(t)
	go func() { _, _ = io.Copy(io.Discard, conn) }()
	before := itself.Memory()
	const streams = 20_000
	for n := range uint32(streams) {
		id := 2 + 2*n
		put(conn, frame(FrameOpen, id, 0), data(id, 512))
		stream, err := host.Accept()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := stream.Read(make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
		stream.Close()
		put(conn, data(id, 512)) // for a stream that is no more
	}
	host.mu.Lock()
	left := len(host.streams)
	host.mu.Unlock()
	if left != 0 {
		t.Errorf("%d streams are left", left)
	}
	if grown := itself.Memory() - before; grown > 4<<20 {
		t.Errorf("the host has grown by %d bytes", grown)
	}
}

// Streams that nobody reads hold a Window each, and those that somebody read before
// hold a LargeWindow, while there are any.
func TestWindowsAreBounded(t *testing.T) {
	host, guest := sessions(t)
	before := itself.Memory()
	const streams = 256
	message := make([]byte, 1<<20)
	for range streams {
		from, to := pair(t, guest, host)
		go func() { _, _ = from.Write(message) }()
		// It is read from once, which may make it a large one.
		if _, err := io.ReadFull(to, make([]byte, Window)); err != nil {
			t.Fatal(err)
		}
	}
	held := 0
	for deadline := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		host.mu.Lock()
		held = 0
		allowed := 0
		for _, stream := range host.streams {
			held += len(stream.received.data)
			allowed += stream.granted
		}
		host.mu.Unlock()
		if allowed == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("the guest may still send %d bytes", allowed)
		}
	}
	grown := itself.Memory() - before
	host.mu.Lock()
	defer host.mu.Unlock()
	want := streams*Window + LargeStreams*(LargeWindow-Window)
	if held > want || host.large != 0 {
		t.Errorf("the streams hold %d bytes, %d windows are left; want at most %d", held, host.large, want)
	}
	t.Logf("%d streams hold %d bytes; the process has grown by %d", streams, held, grown)
	if grown > slack {
		t.Errorf("the process has grown by %d bytes", grown)
	}
}

// The large windows of streams that are closed can be had again.
func TestLargeWindowsComeBack(t *testing.T) {
	host, guest := sessions(t)
	for range 3 * LargeStreams {
		from, to := pair(t, guest, host)
		go func() { _, _ = from.Write(make([]byte, Window)) }()
		if _, err := io.ReadFull(to, make([]byte, Window)); err != nil {
			t.Fatal(err)
		}
		if to.window != LargeWindow {
			t.Fatalf("the window is of %d bytes", to.window)
		}
		to.Close()
		to.Close()
	}
	if host.large != LargeStreams {
		t.Errorf("%d large windows are left", host.large)
	}
}

// A guest that stops reading holds up no Close and no deadline, and is given up.
func TestGuestStopsReading(t *testing.T) {
	itself.NothingLeft(t)
	here, there := net.Pipe()
	defer there.Close()
	side := hostSide
	side.stall = 2 * time.Second
	host := start(here, side)
	defer host.Close()
	before := itself.Memory()
	var streams []*Stream
	var writes sync.WaitGroup
	for range 500 {
		stream, err := host.Open()
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, stream)
		_ = stream.SetWriteDeadline(time.Now().Add(100 * time.Millisecond))
		writes.Go(func() {
			if _, err := stream.Write(make([]byte, 1<<20)); err == nil {
				t.Error("1 MiB was written to a guest that does not read")
			}
		})
	}
	writes.Wait()
	for _, stream := range streams {
		stream.Close()
	}
	select {
	case <-host.Done():
		t.Errorf("the session ended before the closes: %v", host.Err())
	default:
	}
	if grown := itself.Memory() - before; grown > 8<<20 {
		t.Errorf("the host has grown by %d bytes", grown)
	}
	wantViolation(t, host, "has not read")
}

// What the host wants to tell a guest that does not read is bounded, too.
func TestControlFramesAreBounded(t *testing.T) {
	itself.NothingLeft(t)
	here, there := net.Pipe()
	defer there.Close()
	host := Host(here)
	defer host.Close()
	for n := 0; ; n++ {
		stream, err := host.Open()
		if err != nil {
			break
		}
		stream.Close()
		if n > 1<<20 {
			t.Fatal("a million streams were opened and closed")
		}
	}
	wantViolation(t, host, "does not read")
}

// Half a frame holds up neither its stream's reader nor the end of the session.
func TestHalfAFrame(t *testing.T) {
	host, conn := hostile(t)
	put(conn, frame(FrameOpen, 2, 0), data(2, 100)[:50])
	stream, err := host.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = stream.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := stream.Read(make([]byte, 100)); err == nil {
		t.Error("half a frame was read")
	}
	stream.Close()
	host.Close()
}

// Whatever the guest sends, the host neither crashes nor hangs.
func FuzzReceive(f *testing.F) {
	f.Add(append(append(opens(2, 3), data(2, 100)...), frame(FrameClose, 2, 0)...))
	f.Fuzz(func(t *testing.T, sent []byte) {
		here, there := net.Pipe()
		host := Host(here)
		defer host.Close()
		go func() { _, _ = io.Copy(io.Discard, there) }()
		go func() {
			for {
				stream, err := host.Accept()
				if err != nil {
					return
				}
				go func() { _, _ = io.Copy(stream, stream); stream.Close() }()
			}
		}()
		_, _ = there.Write(sent)
		there.Close()
		<-host.Done()
	})
}
