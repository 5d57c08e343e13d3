// Package resolver carries queries of the guest to resolvers that listen on loopback
// addresses of the container's network namespace on the host, as Docker's does. Which
// addresses those are, the host has found out; the guest names one of them, and reaches
// port 53 of it and nothing else.
package resolver

import (
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
	"github.com/msb-runtime/containerd-shim-msb/shim/network"
)

const (
	// MaxQueries is how many queries by UDP a guest can have open at a time. Each costs
	// the shim at most mux.Window and twice 64 KiB. The agent has a fourth for each resolver.
	MaxQueries = 128
	// MaxConnections is how many connections by TCP a guest can have open at a time. Each
	// costs the shim at most mux.Window and api.JoinBuffer, beside mux.LargeStreams. The
	// agent has a fourth for each resolver.
	MaxConnections = 128
)

const (
	port = 53
	// connectTimeout is how long a connection may take: it is one to the host itself.
	connectTimeout = 5 * time.Second
	// connectionTimeout is how long a connection by TCP lasts at most; a client of DNS opens
	// another (RFC 7766, 6.2.3).
	connectionTimeout = 2 * time.Minute
)

// A Set is the resolvers that the guest of one VM can reach. Its zero value is empty.
type Set struct {
	mu        sync.Mutex
	joined    bool
	namespace *os.File     // nil is the host's
	addresses []netip.Addr // without docker
	docker    bool         // Docker's resolver is in the namespace
	full      bool         // which was told

	queries, connections int // that are open
}

// Join says in which network namespace the resolvers are: nil is the host's. Before that
// the set is empty. The namespace is the caller's.
func (s *Set) Join(namespace *os.File) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.joined, s.namespace = true, namespace
}

// Add adds the resolvers with loopback addresses that a resolv.conf names. There are seven at
// most, beside Docker's: one warning tells of the first that is left out.
func (s *Set) Add(resolvConf []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, address := range nameservers(resolvConf) {
		switch {
		case slices.Contains(s.addresses, address):
		case len(s.addresses) < api.MaxResolvers-1:
			s.addresses = append(s.addresses, address)
		case !s.full:
			s.full = true
			log.L.Warnf("resolv.conf names resolvers on more loopback addresses than %d: %s and others do not answer in the VM", len(s.addresses), address)
		}
	}
}

// nameservers are the loopback addresses among those that resolv.conf(5) names.
func nameservers(resolvConf []byte) (found []netip.Addr) {
	for line := range strings.Lines(string(resolvConf)) {
		words := strings.Fields(line)
		if len(words) < 2 || words[0] != "nameserver" {
			continue
		}
		address, err := netip.ParseAddr(words[1])
		if address = address.Unmap(); err == nil && address.IsLoopback() && address.Zone() == "" {
			found = append(found, address)
		}
	}
	return found
}

// Addresses are those that the guest can reach now. Docker's resolver is found by its
// sockets: it comes into the namespace after the container's creation, and may come with
// a network that is connected later.
func (s *Set) Addresses() (texts []string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.joined {
		return nil
	}
	if !s.docker && s.namespace != nil {
		s.docker = s.inNamespace(findDocker) == nil
	}
	for _, address := range s.all() {
		texts = append(texts, address.String())
	}
	return texts
}

// docker is the address of Docker's resolver. Its sockets have other ports, to which rules
// of the namespace's packet filter lead what goes to port 53.
var docker = netip.AddrFrom4([4]byte{127, 0, 0, 11})

// all are the addresses. The caller holds s.mu.
func (s *Set) all() []netip.Addr {
	if !s.docker || slices.Contains(s.addresses, docker) {
		return s.addresses
	}
	return append(s.addresses[:len(s.addresses):len(s.addresses)], docker)
}

// findDocker finds a UDP socket with Docker's address in this thread's namespace. There
// are no sockets of the guest's (proc_pid_net(5)).
func findDocker() error {
	file, err := os.Open("/proc/thread-self/net/udp")
	if err != nil {
		return err
	}
	defer file.Close()
	const most = 1 << 20
	table, err := io.ReadAll(io.LimitReader(file, most))
	if err != nil {
		return err
	}
	if !hasDocker(string(table)) {
		return errdefs.ErrNotFound
	}
	return nil
}

