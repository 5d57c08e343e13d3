package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/test/itself"
	"github.com/msb-runtime/containerd-shim-msb/vm/mux"
)

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// nothingLeft runs f and waits until as many goroutines and descriptors are there
// as before.
func nothingLeft(t *testing.T, f func()) {
	t.Helper()
	open, running := descriptors(t), runtime.NumGoroutine()
	f()
	itself.Await(t, "descriptors and goroutines are as before", func() bool {
		return descriptors(t) <= open && runtime.NumGoroutine() <= running
	})
}

// A valve is a connection whose owner may stop to read.
type valve struct {
	net.Conn
	stopped, gone chan struct{}
	once          sync.Once
}

func (v *valve) Read(p []byte) (int, error) {
	n, err := v.Conn.Read(p)
	select {
	case <-v.stopped:
		<-v.gone
		return 0, net.ErrClosed
	default:
		return n, err
	}
}

func (v *valve) Close() error {
	v.once.Do(func() { close(v.gone) })
	return v.Conn.Close()
}

// A machine has the real multiplexer between shim and agent, and an agent that
// accepts every stream and does nothing more with it.
type machine struct {
	host, guest *mux.Session
	valve       *valve
	peers       []*mux.Stream
}

func newMachine(t *testing.T) *machine {
	t.Helper()
	hostEnd, guestEnd := net.Pipe()
	m := &machine{valve: &valve{Conn: guestEnd, stopped: make(chan struct{}), gone: make(chan struct{})}}
	m.host, m.guest = mux.Host(hostEnd), mux.Guest(m.valve)
	return m
}

func (m *machine) DialAll(_ context.Context, headers ...*api.StreamHeader) (conns []net.Conn, err error) {
	for range headers {
		conn, err := m.host.Open()
		if err != nil {
			return nil, err
		}
		peer, err := m.guest.AcceptContext(context.Background())
		if err != nil {
			return nil, err
		}
		conns, m.peers = append(conns, conn), append(m.peers, peer)
	}
	return conns, nil
}

// stopReading has the guest read nothing of the connection any more.
func (m *machine) stopReading() { close(m.valve.stopped) }

// end ends the machine.
func (m *machine) end() {
	m.host.Close()
	m.guest.Close()
}

