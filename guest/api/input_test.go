package api

import (
	"bytes"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/iotest"
	"time"
)

// pieces is a reader that gives one piece at a time, as a FIFO does.
type pieces []string

func (p *pieces) Read(buffer []byte) (int, error) {
	if len(*p) == 0 {
		return 0, io.EOF
	}
	n := copy(buffer, (*p)[0])
	if (*p)[0] = (*p)[0][n:]; (*p)[0] == "" {
		*p = (*p)[1:]
	}
	return n, nil
}

// writes counts the calls of Write.
type writes struct {
	bytes.Buffer
	n int
}

func (w *writes) Write(p []byte) (int, error) {
	w.n++
	return w.Buffer.Write(p)
}

// Whatever the input comes in, it arrives whole and then ends; each piece is one
// write, and so is the end.
func TestInput(t *testing.T) {
	for name, input := range map[string]pieces{
		"nothing":    {},
		"a line":     {"a line\n"},
		"zeros":      {"\x00\x00\x00\x00", "\x00"},
		"keystrokes": {"l", "s", "\r"},
		"a chunk":    {strings.Repeat("x", inputChunk)},
		"much":       {strings.Repeat("x", inputChunk), strings.Repeat("y", inputChunk), "z"},
	} {
		t.Run(name, func(t *testing.T) {
			want, sent := strings.Join(input, ""), len(input)+1
			var stream writes
			if err := SendInput(&stream, &input); err != nil {
				t.Fatal(err)
			}
			if stream.n != sent {
				t.Errorf("%d writes, not %d", stream.n, sent)
			}
			stream.WriteString("not input any more")
			var got bytes.Buffer
			if err := ReceiveInput(&got, iotest.OneByteReader(&stream)); err != nil {
				t.Fatal(err)
			}
			if got.String() != want {
				t.Errorf("%d bytes arrived, not %d", got.Len(), len(want))
			}
		})
	}
}

// The receiver sees the end while the stream is still open, and no read waits for
// a full buffer.
func TestInputOnOpenStream(t *testing.T) {
	host, guest := net.Pipe()
	defer host.Close()
	defer guest.Close()
	input, typed := io.Pipe()
	go func() { _ = SendInput(host, input) }()
	output, seen := io.Pipe()
	done := make(chan error)
	go func() { done <- ReceiveInput(seen, guest) }()
	echo := make([]byte, 1)
	for _, key := range []byte("ls\r") {
		if _, err := typed.Write([]byte{key}); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(output, echo); err != nil || echo[0] != key {
			t.Fatalf("%q became %q, %v", key, echo, err)
		}
	}
	typed.Close()
	select {
	case err := <-done:
		if err != nil {
			t.Error(err)
		}
	case <-time.After(time.Minute):
		t.Error("the end of the input did not arrive")
	}
}

// Input that breaks off has no end: the process must not take it for complete.
func TestInputBreaksOff(t *testing.T) {
	broken := errors.New("broken")
	var stream bytes.Buffer
	input := io.MultiReader(strings.NewReader("half"), iotest.ErrReader(broken))
	if err := SendInput(&stream, input); !errors.Is(err, broken) {
		t.Errorf("SendInput = %v", err)
	}
	var got bytes.Buffer
	if err := ReceiveInput(&got, &stream); !errors.Is(err, io.ErrUnexpectedEOF) || got.String() != "half" {
		t.Errorf("ReceiveInput = %q, %v", got.String(), err)
	}
	if err := ReceiveInput(io.Discard, strings.NewReader("\x00\x00\x00\x05four")); !errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("half a frame: %v", err)
	}
	if err := ReceiveInput(io.Discard, strings.NewReader("\xff\xff\xff\xff")); err == nil || errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("a frame of 4 GiB: %v", err)
	}
}

func BenchmarkInput(b *testing.B) {
	host, guest := net.Pipe()
	b.SetBytes(inputChunk)
	input, chunk := make(pieces, b.N), strings.Repeat("x", inputChunk)
	for i := range input {
		input[i] = chunk
	}
	go func() { _ = SendInput(host, &input) }()
	if err := ReceiveInput(io.Discard, guest); err != nil {
		b.Fatal(err)
	}
}

func FuzzReceiveInput(f *testing.F) {
	f.Add([]byte("\x00\x00\x00\x01x\x00\x00\x00\x00"))
	f.Fuzz(func(t *testing.T, data []byte) {
		_ = ReceiveInput(io.Discard, bytes.NewReader(data))
	})
}
