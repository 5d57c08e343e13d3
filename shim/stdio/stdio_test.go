package stdio

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
)

// agent is the other side of the streams: a dialer whose peers it keeps.
type agent struct {
	peers []net.Conn
}

func (a *agent) Dial(context.Context, *api.StreamHeader) (net.Conn, error) {
	host, guest := net.Pipe()
	a.peers = append(a.peers, guest)
	return host, nil
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
	agent := &agent{}
	out := fifo(t, dir, "out")
	streams, err := Open(t.Context(), agent, "id", Config{Stdout: out})
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
	agent := &agent{}
	streams, err := Open(t.Context(), agent, "id", Config{Stdout: fifo(t, t.TempDir(), "out")})
	if err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.WriteString(agent.peers[0], strings.Repeat("x", 1<<20)) }()
	streams.Drain(t.Context())
	streams.Close()
	streams.Close()
}

// Input ends when client and shim have both closed it, not before.
func TestInput(t *testing.T) {
	agent := &agent{}
	in := fifo(t, t.TempDir(), "in")
	streams, err := Open(t.Context(), agent, "id", Config{Stdin: in})
	if err != nil {
		t.Fatal(err)
	}
	defer streams.Close()
	if err := streams.StartInput(); err != nil {
		t.Fatal(err)
	}
	client, err := os.OpenFile(in, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	read := make(chan string)
	go func() {
		all, _ := io.ReadAll(agent.peers[0])
		read <- string(all)
	}()
	if _, err := client.WriteString("hello"); err != nil {
		t.Fatal(err)
	}
	client.Close()
	select {
	case got := <-read:
		t.Fatalf("the input ended early, with %q", got)
	case <-time.After(100 * time.Millisecond):
	}
	streams.CloseStdin()
	if got := <-read; got != "hello" {
		t.Errorf("the process read %q", got)
	}
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
		if _, err := Open(t.Context(), &agent{}, "id", config); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
	streams, err := Open(t.Context(), &agent{}, "id", Config{Stdin: file})
	if err != nil {
		t.Fatal(err)
	}
	defer streams.Close()
	if err := streams.StartInput(); err == nil {
		t.Error("a file was opened as stdin")
	}
}