// openAll opens all streams with a client at each that has written and reads.
func openAll(t *testing.T, dialer Dialer) (streams *Streams, stdin, stdout *os.File) {
	t.Helper()
	dir := t.TempDir()
	config := Config{Stdin: fifo(t, dir, "in"), Stdout: fifo(t, dir, "out"), Stderr: fifo(t, dir, "err")}
	streams, err := connected(t.Context(), dialer, config)
	if err != nil {
		t.Fatal(err)
	}
	if err := streams.StartInput(); err != nil {
		t.Fatal(err)
	}
	stdout, err = os.OpenFile(config.Stdout, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	stdin, err = os.OpenFile(config.Stdin, os.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	return streams, stdin, stdout
}

// mustClose closes streams and fails if that takes long: without a bound it would
// be the ten minutes of the multiplexer.
func mustClose(t *testing.T, streams *Streams) {
	t.Helper()
	closed := make(chan struct{})
	go func() {
		streams.Close()
		close(closed)
	}()
	select {
	case <-closed:
	case <-time.After(patience):
		stacks := make([]byte, 64<<10)
		t.Fatalf("Close does not return\n%s", stacks[:runtime.Stack(stacks, true)])
	}
}

// Whatever the guest leaves undone, Close returns, the client's ends are closed
// then, and when the machine is gone nothing is left.
func TestCloseHostileGuest(t *testing.T) {
	for name, attack := range map[string]func(m *machine){
		"never closes its end": func(*machine) {},
		"reads nothing at all": func(m *machine) { m.stopReading() },
		"floods every stream": func(m *machine) {
			for _, peer := range m.peers {
				go func() { _, _ = io.Copy(peer, endless{}) }()
			}
		},
		"floods and reads nothing": func(m *machine) {
			for _, peer := range m.peers {
				go func() { _, _ = io.Copy(peer, endless{}) }()
			}
			m.stopReading()
		},
	} {
		t.Run(name, func(t *testing.T) {
			nothingLeft(t, func() {
				m := newMachine(t)
				defer m.end()
				streams, stdin, stdout := openAll(t, m)
				defer stdin.Close()
				defer stdout.Close()
				attack(m)
				// More than the window and the FIFO hold: a write to the guest is stuck.
				_ = stdin.SetWriteDeadline(time.Now().Add(500 * time.Millisecond))
				_, _ = io.Copy(stdin, endless{})
				_ = stdin.SetWriteDeadline(time.Time{})
				mustClose(t, streams)
				mustClose(t, streams)
				if _, err := stdin.WriteString("x"); !errors.Is(err, unix.EPIPE) {
					t.Errorf("the client's stdin is still open: %v", err)
				}
				if _, err := io.Copy(io.Discard, stdout); err != nil {
					t.Errorf("the client's stdout does not end: %v", err)
				}
			})
		})
	}
}

// A guest that reads but never closes its ends: nothing is left on the host while
// the machine runs on.
func TestCloseLeavesNothing(t *testing.T) {
	machine := newMachine(t)
	defer machine.end()
	nothingLeft(t, func() {
		streams, stdin, stdout := openAll(t, machine)
		mustClose(t, streams)
		stdin.Close()
		stdout.Close()
	})
}

// endless is input without an end.
type endless struct{}

func (endless) Read(p []byte) (int, error) { return len(p), nil }

// No byte reaches a file after Close has returned.
func TestNothingAfterClose(t *testing.T) {
	path := filepath.Join(t.TempDir(), "log")
	agent := newAgent()
	streams, err := connected(t.Context(), agent, Config{Stdout: "file://" + path})
	if err != nil {
		t.Fatal(err)
	}
	flooding := make(chan struct{})
	go func() {
		defer close(flooding)
		_, _ = io.Copy(agent.peers[0], endless{})
	}()
	itself.Await(t, "output flows", func() bool { return size(t, path) > 0 })
	streams.Close()
	handedOver := size(t, path)
	<-flooding
	if now := size(t, path); now != handedOver {
		t.Errorf("%d bytes came after Close", now-handedOver)
	}
}

func size(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// Everything at the same time, in every order.
func TestCloseDuringEverything(t *testing.T) {
	dir := t.TempDir()
	nothingLeft(t, func() {
		for i := range 200 {
			agent := newAgent()
			config := Config{Stdin: fifo(t, dir, fmt.Sprint("in", i)), Stdout: fifo(t, dir, fmt.Sprint("out", i))}
			streams, err := connected(t.Context(), agent, config)
			if err != nil {
				t.Fatal(err)
			}
			var calls sync.WaitGroup
			for _, call := range []func(){
				func() { _ = streams.StartInput() },
				func() { _ = streams.StartInput() },
				streams.CloseStdin,
				func() { streams.Drain(t.Context()) },
				func() { _, _ = io.WriteString(agent.peers[1], "output") },
				streams.Close,
				streams.Close,
			} {
				calls.Go(call)
			}
			calls.Wait()
		}
	})
}

// A guest that sends a byte now and then, for ever, holds a deletion up for twenty
// seconds; output that stands still, for two to four.
func TestDrainIsBounded(t *testing.T) {
	for name, test := range map[string]struct {
		pause       time.Duration
		bytes       int // that are sent
		least, most time.Duration
	}{
		"a byte now and then":      {time.Second, 1 << 20, 20 * time.Second, 20 * time.Second},
		"nothing":                  {0, 0, idle, 2 * idle},
		"a byte, at once":          {time.Millisecond, 1, idle, 2 * idle},
		"a byte, after a while":    {idle - time.Millisecond, 1, 2*idle - time.Millisecond, 3 * idle},
		"two bytes, after a while": {idle - time.Millisecond, 2, 3*idle - 2*time.Millisecond, 4 * idle},
	} {
		t.Run(name, func(t *testing.T) {
			log := "file://" + filepath.Join(t.TempDir(), "log")
			synctest.Test(t, func(t *testing.T) {
				agent := newAgent()
				streams, err := connected(t.Context(), agent, Config{Stdout: log})
				if err != nil {
					t.Fatal(err)
				}
				gone := make(chan struct{})
				go func() {
					defer close(gone)
					for range test.bytes {
						time.Sleep(test.pause)
						if _, err := agent.peers[0].Write([]byte("x")); err != nil {
							return
						}
					}
				}()
				began := time.Now()
				streams.Drain(t.Context())
				if took := time.Since(began); took < test.least || took > test.most {
					t.Errorf("Drain took %v, want %v to %v", took, test.least, test.most)
				}
				streams.Close()
				<-gone
			})
		})
	}
}
