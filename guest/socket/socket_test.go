package socket

import (
	"net"
	"testing"
	"time"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/vm/mux"
)

// However many connections come at once, the host is not asked for more than it lets a
// guest ask for, and each gets its stream in the end.
func TestOpeningIsBounded(t *testing.T) {
	here, there := net.Pipe()
	host, guest := mux.Host(here), mux.Guest(there)
	defer host.Close()
	defer guest.Close()
	sockets := New(guest)
	const connections = 10 * mux.Backlog
	opened := make(chan error)
	for range connections {
		go func() {
			stream, err := sockets.Open(&api.StreamHeader{Purpose: &api.StreamHeader_Socket{Socket: &api.SocketStream{Tag: "so_tag"}}})
			if err == nil {
				defer stream.Close()
			}
			opened <- err
		}()
	}
	time.Sleep(100 * time.Millisecond) // nobody accepts meanwhile
	go func() {
		for {
			stream, err := host.Accept()
			if err != nil {
				return
			}
			go func() {
				defer stream.Close()
				if _, err := api.AcceptStream(stream); err == nil {
					_ = api.ReplyStream(stream, nil)
				}
			}()
		}
	}()
	for n := range connections {
		select {
		case err := <-opened:
			if err != nil {
				t.Fatalf("connection %d: %v", n, err)
			}
		case <-time.After(time.Minute):
			t.Fatalf("%d of %d connections have a stream: %v", n, connections, host.Err())
		}
	}
}
