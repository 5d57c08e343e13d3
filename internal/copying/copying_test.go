package copying

import (
	"bytes"
	"errors"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/iotest"
)

var errBroken = errors.New("broken")

// A source notes how much each read could take. It has a way of its own, which is not to be taken.
type source struct {
	io.Reader
	asked []int
}

func (s *source) Read(p []byte) (int, error) {
	s.asked = append(s.asked, len(p))
	return s.Reader.Read(p)
}

func (*source) WriteTo(io.Writer) (int64, error) { return 0, errors.New("the source's own way") }

// A sink has a way of its own, too.
type sink struct{ io.Writer }

func (*sink) ReadFrom(io.Reader) (int64, error) { return 0, errors.New("the sink's own way") }

// short takes a part of what it is given.
type short struct{}

func (short) Write(p []byte) (int, error) { return len(p) / 2, nil }

// broken takes nothing.
type broken struct{}

func (broken) Write([]byte) (int, error) { return 0, errBroken }

// Each way of copying hands over all that comes, through a buffer of its size, and says what broke.
func TestCopies(t *testing.T) {
	const size = 16
	text := strings.Repeat("0123456789", 10)
	for way, copies := range map[string]func(io.Writer, io.Reader) error{
		"through one": func(to io.Writer, from io.Reader) error { return Through(size, to, from) },
		"buffers":     NewBuffers(size).Copy,
	} {
		for name, c := range map[string]struct {
			from io.Reader
			to   io.Writer // nil takes all
			want string
			err  error
		}{
			"nothing":       {strings.NewReader(""), nil, "", nil},
			"some":          {strings.NewReader("some"), nil, "some", nil},
			"more than one": {strings.NewReader(text), nil, text, nil},
			"bit by bit":    {iotest.OneByteReader(strings.NewReader(text)), nil, text, nil},
			"an end beside": {iotest.DataErrReader(strings.NewReader(text)), nil, text, nil},
			"breaks off":    {io.MultiReader(strings.NewReader(text), iotest.ErrReader(errBroken)), nil, text, errBroken},
			"takes nothing": {strings.NewReader(text), broken{}, "", errBroken},
			"takes a part":  {strings.NewReader(text), short{}, "", io.ErrShortWrite},
		} {
			var got bytes.Buffer
			from := &source{Reader: c.from}
			to := c.to
			if to == nil {
				to = &got
			}
			if err := copies(&sink{to}, from); !errors.Is(err, c.err) || got.String() != c.want {
				t.Errorf("%s, %s: %q, %v; want %q, %v", way, name, &got, err, c.want, c.err)
			}
			for _, asked := range from.asked {
				if asked != size {
					t.Errorf("%s, %s: a read could take %d bytes, want %d", way, name, asked, size)
				}
			}
		}
	}
}

// Copies at the same time have a buffer each: what one has read is not another's.
func TestBuffersAtOnce(t *testing.T) {
	const size, copies = 64, 8
	buffers := NewBuffers(size)
	var all, begun sync.WaitGroup
	begun.Add(copies)
	for i := range copies {
		all.Go(func() {
			text := strings.Repeat(string(rune('a'+i)), 10*size)
			// None writes before all have read.
			var once sync.Once
			meet := func() { once.Do(func() { begun.Done(); begun.Wait() }) }
			var got bytes.Buffer
			if err := buffers.Copy(waiting{&got, meet}, strings.NewReader(text)); err != nil || got.String() != text {
				t.Errorf("copy %d: %q, %v", i, &got, err)
			}
		})
	}
	all.Wait()
}

// waiting waits before it writes.
type waiting struct {
	io.Writer
	wait func()
}

func (w waiting) Write(p []byte) (int, error) {
	w.wait()
	return w.Writer.Write(p)
}

// A copy that comes after another makes no buffer, and one that broke off has given its own back.
func TestBuffersAreKept(t *testing.T) {
	const copies = 1000
	for name, to := range map[string]io.Writer{"ends": io.Discard, "breaks off": broken{}} {
		buffers, made := NewBuffers(64), 0
		fresh := buffers.pool.New
		buffers.pool.New = func() any {
			made++
			return fresh()
		}
		for range copies {
			_ = buffers.Copy(to, strings.NewReader("x"))
		}
		// A collection takes what lies there, and with the race detector some are dropped (sync.Pool).
		if made > copies/2 {
			t.Errorf("%d copies, each of which %s, have made %d buffers", copies, name, made)
		}
	}
}
