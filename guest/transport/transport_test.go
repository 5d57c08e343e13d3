package transport

import (
	"os"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// A port is not read before the host has opened its end: until then it looks as if the host
// had gone. A FIFO that a writer has left looks the same.
func TestAwaitHost(t *testing.T) {
	path := filepath.Join(t.TempDir(), "port")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	port, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer port.Close()
	open := func() *os.File {
		host, err := os.OpenFile(path, os.O_WRONLY, 0)
		if err != nil {
			t.Error(err)
		}
		return host
	}
	open().Close()
	if n, err := port.Read(make([]byte, 1)); n != 0 || err == nil {
		t.Fatalf("Read = %d, %v", n, err)
	}
	awaited := make(chan error, 1)
	go func() { awaited <- awaitHost(port) }()
	select {
	case err := <-awaited:
		t.Fatalf("it did not wait: %v", err)
	case <-time.After(50 * time.Millisecond):
	}
	defer open().Close()
	if err := <-awaited; err != nil {
		t.Error(err)
	}
}
