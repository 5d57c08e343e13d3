package resolver

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
)

// A query that nobody answers fails for its client at once, and what is no query is not
// answered.
func TestFailure(t *testing.T) {
	query := dnsmessage.Message{
		Header:    dnsmessage.Header{ID: 7, RecursionDesired: true, CheckingDisabled: true},
		Questions: []dnsmessage.Question{{Name: dnsmessage.MustNewName("web."), Type: dnsmessage.TypeA, Class: dnsmessage.ClassINET}},
	}
	packed, err := query.Pack()
	if err != nil {
		t.Fatal(err)
	}
	var answer dnsmessage.Message
	if err := answer.Unpack(failure(packed)); err != nil {
		t.Fatal(err)
	}
	if answer.ID != 7 || !answer.Response || answer.RCode != dnsmessage.RCodeServerFailure || answer.Questions[0] != query.Questions[0] {
		t.Errorf("the answer is %+v", answer)
	}
	for _, none := range [][]byte{nil, packed[:11], failure(packed)} {
		if got := failure(none); got != nil {
			t.Errorf("%x is answered with %x", none, got)
		}
	}
}

// The host's answer counts; where nobody is there, the guest's own resolver is asked.
func TestAnswer(t *testing.T) {
	query := append([]byte{0, 7, 1, 0}, make([]byte, 20)...)
	for name, host := range map[string]func(net.Conn){
		"answers": func(stream net.Conn) { _ = api.WriteDatagram(stream, []byte("answer")) },
		"nobody":  func(stream net.Conn) { _ = api.WriteDatagram(stream, nil) },
		"leaves":  func(net.Conn) {},
		"refuses": nil,
	} {
		t.Run(name, func(t *testing.T) {
			asked := make(chan *api.ResolverStream, 1)
			all := New(func(header *api.StreamHeader) (net.Conn, error) {
				asked <- header.GetResolver()
				if host == nil {
					return nil, errors.New("refused")
				}
				guest, stream := net.Pipe()
				go func() {
					defer stream.Close()
					if got, err := api.ReadDatagram(stream); err != nil || !bytes.Equal(got, query) {
						t.Errorf("the host got %x, %v", got, err)
					}
					host(stream)
				}()
				return guest, nil
			})
			// Nobody is at this address in the guest.
			r := all.resolver("/proc/self/ns/net", netip.MustParseAddr("127.77.0.1"))
			if os.Geteuid() != 0 {
				t.Fatal("this test enters a network namespace: run it as root")
			}
			got := r.answer(query)
			if name == "answers" && string(got) != "answer" || name != "answers" && (len(got) != len(query) || got[3] != 2) {
				t.Errorf("the client got %x", got)
			}
			if r := <-asked; r.Address != "127.77.0.1" || !r.Datagram {
				t.Errorf("the host was asked for %v", r)
			}
		})
	}
}

// listening is a resolver that takes what is sent to its own ports.
func listening(t *testing.T, all *Resolvers, address string) *resolver {
	t.Helper()
	r := all.resolver("/proc/self/ns/net", netip.MustParseAddr(address))
	if err := r.listen(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { r.close() })
	go r.servePackets()
	go r.serveConnections()
	return r
}

// A resolver that never answers, with as many queries and connections as it may have open and
// more, takes no other's.
func TestDeadResolver(t *testing.T) {
	all := New(func(header *api.StreamHeader) (net.Conn, error) {
		guest, host := net.Pipe()
		t.Cleanup(func() { host.Close() })
		if r := header.GetResolver(); r.Address == "127.77.0.2" {
			go func() {
				if r.Datagram {
					_, _ = api.ReadDatagram(host)
					_ = api.WriteDatagram(host, []byte("answer"))
					return
				}
				_, _ = io.WriteString(host, "answer")
			}()
		}
		return guest, nil
	})
	dead, alive := listening(t, all, "127.77.0.1"), listening(t, all, "127.77.0.2")
	for range 2 * maxOpen {
		for _, address := range []net.Addr{dead.packets.LocalAddr(), dead.connections.Addr()} {
			if _, err := send(t, address).Write([]byte("query")); err != nil {
				t.Fatal(err)
			}
		}
	}
	for _, open := range []chan struct{}{dead.openQueries, dead.openConnections} {
		for deadline := time.Now().Add(time.Minute); len(open) < maxOpen; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("%d are open", len(open))
			}
		}
	}
	for _, address := range []net.Addr{alive.packets.LocalAddr(), alive.connections.Addr()} {
		conn := send(t, address)
		if _, err := conn.Write([]byte("query")); err != nil {
			t.Fatal(err)
		}
		answer := make([]byte, len("answer"))
		if _, err := io.ReadFull(conn, answer); err != nil || string(answer) != "answer" {
			t.Errorf("%s: %q, %v", address.Network(), answer, err)
		}
	}
}

func send(t *testing.T, address net.Addr) net.Conn {
	t.Helper()
	conn, err := net.Dial(address.Network(), address.String())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	_ = conn.SetDeadline(time.Now().Add(time.Minute))
	return conn
}

// A connection ends in time, also one to the container's own resolver that says nothing.
func TestConnectionThatLasts(t *testing.T) {
	own, err := net.Listen("tcp", "127.77.0.3:53")
	if err != nil {
		t.Fatal(err)
	}
	defer own.Close()
	all := New(func(*api.StreamHeader) (net.Conn, error) { return nil, errors.New("refused") })
	all.connectionTimeout = time.Millisecond
	conn := send(t, listening(t, all, "127.77.0.3").connections.Addr())
	if _, err := conn.Read(make([]byte, 1)); err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("it has not ended: %v", err)
	}
}
