package stdio

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
)

// agent is the other side of the streams: a dialer whose peers it keeps, in the
// order stdin, stdout, stderr.
type agent struct {
	peers []net.Conn
}

func newAgent() *agent { return &agent{} }

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
	agent := newAgent()
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
	agent := newAgent()
	streams, err := Open(t.Context(), agent, "id", Config{Stdout: fifo(t, t.TempDir(), "out")})
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
		if _, err := Open(t.Context(), newAgent(), "id", config); err == nil {
			t.Errorf("%s: opened", name)
		}
	}
	streams, err := Open(t.Context(), newAgent(), "id", Config{Stdin: file})
	if err != nil {
		t.Fatal(err)
	}
	defer streams.Close()
	if err := streams.StartInput(); err == nil {
		t.Error("a file was opened as stdin")
	}
}
