package network

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
	"github.com/msb-runtime/containerd-shim-msb/test/itself"
	"github.com/msb-runtime/containerd-shim-msb/vm/mux"
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
		err = thread.InNetwork(file, func() error {
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

// What DialPast connects to is a listener of the host's, or is refused where there is none.
// Many may be open at a time, and one after the other has ended.
func TestDialPast(t *testing.T) {
	file, err := newNamespace()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	loopback, err := OpenLoopback(file, func(_ context.Context, port uint32) (net.Conn, error) {
		return nil, fmt.Errorf("port %d of the guest was asked for", port)
	})
	if err != nil {
		t.Fatal(err)
	}
	defer loopback.Close()
	for _, address := range []string{"127.0.0.1:53", "127.0.0.11:53", "[::1]:53"} {
		to := netip.MustParseAddrPort(address)
		if conn, err := DialPast(file, to, patience); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("%s, where nobody is: %v, %v", address, conn, err)
		}
		greet(t, file, address)
		for range 2 {
			var open []net.Conn
			for n := range 200 {
				conn, err := DialPast(file, to, patience)
				if err != nil {
					t.Fatalf("%s, connection %d: %v", address, n, err)
				}
				open = append(open, conn)
				answer := make([]byte, len("host"))
				if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != "host" {
					t.Fatalf("%s, connection %d: %q, %v", address, n, answer, err)
				}
			}
			for _, conn := range open {
				conn.Close()
			}
		}
	}
}

// greet listens at an address of the namespace, and says there that it is the host.
func greet(t *testing.T, namespace *os.File, address string) {
	t.Helper()
	var listener net.Listener
	err := thread.InNetwork(namespace, func() (err error) {
		listener, err = net.Listen("tcp", address)
		return err
	})
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
			_, _ = io.WriteString(conn, "host")
			t.Cleanup(func() { conn.Close() })
		}
	}()
}

// As many clients as there may be that do not read what the guest sends without end,
// and one more.
func TestForwardedClientsThatDoNotRead(t *testing.T) {
	file, err := newNamespace()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	here, there := net.Pipe()
	host, guest := mux.Host(here), mux.Guest(there)
	defer host.Close()
	defer guest.Close()
	block := make([]byte, 64<<10)
	go func() {
		for {
			stream, err := guest.Accept()
			if err != nil {
				return
			}
			go func() {
				for {
					if _, err := stream.Write(block); err != nil {
						return
					}
				}
			}()
		}
	}()
	loopback, err := OpenLoopback(file, func(context.Context, uint32) (net.Conn, error) {
		stream, err := host.Open()
		if err != nil {
			return nil, err
		}
		return stream, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	defer loopback.Close()
	before := itself.Memory()
	// A connection that is refused may be so while it is made, or when it is read.
	hear := func() error {
		var conn net.Conn
		err := thread.InNetwork(file, func() (err error) {
			conn, err = net.Dial("tcp", "127.0.0.1:80")
			return err
		})
		if err != nil {
			return err
		}
		t.Cleanup(func() { conn.Close() })
		_ = conn.SetReadDeadline(time.Now().Add(time.Minute))
		_, err = conn.Read(make([]byte, 1))
		return err
	}
	for n := range MaxForwarded {
		if err := hear(); err != nil {
			t.Fatalf("connection %d: %v", n, err)
		}
	}
	time.Sleep(time.Second) // the guest sends what it may
	grown := itself.Memory() - before
	t.Logf("the process has grown by %d KiB", grown>>10)
	if grown > 32<<20 {
		t.Errorf("the process has grown by %d bytes", grown)
	}
	if err := hear(); err == nil {
		t.Error("one connection more was not refused")
	}
}
