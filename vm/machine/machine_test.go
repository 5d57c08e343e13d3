package machine

import (
	"context"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"

	"github.com/msb-runtime/containerd-shim-msb/test/itself"
	"github.com/msb-runtime/containerd-shim-msb/vm"
	"github.com/msb-runtime/containerd-shim-msb/vm/jail"
	"github.com/msb-runtime/containerd-shim-msb/vm/mux"
)

// patience is how long a test waits for what must happen.
const patience = time.Minute

// run is a machine with a shell in the VMM's place, and the guest's end of its
// connection.
func run(t *testing.T, script string) (*Machine, net.Conn) {
	t.Helper()
	itself.NothingLeft(t)
	host, guest := itself.Connection(t)
	console := vm.NewConsole(func(string) {})
	process, err := jail.Start(jail.Spec{Program: "/bin/sh", Args: []string{"-c", script}, Output: console})
	if err != nil {
		t.Fatal(err)
	}
	m := Run(Parts{
		VMM:     Process{Process: process, Console: console, Name: "/usr/bin/vmm"},
		Connect: func(<-chan struct{}) (net.Conn, error) { return host, nil },
	})
	t.Cleanup(func() {
		guest.Close()
		if err := m.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	return m, guest
}

// alive is a VMM that ends only when it is killed.
const alive = "exec sleep 1000"

// wantEnd waits for the machine's end, with a reason that has each of the words.
func wantEnd(t *testing.T, m *Machine, words ...string) {
	t.Helper()
	select {
	case <-m.Done():
	case <-time.After(patience):
		t.Fatal("the machine lives on")
	}
	err := m.Err()
	if !errdefs.IsUnavailable(err) {
		t.Fatalf("Err = %v", err)
	}
	for _, word := range words {
		if !strings.Contains(err.Error(), word) {
			t.Errorf("Err = %v; want %q in it", err, word)
		}
	}
	if _, err := m.Dial(t.Context()); err == nil || err.Error() != m.Err().Error() {
		t.Errorf("Dial = %v", err)
	}
}

func TestDialAndAccept(t *testing.T) {
	m, conn := run(t, alive)
	guest := mux.Guest(conn)
	for name, open := range map[string]func() (net.Conn, net.Conn){
		"host": func() (net.Conn, net.Conn) {
			a, _ := m.Dial(t.Context())
			b, _ := guest.Accept()
			return a, b
		},
		"guest": func() (net.Conn, net.Conn) {
			a, _ := guest.Open()
			b, _ := m.Accept(t.Context())
			return a, b
		},
	} {
		a, b := open()
		_, _ = io.WriteString(a, "hello")
		a.Close()
		if got, err := io.ReadAll(b); string(got) != "hello" || err != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
		b.Close()
	}
	if err := m.Err(); err != nil {
		t.Error(err)
	}
	if err := m.Stop(t.Context()); err != nil || m.Err() != nil {
		t.Errorf("Stop = %v, Err = %v", err, m.Err())
	}
}

// A guest that breaks the protocol loses its machine, and it says why.
func TestViolationEndsTheMachine(t *testing.T) {
	m, guest := run(t, "echo booting; echo ready; "+alive)
	_, _ = guest.Write(mux.Frame{Kind: mux.FrameCredit + 1}.Append(nil))
	wantEnd(t, m, "vmm was ended", "a frame of the unknown kind 6", "the last lines of its console: ")
}

// A guest that closes its connection while the VMM lives loses its machine.
func TestCutConnectionEndsTheMachine(t *testing.T) {
	m, guest := run(t, alive)
	stream, err := m.Dial(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	guest.Close()
	if _, err := stream.Read(make([]byte, 1)); err == nil {
		t.Error("a stream lives on")
	}
	wantEnd(t, m, "vmm was ended", "its guest was cut off", "console: (none)")
}

// A VMM that ends takes its connection with it: it is the VMM's end that is told.
func TestVMMEnds(t *testing.T) {
	m, guest := run(t, "echo something broke; read line; exit 3")
	_ = guest
	wantEnd(t, m, "vmm ended (exit status 3)", "console: something broke")
	m, guest = run(t, "sleep 0.3; exit 4")
	guest.Close()
	wantEnd(t, m, "vmm ended (exit status 4)", "console: (none)")
}

// A guest that never reads holds up neither Dial nor Close nor Stop.
func TestGuestThatDoesNotRead(t *testing.T) {
	m, _ := run(t, alive)
	var streams []net.Conn
	for range 100 {
		stream, err := m.Dial(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		streams = append(streams, stream)
		_ = stream.SetDeadline(time.Now().Add(20 * time.Millisecond))
		if _, err := stream.Write(make([]byte, 1<<20)); !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Errorf("Write = %v", err)
		}
	}
	for _, stream := range streams {
		if err := stream.Close(); err != nil {
			t.Error(err)
		}
	}
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := m.Accept(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Accept = %v", err)
	}
	start := time.Now()
	if err := m.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if took := time.Since(start); took > mux.StallTimeout/2 {
		t.Errorf("Stop took %s", took)
	}
}

// Before the guest has connected, Dial honours its context, and the machine its end.
func TestGuestThatNeverConnects(t *testing.T) {
	console := vm.NewConsole(func(string) {})
	process, err := jail.Start(jail.Spec{Program: "/bin/sh", Args: []string{"-c", alive}, Output: console})
	if err != nil {
		t.Fatal(err)
	}
	m := Run(Parts{
		VMM: Process{Process: process, Console: console, Name: "vmm"},
		Connect: func(done <-chan struct{}) (net.Conn, error) {
			<-done
			return nil, errors.New("nobody called")
		},
	})
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if _, err := m.Dial(ctx); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("Dial = %v", err)
	}
	if err := m.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := m.Dial(t.Context()); err == nil {
		t.Error("a stream was opened after the end")
	}
}
