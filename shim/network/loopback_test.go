package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
)

// A connection to any port of the namespace's loopback addresses goes to the guest's of
// that number; one that the guest refuses is reset.
func TestLoopback(t *testing.T) {
	file, err := newNamespace()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	loopback, err := OpenLoopback(file, func(_ context.Context, port uint32) (net.Conn, error) {
		if port == 81 {
			return nil, errors.New("refused")
		}
		here, there := net.Pipe()
		go func() {
			fmt.Fprintf(there, "port %d", port)
			there.Close()
		}()
		return here, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	dial := func(address string) (answer string, err error) {
		err = inNamespace(file, func() error {
			conn, err := net.Dial("tcp", address)
			if err != nil {
				return err
			}
			defer conn.Close()
			data, err := io.ReadAll(conn)
			answer = string(data)
			return err
		})
		return answer, err
	}
	for address, want := range map[string]string{"127.0.0.1:80": "port 80", "127.1.2.3:65535": "port 65535", "[::1]:8080": "port 8080"} {
		if answer, err := dial(address); err != nil || answer != want {
			t.Errorf("%s: %q, %v", address, answer, err)
		}
	}
	if answer, err := dial("127.0.0.1:81"); err == nil {
		t.Errorf("a port that the guest refuses answered %q", answer)
	}
	if err := loopback.Close(); err != nil {
		t.Error(err)
	}
	if answer, err := dial("127.0.0.1:80"); err == nil {
		t.Errorf("answered %q after the end", answer)
	}
}
