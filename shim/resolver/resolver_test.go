package resolver

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"runtime"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
	"github.com/msb-runtime/containerd-shim-msb/test/itself"
)

func TestNameservers(t *testing.T) {
	for conf, want := range map[string]string{
		"nameserver 127.0.0.11\noptions ndots:0\n":                  "127.0.0.11",
		"# nameserver 127.0.0.1\nsearch a b\nnameserver 10.0.0.1":   "",
		"nameserver ::1\n  nameserver\t127.0.0.53 # x\nnameserver":  "::1 127.0.0.53",
		"nameserver ::ffff:127.0.0.5":                               "127.0.0.5",
		"nameserver 127.0.0.1.1\nnameserver ::1%lo\nname 127.0.0.1": "",
		"nameserver 0.0.0.0\nnameserver localhost":                  "",
		strings.Repeat("nameserver 127.0.0.1 ", 1000):               "127.0.0.1",
	} {
		var got []string
		for _, address := range nameservers([]byte(conf)) {
			got = append(got, address.String())
		}
		if strings.Join(got, " ") != want {
			t.Errorf("%.60q names %v, want %q", conf, got, want)
		}
	}
}

func TestDockersSockets(t *testing.T) {
	const head = "  sl  local_address rem_address   st tx_queue\n"
	for table, want := range map[string]bool{
		head: false,
		head + "  111: 0B00007F:C350 00000000:0000 07 00000000:00000000\n": true,
		head + "  111: 0100007F:C350 0B00007F:0035 07 00000000:00000000\n": false,
	} {
		if hasDocker(table) != want {
			t.Errorf("%q: %v", table, !want)
		}
	}
}

// What is offered: nothing before it is known where, no more than the guest takes, and
// nothing twice.
func TestAddresses(t *testing.T) {
	var s Set
	var conf strings.Builder
	for i := range 300 {
		fmt.Fprintf(&conf, "nameserver 127.1.%d.%d\nnameserver 127.0.0.1\n", i/250, i%250)
	}
	var lines bytes.Buffer
	log.L.Logger.SetOutput(&lines)
	defer log.L.Logger.SetOutput(os.Stderr)
	s.Add([]byte(conf.String()))
	s.Add([]byte(conf.String()))
	if told := lines.String(); strings.Count(told, "\n") != 1 || !strings.Contains(told, " 127.1.0.6 ") {
		t.Errorf("told of what does not fit: %q", told)
	}
	if got := s.Addresses(); got != nil {
		t.Errorf("before Join: %v", got)
	}
	s.Join(namespace(t))
	if got := s.Addresses(); len(got) != api.MaxResolvers-1 || got[0] != "127.1.0.0" || got[1] != "127.0.0.1" {
		t.Errorf("addresses: %v", got)
	}
}

