package socket

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
	"github.com/msb-runtime/containerd-shim-msb/shim/share"
	"github.com/msb-runtime/containerd-shim-msb/vm/mux"
)

// guest is the guest's end of a session whose streams the table serves.
func guest(t *testing.T, table *Table) *mux.Session {
	t.Helper()
	here, there := net.Pipe()
	host, guest := mux.Host(here), mux.Guest(there)
	t.Cleanup(func() { guest.Close(); host.Close() })
	serve(t, table, host)
	return guest
}

// serve serves the streams that the guest opens, as long as the session lives.
func serve(t *testing.T, table *Table, host *mux.Session) {
	go table.ServeAll(context.WithoutCancel(t.Context()), func(ctx context.Context) (net.Conn, error) {
		return host.AcceptContext(ctx)
	})
}

func open(t *testing.T, session *mux.Session, tag string) (*mux.Stream, error) {
	t.Helper()
	return openAs(t, session, tag, &api.Peer{})
}

func openAs(t *testing.T, session *mux.Session, tag string, peer *api.Peer) (*mux.Stream, error) {
	t.Helper()
	stream, err := session.Open()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { stream.Close() })
	header := &api.StreamHeader{Purpose: &api.StreamHeader_Socket{Socket: &api.SocketStream{Tag: tag, Peer: peer}}}
	_ = stream.SetDeadline(time.Now().Add(patience))
	defer func() { _ = stream.SetDeadline(time.Time{}) }()
	return stream, api.OpenStream(stream, header)
}

// listen serves a socket: each line is answered with a word before it.
func listen(t *testing.T, path, word string) net.Listener {
	t.Helper()
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() {
				defer conn.Close()
				lines := bufio.NewScanner(conn)
				for lines.Scan() {
					fmt.Fprintln(conn, word, lines.Text())
				}
				fmt.Fprintln(conn, "end") // after the other side's
			}()
		}
	}()
	return listener
}

func add(t *testing.T, table *Table, path string, follow bool) (*Socket, error) {
	t.Helper()
	source, err := share.OpenSource(mountns.Namespace{}, path)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	return table.Add(source, follow, new(Identities))
}

// A long path is no hindrance, an end is passed on, and what comes after it too.
func TestForward(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("d", 120))
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	t.Chdir(dir)
	listen(t, "socket", "echo")
	var table Table
	s, err := add(t, &table, filepath.Join(dir, "socket"), false)
	if err != nil {
		t.Fatal(err)
	}
	session := guest(t, &table)
	stream, err := open(t, session, s.Tag)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(stream, "hello")
	_ = stream.CloseWrite()
	if got, err := io.ReadAll(stream); string(got) != "echo hello\nend\n" {
		t.Errorf("the answer is %q, %v", got, err)
	}
	if _, err := open(t, session, "so_other"); err == nil {
		t.Error("a socket that was not given was connected to")
	}
	// Taken away, it is closed to new connections and to those that are open.
	stream, err = open(t, session, s.Tag)
	if err != nil {
		t.Fatal(err)
	}
	if err := table.Remove(s.Tag); err != nil {
		t.Error(err)
	}
	_ = stream.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := io.ReadAll(stream); err != nil && !strings.Contains(err.Error(), "reset") {
		t.Errorf("the open connection: %v", err)
	}
	if _, err := open(t, session, s.Tag); err == nil {
		t.Error("a socket that was taken away was connected to")
	}
	for deadline := time.Now().Add(10 * time.Second); ; time.Sleep(time.Millisecond) {
		table.mu.Lock()
		left := table.opened
		table.mu.Unlock()
		if left == 0 {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("%d connections are counted as open", left)
		}
	}
}

// A daemon that was started again has made another socket.
func TestFollow(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	old := listen(t, path, "old")
	var table Table
	pinned, err := add(t, &table, path, false)
	if err != nil {
		t.Fatal(err)
	}
	followed, err := add(t, &table, path, true)
	if err != nil {
		t.Fatal(err)
	}
	old.Close()
	listen(t, path, "new")
	session := guest(t, &table)
	if _, err := open(t, session, pinned.Tag); err == nil {
		t.Error("the old socket was connected to")
	}
	stream, err := open(t, session, followed.Tag)
	if err != nil {
		t.Fatal(err)
	}
	fmt.Fprintln(stream, "hello")
	_ = stream.CloseWrite()
	if got, _ := io.ReadAll(stream); !strings.HasPrefix(string(got), "new hello\n") {
		t.Errorf("the answer is %q", got)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := open(t, session, followed.Tag); err == nil {
		t.Error("a file was connected to")
	}
}

func TestDatagramsAreRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	conn, err := net.ListenPacket("unixgram", path)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	var table Table
	if _, err := add(t, &table, path, false); !errdefs.IsInvalidArgument(err) {
		t.Errorf("Add = %v", err)
	}
}

// 1 GiB goes through one connection and comes back whole; while nobody reads at the
// far end, little of it is taken in.
func TestOneGiB(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	read := make(chan struct{})
	go func() {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		defer conn.Close()
		<-read
		_, _ = io.Copy(conn, conn)
	}()
	var table Table
	s, err := add(t, &table, path, false)
	if err != nil {
		t.Fatal(err)
	}
	stream, err := open(t, guest(t, &table), s.Tag)
	if err != nil {
		t.Fatal(err)
	}
	const size, chunk = 1 << 30, 1 << 20
	var taken atomic.Int64
	go func() {
		block := make([]byte, chunk)
		for n := range int64(size / chunk) {
			binary.LittleEndian.PutUint64(block, uint64(n))
			if _, err := stream.Write(block); err != nil {
				t.Error(err)
			}
			taken.Add(chunk)
		}
		_ = stream.CloseWrite()
	}()
	time.Sleep(300 * time.Millisecond)
	if got := taken.Load(); got > 2<<20 {
		t.Errorf("%d bytes were taken in for a server that does not read", got)
	}
	close(read)
	block := make([]byte, chunk)
	for n := range uint64(size / chunk) {
		if _, err := io.ReadFull(stream, block); err != nil {
			t.Fatalf("block %d: %v", n, err)
		}
		if got := binary.LittleEndian.Uint64(block); got != n {
			t.Fatalf("block %d came as %d", got, n)
		}
	}
	if _, err := stream.Read(block); !errors.Is(err, io.EOF) {
		t.Errorf("after the last byte: %v", err)
	}
}
