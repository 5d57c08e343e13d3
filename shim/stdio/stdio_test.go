package stdio

import (
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
)

// agent is the other side of the streams: a dialer whose peers it keeps, in the
// order stdin, stdout, stderr.
type agent struct {
	peers []net.Conn
}

func newAgent() *agent { return &agent{} }

func (a *agent) DialAll(_ context.Context, headers ...*api.StreamHeader) (conns []net.Conn, err error) {
	for range headers {
		host, guest := net.Pipe()
		conns, a.peers = append(conns, host), append(a.peers, guest)
	}
	return conns, nil
}

// connected are streams that are open on both sides.
func connected(ctx context.Context, dialer Dialer, config Config) (*Streams, error) {
	streams, err := Open(ctx, "id", config)
	if err != nil {
		return nil, err
	}
	if err := streams.Connect(ctx, dialer); err != nil {
		streams.Close()
		return nil, err
	}
	return streams, nil
}

func fifo(t *testing.T, dir, name string) string {
	t.Helper()
	path := filepath.Join(dir, name)
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	return path
}

func TestOutputReachesItsEnd(t *testing.T) {
	dir := t.TempDir()
	agent := newAgent()
	out := fifo(t, dir, "out")
	streams, err := connected(t.Context(), agent, Config{Stdout: out})
	if err != nil {
		t.Fatal(err)
	}
	reader, err := os.Open(out)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	const size = 3 << 20
	go func() {
		_, _ = io.WriteString(agent.peers[0], strings.Repeat("x", size))
		agent.peers[0].Close()
	}()
	got, err := io.ReadAll(reader)
	if err != nil || len(got) != size {
		t.Errorf("%d bytes, %v", len(got), err)
	}
	streams.Drain(t.Context())
	streams.Close()
}

// Nobody reads: Drain gives up, Close ends it, nothing hangs.
func TestOutputNobodyReads(t *testing.T) {
	agent := newAgent()
	streams, err := connected(t.Context(), agent, Config{Stdout: fifo(t, t.TempDir(), "out")})
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.WriteString(agent.peers[0], strings.Repeat("x", 1<<20)) }()
	streams.Drain(t.Context())
	streams.Close()
	streams.Close()
}

func TestRefusedStreams(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, []byte("content"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, config := range map[string]Config{
		"missing":        {Stdout: "/no/such/fifo"},
		"a file":         {Stdout: file},
		"unknown scheme": {Stdout: "https://host/log"},
		"bad URI":        {Stdout: "fifo://%zz"},
	} {
		if _, err := connected(t.Context(), newAgent(), config); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
	streams, err := connected(t.Context(), newAgent(), Config{Stdin: file})
	if err != nil {
		t.Fatal(err)
	}
	defer streams.Close()
	if err := streams.StartInput(); err == nil {
		t.Error("a file was opened as stdin")
	}
}

// A client that opens its end only when the process has ended has all of its output, and the end.
// One that never does holds nothing up.
func TestOutputOpenedLate(t *testing.T) {
	for _, opens := range []bool{true, false} {
		nothingLeft(t, func() {
			dir, agent := t.TempDir(), newAgent()
			config := Config{Stdout: fifo(t, dir, "out"), Stderr: fifo(t, dir, "err")}
			streams, err := connected(t.Context(), agent, config)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := io.WriteString(agent.peers[0], "output"); err != nil {
				t.Fatal(err)
			}
			for _, peer := range agent.peers {
				peer.Close()
			}
			streams.Drain(t.Context())
			for path, want := range map[string]string{config.Stdout: "output", config.Stderr: ""} {
				if !opens {
					break
				}
				read := make(chan string)
				go func() {
					content, err := os.ReadFile(path)
					read <- fmt.Sprint(string(content), err)
				}()
				select {
				case got := <-read:
					if got != want+"<nil>" {
						t.Errorf("%s: %q", filepath.Base(path), got)
					}
				case <-time.After(patience):
					t.Fatalf("%s does not end", filepath.Base(path))
				}
			}
			mustClose(t, streams)
		})
	}
}

// A client has the time that it is given to open its ends, on which Open waits, and reads no end before
// there is one.
func TestOutputWaitsForClient(t *testing.T) {
	nothingLeft(t, func() {
		dir, agent := t.TempDir(), newAgent()
		config := Config{Stdout: fifo(t, dir, "out"), Stderr: fifo(t, dir, "err"), OpenedWithin: patience}
		opened := make(chan *Streams)
		go func() {
			streams, err := connected(t.Context(), agent, config)
			if err != nil {
				t.Error(err)
			}
			opened <- streams
		}()
		read := make(chan string)
		for _, path := range []string{config.Stdout, config.Stderr} {
			select {
			case <-opened:
				t.Fatalf("opened before the client has %s open", filepath.Base(path))
			case <-time.After(10 * firstLook):
			}
			go func() {
				content, err := os.ReadFile(path)
				read <- fmt.Sprint(filepath.Base(path), " ", string(content), err)
			}()
		}
		streams := <-opened
		for _, want := range []string{"out output<nil>", "err <nil>"} {
			if want[0] == 'o' {
				if _, err := io.WriteString(agent.peers[0], "output"); err != nil {
					t.Fatal(err)
				}
			}
			select {
			case got := <-read:
				t.Fatalf("%q before its end", got)
			case <-time.After(10 * firstLook):
			}
			agent.peers[0].Close()
			agent.peers = agent.peers[1:]
			if got := <-read; got != want {
				t.Errorf("%q, want %q", got, want)
			}
		}
		mustClose(t, streams)
	})
}

// A client that never opens its ends, or whose request ends, holds nothing up for ever.
func TestOutputClientNeverComes(t *testing.T) {
	for name, c := range map[string]struct{ request, within, waits time.Duration }{
		"has its time": {time.Hour, ClientsTurn, ClientsTurn},
		"has no time":  {time.Hour, 0, 0},
		"has left":     {time.Second, ClientsTurn, time.Second},
	} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			config := Config{Stdout: fifo(t, dir, "out"), Stderr: fifo(t, dir, "err"), OpenedWithin: c.within}
			synctest.Test(t, func(t *testing.T) {
				ctx, cancel := context.WithTimeout(t.Context(), c.request)
				defer cancel()
				began := time.Now()
				streams, err := Open(ctx, "id", config)
				if err != nil {
					t.Fatal(err)
				}
				if took := time.Since(began); took != c.waits {
					t.Errorf("waited for %v", took)
				}
				streams.Close()
			})
		})
	}
}
