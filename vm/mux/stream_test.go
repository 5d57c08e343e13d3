package mux

import (
	"bytes"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"io"
	"net"
	"runtime"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/nettest"

	"github.com/msb-runtime/containerd-shim-msb/test/itself"
)

// patience is how long a test waits for what must happen.
const patience = time.Minute

// sessions are both ends of a session. Their connection has no buffer, so two sides
// that both want to send must both receive.
func sessions(t testing.TB) (host, guest *Session) {
	t.Helper()
	itself.NothingLeft(t)
	here, there := net.Pipe()
	host, guest = Host(here), Guest(there)
	t.Cleanup(func() { host.Close(); guest.Close() })
	return host, guest
}

// pair is a stream that one side has opened and the other has accepted.
func pair(t testing.TB, opener, acceptor *Session) (*Stream, *Stream) {
	t.Helper()
	opened, err := opener.Open()
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := acceptor.AcceptContext(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { opened.Close(); accepted.Close() })
	return opened, accepted
}

// The streams are connections as the net package means them.
func TestConnIsConforming(t *testing.T) {
	nettest.TestConn(t, func() (net.Conn, net.Conn, func(), error) {
		here, there := net.Pipe()
		host, guest := Host(here), Guest(there)
		opened, err := host.Open()
		if err != nil {
			return nil, nil, nil, err
		}
		accepted, err := guest.Accept()
		return opened, accepted, func() { host.Close(); guest.Close() }, err
	})
}

// 64 MiB in both directions of one stream at once, with an end of each: whole, and
// without one side waiting for the other.
func TestBothDirections(t *testing.T) {
	host, guest := sessions(t)
	a, b := pair(t, guest, host)
	block := make([]byte, 1<<20)
	_, _ = rand.Read(block)
	const blocks = 64
	sum := sha256.New()
	for range blocks {
		sum.Write(block)
	}
	var done sync.WaitGroup
	for _, stream := range []*Stream{a, b} {
		done.Go(func() {
			for range blocks {
				if _, err := stream.Write(block); err != nil {
					t.Error(err)
				}
			}
			if err := stream.CloseWrite(); err != nil {
				t.Error(err)
			}
		})
		done.Go(func() {
			got := sha256.New()
			if n, err := io.Copy(got, stream); n != blocks<<20 || err != nil {
				t.Errorf("received %d bytes, %v", n, err)
			}
			if !bytes.Equal(got.Sum(nil), sum.Sum(nil)) {
				t.Error("other bytes arrived than were sent")
			}
		})
	}
	done.Wait()
}

// Reads and writes of all sizes, so that the ring wraps at every place.
func TestOddSizes(t *testing.T) {
	host, guest := sessions(t)
	a, b := pair(t, host, guest)
	sent := make([]byte, 3<<20)
	_, _ = rand.Read(sent)
	go func() {
		for rest, n := sent, 1; len(rest) > 0; n = n*7%50021 + 1 {
			n := min(n, len(rest))
			if _, err := a.Write(rest[:n]); err != nil {
				t.Error(err)
			}
			rest = rest[n:]
		}
		a.Close()
	}()
	var got bytes.Buffer
	for n := 1; ; n = n*11%40009 + 1 {
		if _, err := io.CopyN(&got, onlyReader{b}, int64(n)); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
	}
	if !bytes.Equal(got.Bytes(), sent) {
		t.Errorf("%d bytes of %d arrived, or others", got.Len(), len(sent))
	}
}

type onlyReader struct{ io.Reader }

// An end of one direction leaves the other open.
func TestHalfClose(t *testing.T) {
	host, guest := sessions(t)
	for name, ends := range map[string][2]*Session{"host": {host, guest}, "guest": {guest, host}} {
		t.Run(name, func(t *testing.T) {
			a, b := pair(t, ends[0], ends[1])
			_, _ = io.WriteString(a, "question")
			if err := a.CloseWrite(); err != nil {
				t.Fatal(err)
			}
			if got, err := io.ReadAll(b); string(got) != "question" || err != nil {
				t.Errorf("read %q, %v", got, err)
			}
			if _, err := io.WriteString(a, "more"); !errors.Is(err, net.ErrClosed) {
				t.Errorf("a write after the end: %v", err)
			}
			_, _ = io.WriteString(b, "answer")
			b.Close()
			if got, err := io.ReadAll(a); string(got) != "answer" || err != nil {
				t.Errorf("read %q, %v", got, err)
			}
		})
	}
}

