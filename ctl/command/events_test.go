package command

import (
	"net"
	"path/filepath"
	"strings"
	"testing"
)

// Another that listens is told from a containerd that has ended.
func TestEventsOfAnother(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			conn.Close()
		}
	}()
	if _, stderr, code := run(t, "events", "--address", path); code != exitFailed || !strings.Contains(stderr, path+" does not answer as containerd does: ") {
		t.Errorf("code %d, %q", code, stderr)
	}
	listener.Close()
	if _, stderr, code := run(t, "events", "--address", path); code != exitFailed || !strings.Contains(stderr, "containerd has ended, or is not there (msbctl events --address)") {
		t.Errorf("nobody: code %d, %q", code, stderr)
	}
}