// hasDocker finds Docker's address in a table of sockets: the second word of a line is the
// local address, in the machine's order of bytes, and the port.
func hasDocker(table string) bool {
	for line := range strings.Lines(table) {
		if words := strings.Fields(line); len(words) > 1 && strings.HasPrefix(words[1], "0B00007F:") {
			return true
		}
	}
	return false
}

func (s *Set) inNamespace(do func() error) error {
	if s.namespace == nil {
		return do()
	}
	return thread.InNetwork(s.namespace, do)
}

// A Connection is one of the guest's to a resolver. Whoever has it closes it.
type Connection struct {
	set      *Set
	conn     net.Conn
	datagram bool
}

// Connect connects to the resolver that the guest names.
func (s *Set) Connect(r *api.ResolverStream) (_ *Connection, err error) {
	address, _ := netip.ParseAddr(r.GetAddress())
	if err := s.take(address, r.GetDatagram()); err != nil {
		return nil, err
	}
	c := &Connection{set: s, datagram: r.GetDatagram()}
	if c.conn, err = s.dial(address, c.datagram); err != nil {
		return nil, errors.Join(fmt.Errorf("connecting to the resolver %s: %w", address, err), c.Close())
	}
	return c, nil
}

// dial connects, in a namespace of the VM's past what takes TCP connections to the guest, which
// the question has come from: see network.Loopback.
func (s *Set) dial(address netip.Addr, datagram bool) (conn net.Conn, err error) {
	to := netip.AddrPortFrom(address, port)
	if !datagram && s.namespace != nil {
		return network.DialPast(s.namespace, to, connectTimeout)
	}
	kind := "tcp"
	if datagram {
		kind = "udp"
	}
	err = s.inNamespace(func() error {
		conn, err = (&net.Dialer{Timeout: connectTimeout}).Dial(kind, to.String())
		return err
	})
	return conn, err
}

// take counts a connection that is to be opened, if it may be.
func (s *Set) take(address netip.Addr, datagram bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.joined || !slices.Contains(s.all(), address) {
		return fmt.Errorf("there is no such resolver: %w", errdefs.ErrNotFound)
	}
	open, most := &s.connections, MaxConnections
	if datagram {
		open, most = &s.queries, MaxQueries
	}
	if *open >= most {
		return fmt.Errorf("%d are open: %w", *open, errdefs.ErrResourceExhausted)
	}
	*open++
	return nil
}

// Close closes it.
func (c *Connection) Close() error {
	c.set.mu.Lock()
	if c.datagram {
		c.set.queries--
	} else {
		c.set.connections--
	}
	c.set.mu.Unlock()
	if c.conn == nil {
		return nil
	}
	return c.conn.Close()
}

// Carry carries what is said between the guest and the resolver, until both have ended, or
// one query was answered.
func (c *Connection) Carry(stream net.Conn) {
	if !c.datagram {
		if c.conn.SetDeadline(time.Now().Add(connectionTimeout)) != nil {
			return
		}
		api.Join(c.conn.(*net.TCPConn), stream)
		return
	}
	deadline := time.Now().Add(api.QueryTimeout)
	if errors.Join(stream.SetDeadline(deadline), c.conn.SetDeadline(deadline)) != nil {
		return
	}
	query, err := api.ReadDatagram(stream)
	if err != nil {
		return
	}
	answer, err := c.ask(query)
	if err == nil || errors.Is(err, unix.ECONNREFUSED) {
		_ = api.WriteDatagram(stream, answer) // of no bytes if nobody is there
	}
}

func (c *Connection) ask(query []byte) ([]byte, error) {
	if _, err := c.conn.Write(query); err != nil {
		return nil, err
	}
	answer := make([]byte, 1<<16)
	n, err := c.conn.Read(answer)
	return answer[:n], err
}