// namespace is a network namespace, with loopback up.
func namespace(t *testing.T) (file *os.File) {
	t.Helper()
	err := thread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		loopback, err := netlink.LinkByName("lo")
		if err == nil {
			err = netlink.LinkSetUp(loopback)
		}
		if err != nil {
			return err
		}
		file, err = os.Open("/proc/thread-self/ns/net")
		return err
	})
	if err != nil {
		t.Fatalf("making a network namespace, as root: %v", err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

// serve answers at an address of the set's namespace by what reply makes of a query; nil is
// no answer.
func serve(t *testing.T, s *Set, address string, reply func([]byte) []byte) {
	t.Helper()
	var packets net.PacketConn
	var listener net.Listener
	err := s.inNamespace(func() (err error) {
		if packets, err = net.ListenPacket("udp", address); err != nil {
			return err
		}
		var config net.ListenConfig
		config.SetMultipathTCP(false)
		listener, err = config.Listen(context.Background(), "tcp", address)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { packets.Close(); listener.Close() })
	go func() {
		buffer := make([]byte, 1<<16)
		for {
			n, from, err := packets.ReadFrom(buffer)
			if err != nil {
				return
			}
			if answer := reply(buffer[:n]); answer != nil {
				for range 100 { // a flood: one is enough
					_, _ = packets.WriteTo(answer, from)
				}
			}
		}
	}()
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			go func() { defer conn.Close(); _, _ = io.Copy(conn, conn) }()
		}
	}()
}

// ask is a query of the guest's.
func ask(t *testing.T, s *Set, address string, query []byte) ([]byte, error) {
	t.Helper()
	c, err := s.Connect(&api.ResolverStream{Address: address, Datagram: true})
	if err != nil {
		return nil, err
	}
	defer c.Close()
	guest, host := net.Pipe()
	defer guest.Close()
	go func() { c.Carry(host); host.Close() }()
	if err := api.WriteDatagram(guest, query); err != nil {
		t.Fatal(err)
	}
	return api.ReadDatagram(guest)
}

func TestQueries(t *testing.T) {
	var s Set
	s.Add([]byte("nameserver 127.0.0.1\nnameserver 127.0.0.9\nnameserver ::1\n"))
	s.Join(namespace(t))
	// A loopback address that nobody has named has a server, too.
	for _, address := range []string{"127.0.0.1:53", "[::1]:53", "127.0.0.8:53", "127.0.0.1:54"} {
		serve(t, &s, address, func(query []byte) []byte { return append([]byte("to "), query...) })
	}
	for _, address := range []string{"127.0.0.1", "::1"} {
		if got, err := ask(t, &s, address, []byte("query")); string(got) != "to query" {
			t.Errorf("%s answers %q, %v", address, got, err)
		}
	}
	large := bytes.Repeat([]byte("x"), 60_000)
	if got, err := ask(t, &s, "127.0.0.1", large); !bytes.Equal(got[min(3, len(got)):], large) {
		t.Errorf("60,000 bytes: %d, %v", len(got), err)
	}
	if got, err := ask(t, &s, "127.0.0.9", []byte("query")); err != nil || len(got) != 0 {
		t.Errorf("where nobody is: %q, %v", got, err)
	}
	for _, address := range []string{"127.0.0.8", "10.0.0.1", "127.0.0.1:54", "localhost", "", "::", "0.0.0.0", "::1%lo"} {
		if _, err := ask(t, &s, address, []byte("query")); !errdefs.IsNotFound(err) {
			t.Errorf("an address that was not given, %q: %v", address, err)
		}
		if _, err := s.Connect(&api.ResolverStream{Address: address}); !errdefs.IsNotFound(err) {
			t.Errorf("a connection to %q: %v", address, err)
		}
	}
	if s.queries != 0 || s.connections != 0 {
		t.Errorf("left open: %d and %d", s.queries, s.connections)
	}
}

// Docker's resolver is seen when it comes.
func TestDockerComes(t *testing.T) {
	var s Set
	s.Join(namespace(t))
	if got := s.Addresses(); len(got) != 0 {
		t.Errorf("addresses: %v", got)
	}
	if _, err := s.Connect(&api.ResolverStream{Address: "127.0.0.11", Datagram: true}); !errdefs.IsNotFound(err) {
		t.Errorf("before it has come: %v", err)
	}
	serve(t, &s, "127.0.0.11:0", func([]byte) []byte { return nil })
	if got := s.Addresses(); len(got) != 1 || got[0] != "127.0.0.11" {
		t.Errorf("addresses: %v", got)
	}
}

// By TCP it is a connection, and one that nobody accepts is refused at once.
func TestConnections(t *testing.T) {
	var s Set
	s.Add([]byte("nameserver 127.0.0.1\nnameserver 127.0.0.2"))
	s.Join(namespace(t))
	serve(t, &s, "127.0.0.1:53", nil)
	if _, err := s.Connect(&api.ResolverStream{Address: "127.0.0.2"}); !errors.Is(err, unix.ECONNREFUSED) {
		t.Errorf("where nobody is: %v", err)
	}
	c, err := s.Connect(&api.ResolverStream{Address: "127.0.0.1"})
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	guest, host := net.Pipe()
	done := make(chan struct{})
	go func() { defer close(done); c.Carry(host) }()
	if _, err := guest.Write([]byte("hello")); err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 5)
	if _, err := io.ReadFull(guest, got); err != nil || string(got) != "hello" {
		t.Errorf("%q, %v", got, err)
	}
	guest.Close()
	<-done
}

// A guest that opens very many, of a resolver that does not answer, has as many as it may,
// and what it says in them is bounded.
func TestFlood(t *testing.T) {
	before := runtime.NumGoroutine()
	var s Set
	s.Add([]byte("nameserver 127.0.0.1"))
	s.Join(namespace(t))
	open := []io.Closer{silent(t, &s)}
	for datagram, most := range map[bool]int{true: MaxQueries, false: MaxConnections} {
		for i := range 2000 {
			c, err := s.Connect(&api.ResolverStream{Address: "127.0.0.1", Datagram: datagram})
			if (err == nil) != (i < most) || err != nil && !errdefs.IsResourceExhausted(err) {
				t.Fatalf("connection %d, datagram %v: %v", i, datagram, err)
			}
			if err != nil {
				continue
			}
			guest, host := net.Pipe()
			open = append(open, guest)
			go func() { defer c.Close(); defer host.Close(); c.Carry(host) }()
			if datagram {
				_, _ = guest.Write([]byte{0}) // never a whole query
			}
		}
	}
	for _, c := range open {
		c.Close()
	}
	itself.Await(t, "all to be over", func() bool {
		s.mu.Lock()
		defer s.mu.Unlock()
		return s.queries == 0 && s.connections == 0 && runtime.NumGoroutine() <= before+4
	})
}

// silent listens at the address and says nothing.
func silent(t *testing.T, s *Set) (listener net.Listener) {
	t.Helper()
	err := s.inNamespace(func() (err error) {
		var config net.ListenConfig
		config.SetMultipathTCP(false)
		listener, err = config.Listen(context.Background(), "tcp", "127.0.0.1:53")
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return listener
}