// What was written before a Close arrives; a Reset is told from an end.
func TestCloseAndReset(t *testing.T) {
	host, guest := sessions(t)
	a, b := pair(t, guest, host)
	_, _ = io.WriteString(a, "last words")
	a.Close()
	if got, err := io.ReadAll(b); string(got) != "last words" || err != nil {
		t.Errorf("read %q, %v", got, err)
	}
	if _, err := b.Write([]byte("x")); !errors.Is(err, io.ErrClosedPipe) {
		t.Errorf("a write to a stream that the other side closed: %v", err)
	}
	a, b = pair(t, guest, host)
	_, _ = io.WriteString(a, "half a")
	if err := a.Reset(); err != nil {
		t.Error(err)
	}
	if got, err := io.ReadAll(b); string(got) != "half a" || !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("read %q, %v", got, err)
	}
}

// A stream that nobody reads holds up no other.
func TestUnreadStreamBlocksNoOther(t *testing.T) {
	host, guest := sessions(t)
	for range 3 {
		stalled, _ := pair(t, guest, host)
		go func() { _, _ = stalled.Write(make([]byte, 1<<20)) }()
	}
	a, b := pair(t, guest, host)
	go func() {
		_, _ = a.Write(make([]byte, 8<<20))
		a.Close()
	}()
	if n, err := io.Copy(io.Discard, b); n != 8<<20 || err != nil {
		t.Errorf("received %d bytes, %v", n, err)
	}
}

// The end of the connection ends everything, with one error.
func TestConnectionEnds(t *testing.T) {
	host, guest := sessions(t)
	a, _ := pair(t, host, guest)
	guest.Close()
	if _, err := a.Read(make([]byte, 1)); !errors.Is(err, net.ErrClosed) || errors.Is(err, io.EOF) {
		t.Errorf("Read = %v", err)
	}
	if _, err := a.Write(make([]byte, 1<<20)); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Write = %v", err)
	}
	if _, err := host.Open(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Open = %v", err)
	}
	if _, err := host.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("Accept = %v", err)
	}
	if err := host.Err(); err == nil || errors.Is(err, ErrViolation) {
		t.Errorf("Err = %v", err)
	}
}

func BenchmarkStream(b *testing.B) {
	here, there := itself.Connection(b)
	host, guest := Host(here), Guest(there)
	defer host.Close()
	defer guest.Close()
	from, to := pair(b, guest, host)
	block := make([]byte, 64<<10)
	b.SetBytes(int64(len(block)))
	go func() {
		for range b.N {
			_, _ = from.Write(block)
		}
		from.Close()
	}()
	_, _ = io.Copy(io.Discard, to)
}

// writes counts those to a connection.
type writes struct {
	net.Conn
	n atomic.Int64
}

func (w *writes) Write(p []byte) (int, error) {
	w.n.Add(1)
	return w.Conn.Write(p)
}

// What several are about to send goes in one write.
func TestFramesGoTogether(t *testing.T) {
	defer runtime.GOMAXPROCS(runtime.GOMAXPROCS(1))
	local, remote := itself.Connection(t)
	counted := &writes{Conn: local}
	host, guest := Host(counted), Guest(remote)
	t.Cleanup(func() { host.Close(); guest.Close() })
	const senders, rounds = 4, 20
	var streams [senders]*Stream
	for i := range streams {
		streams[i], _ = pair(t, host, guest)
	}
	before := counted.n.Load()
	for range rounds {
		var sent sync.WaitGroup
		for _, stream := range streams {
			sent.Go(func() { _, _ = stream.Write([]byte("x")) })
		}
		sent.Wait()
		for host.unsentBytes() > 0 {
			runtime.Gosched()
		}
	}
	// A scheduler that interrupts a sender takes one apart now and then.
	if n := counted.n.Load() - before; n > 2*rounds {
		t.Errorf("%d frames went in %d writes, and %d would do", senders*rounds, n, rounds)
	}
}

func (s *Session) unsentBytes() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.out)
}
