package stdio

import (
	"bytes"
	"errors"
	"io"
	"os"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/itself"
	"github.com/msb-runtime/containerd-shim-msb/vm/mux"
)

// patience is how long a test waits for what must come.
const patience = time.Minute

// openStdin opens streams with a stdin alone.
func openStdin(t *testing.T) (streams *Streams, agent *agent, path string) {
	t.Helper()
	agent, path = newAgent(), fifo(t, t.TempDir(), "in")
	streams, err := connected(t.Context(), agent, Config{Stdin: path})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(streams.Close)
	return streams, agent, path
}

// read is what the process reads, sent when its input has ended.
func read(agent *agent) <-chan string {
	ended := make(chan string, 1)
	go func() {
		var got bytes.Buffer
		if _, err := io.Copy(&got, agent.peers[0]); err == nil {
			ended <- got.String()
		}
	}()
	return ended
}

// mustEnd fails unless the process reads what it should and then the end.
func mustEnd(t *testing.T, ended <-chan string, want string) {
	t.Helper()
	select {
	case got := <-ended:
		if got != want {
			t.Errorf("the process read %q, not %q", got, want)
		}
	case <-time.After(patience):
		t.Fatal("the process did not see the end of its input")
	}
}

// openClient opens stdin as a client does.
func openClient(t *testing.T, path string) *os.File {
	t.Helper()
	client, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { client.Close() })
	return client
}

// Input ends when client and shim have both closed it, not before.
func TestInput(t *testing.T) {
	streams, agent, path := openStdin(t)
	if err := errors.Join(streams.StartInput(), streams.StartInput()); err != nil {
		t.Fatal(err)
	}
	client, ended := openClient(t, path), read(agent)
	if _, err := client.WriteString("hello"); err != nil {
		t.Fatal(err)
	}
	client.Close()
	select {
	case got := <-ended:
		t.Fatalf("the input ended early, with %q", got)
	case <-time.After(100 * time.Millisecond):
	}
	streams.CloseStdin()
	mustEnd(t, ended, "hello")
}

// CloseStdin before StartInput is not forgotten, and does not cut off what the
// client has written.
func TestCloseStdinFirst(t *testing.T) {
	streams, agent, path := openStdin(t)
	streams.CloseStdin()
	client, err := os.OpenFile(path, os.O_RDWR, 0) // as a client that does not wait for a reader
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	if _, err := client.WriteString("hello"); err != nil {
		t.Fatal(err)
	}
	if err := streams.StartInput(); err != nil {
		t.Fatal(err)
	}
	client.Close()
	mustEnd(t, read(agent), "hello")
}

// Whichever comes first, the end of the input arrives.
func TestCloseStdinDuringStart(t *testing.T) {
	for range 500 {
		streams, agent, _ := openStdin(t)
		ended := read(agent)
		var calls sync.WaitGroup
		calls.Go(func() {
			if err := streams.StartInput(); err != nil {
				t.Error(err)
			}
		})
		calls.Go(streams.CloseStdin)
		calls.Wait()
		mustEnd(t, ended, "")
		streams.Close()
	}
}

// A start that comes too late is refused and leaves nothing open.
func TestStartInputAfterClose(t *testing.T) {
	streams, _, _ := openStdin(t)
	streams.Close()
	before := descriptors(t)
	if err := streams.StartInput(); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("StartInput = %v", err)
	}
	if after := descriptors(t); after != before {
		t.Errorf("%d descriptors, before %d", after, before)
	}
}

// A process that has closed its stdin, for which the guest ends the stream, is
// seen by its client as the end of a pipe. So is a guest that sends on the stream.
func TestProcessClosesStdin(t *testing.T) {
	for name, act := range map[string]func(peer *mux.Stream) error{
		"ends the stream":     (*mux.Stream).Close,
		"sends on the stream": func(peer *mux.Stream) error { _, err := peer.Write([]byte("x")); return err },
	} {
		t.Run(name, func(t *testing.T) {
			machine, path := newMachine(t), fifo(t, t.TempDir(), "in")
			defer machine.end()
			streams, err := connected(t.Context(), machine, Config{Stdin: path})
			if err != nil {
				t.Fatal(err)
			}
			defer streams.Close()
			if err := streams.StartInput(); err != nil {
				t.Fatal(err)
			}
			client := openClient(t, path)
			if err := act(machine.peers[0]); err != nil {
				t.Fatal(err)
			}
			itself.Await(t, "the client's write fails", func() bool {
				_, err := client.WriteString("x")
				return errors.Is(err, unix.EPIPE)
			})
		})
	}
}

// Input at full speed arrives whole.
func TestMuchInput(t *testing.T) {
	streams, agent, path := openStdin(t)
	streams.CloseStdin()
	client, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	if err := streams.StartInput(); err != nil {
		t.Fatal(err)
	}
	const size = 16 << 20
	go func() {
		defer client.Close()
		if _, err := client.Write(make([]byte, size)); err != nil {
			t.Error(err)
		}
	}()
	var got counted
	if _, err := io.Copy(&got, agent.peers[0]); err != nil || got != size {
		t.Errorf("%d bytes of %d, %v", got, size, err)
	}
}

// counted is how many bytes were written to it.
type counted int

func (c *counted) Write(p []byte) (int, error) {
	*c += counted(len(p))
	return len(p), nil
}
