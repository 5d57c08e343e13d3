package api

import (
	"bytes"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/msb-runtime/containerd-shim-msb/test/itself"
	"github.com/msb-runtime/containerd-shim-msb/vm/mux"
)

// patience is how long a test waits for what must happen.
const patience = time.Minute

// forwarded is a connection of a client to a server, through Join on both sides of a
// session.
func forwarded(t *testing.T) (client, server *net.UnixConn) {
	t.Helper()
	itself.NothingLeft(t)
	here, there := net.Pipe()
	host, guest := mux.Host(here), mux.Guest(there)
	t.Cleanup(func() { host.Close(); guest.Close() })
	client, inner := unixPair(t)
	outer, server := unixPair(t)
	opened, err := guest.Open()
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := host.Accept()
	if err != nil {
		t.Fatal(err)
	}
	go Join(inner, opened)
	go Join(outer, accepted)
	return client, server
}

func unixPair(t *testing.T) (*net.UnixConn, *net.UnixConn) {
	t.Helper()
	listener, err := net.Listen("unix", filepath.Join(t.TempDir(), "s"))
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	dialed, err := net.Dial("unix", listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dialed.Close(); accepted.Close() })
	for _, conn := range []net.Conn{dialed, accepted} {
		_ = conn.SetDeadline(time.Now().Add(10 * patience))
	}
	return dialed.(*net.UnixConn), accepted.(*net.UnixConn)
}

// The end of one direction reaches the other side and leaves the other direction
// open, whichever side begins.
func TestJoinPassesEndsOn(t *testing.T) {
	for name, order := range map[string]func(a, b *net.UnixConn) (*net.UnixConn, *net.UnixConn){
		"client": func(a, b *net.UnixConn) (*net.UnixConn, *net.UnixConn) { return a, b },
		"server": func(a, b *net.UnixConn) (*net.UnixConn, *net.UnixConn) { return b, a },
	} {
		t.Run(name, func(t *testing.T) {
			first, second := order(forwarded(t))
			fmt.Fprint(first, "question")
			_ = first.CloseWrite()
			if got, err := io.ReadAll(second); string(got) != "question" || err != nil {
				t.Errorf("read %q, %v", got, err)
			}
			fmt.Fprint(second, "answer")
			second.Close()
			if got, err := io.ReadAll(first); string(got) != "answer" || err != nil {
				t.Errorf("read %q, %v", got, err)
			}
			first.Close()
		})
	}
}

// 64 MiB in both directions at once arrive whole.
func TestJoinBothDirections(t *testing.T) {
	client, server := forwarded(t)
	sent := make([]byte, 1<<20)
	_, _ = rand.Read(sent)
	const blocks = 64
	var done sync.WaitGroup
	for _, conn := range []*net.UnixConn{client, server} {
		done.Go(func() {
			for range blocks {
				if _, err := conn.Write(sent); err != nil {
					t.Error(err)
				}
			}
			_ = conn.CloseWrite()
		})
		done.Go(func() {
			got := make([]byte, len(sent))
			for n := range blocks {
				if _, err := io.ReadFull(conn, got); err != nil || !bytes.Equal(got, sent) {
					t.Errorf("block %d is another, or %v", n, err)
				}
			}
			if n, err := conn.Read(got); !errors.Is(err, io.EOF) {
				t.Errorf("%d bytes more, %v", n, err)
			}
		})
	}
	done.Wait()
	client.Close()
	server.Close()
}

// A side that does not read stops its own direction and not the other.
func TestJoinDirectionsAreIndependent(t *testing.T) {
	client, server := forwarded(t)
	stuck := make(chan error, 1)
	go func() {
		_, err := client.Write(make([]byte, 16<<20)) // the server does not read
		stuck <- err
	}()
	go func() { _, _ = server.Write(make([]byte, 16<<20)) }()
	if _, err := io.ReadFull(client, make([]byte, 16<<20)); err != nil {
		t.Fatal(err)
	}
	select {
	case err := <-stuck:
		t.Errorf("16 MiB were taken in for a server that does not read: %v", err)
	default:
	}
	if _, err := io.ReadFull(server, make([]byte, 16<<20)); err != nil {
		t.Error(err)
	}
	if err := <-stuck; err != nil {
		t.Error(err)
	}
	client.Close()
	server.Close()
}

// A side that goes away while the other still sends ends the connection there, too.
func TestJoinBreaksOff(t *testing.T) {
	client, server := forwarded(t)
	server.Close()
	for {
		if _, err := client.Write(make([]byte, 64<<10)); err != nil {
			if !errors.Is(err, syscall.EPIPE) && !errors.Is(err, syscall.ECONNRESET) {
				t.Error(err)
			}
			return
		}
	}
}

// joined is a client whose connection Join has joined with a stream, the stream's other
// end, and a channel that is closed when Join has returned.
func joined(t *testing.T) (client, inner *net.UnixConn, opened *mux.Stream, done <-chan struct{}) {
	t.Helper()
	here, there := net.Pipe()
	host, guest := mux.Host(here), mux.Guest(there)
	t.Cleanup(func() { host.Close(); guest.Close() })
	opened, err := guest.Open()
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := host.Accept()
	if err != nil {
		t.Fatal(err)
	}
	_ = opened.SetDeadline(time.Now().Add(patience))
	client, inner = unixPair(t)
	returned := make(chan struct{})
	go func() {
		Join(inner, accepted)
		close(returned)
	}()
	return client, inner, opened, returned
}

func wantReturn(t *testing.T, done <-chan struct{}) {
	t.Helper()
	select {
	case <-done:
	case <-time.After(patience):
		t.Error("Join has not returned")
	}
}

// A stream that was broken off closes the connection, though nothing is sent.
func TestJoinStreamIsReset(t *testing.T) {
	client, _, opened, done := joined(t)
	if err := opened.Reset(); err != nil {
		t.Fatal(err)
	}
	if _, err := client.Read(make([]byte, 1)); err == nil {
		t.Error("the connection is open")
	}
	wantReturn(t, done)
}

// A connection that somebody else closes, as when its socket is taken away, breaks the
// stream off.
func TestJoinConnectionIsTakenAway(t *testing.T) {
	_, inner, opened, done := joined(t)
	inner.Close()
	if _, err := opened.Read(make([]byte, 1)); !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("Read = %v", err)
	}
	wantReturn(t, done)
}
