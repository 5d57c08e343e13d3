// Package resolver takes what the containers send to a resolver on a loopback address, which
// listens in a network namespace of the host, there by streams to the shim. Nobody listens
// at the address in the guest: a container may do so itself, at port 53 of all addresses.
// Programs of the containers' control groups lead to the agent's own ports instead.
package resolver

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"time"

	"github.com/containerd/log"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
)

const (
	// port is a resolver's (RFC 1035, 4.2).
	port = 53
	// maxOpen is how many queries of a resolver are open at a time, and as many connections:
	// one that does not answer takes no other's. The host allows four times as many, for all
	// resolvers together, and learns later than the agent that one has ended.
	maxOpen = 32
	// connectTimeout is how long a connection within the guest may take.
	connectTimeout = 5 * time.Second
	// connectionTimeout is how long a connection by TCP lasts at most, as on the host.
	connectionTimeout = 2 * time.Minute
	// pause is how long after an error of the kernel's, such as for want of memory, it is asked
	// again.
	pause = 100 * time.Millisecond
)

// Open opens a stream to the host.
type Open func(*api.StreamHeader) (net.Conn, error)

// Resolvers are those that the containers reach. Its methods are called one at a time.
type Resolvers struct {
	open              Open
	connectionTimeout time.Duration

	redirect *redirect // nil before the first
	all      map[netip.Addr]*resolver
}

// New returns none yet.
func New(open Open) *Resolvers {
	return &Resolvers{open: open, connectionTimeout: connectionTimeout, all: make(map[netip.Addr]*resolver)}
}

// Set makes addresses, and no others, lead to the host. namespace is the containers'
// network namespace, always the same.
func (r *Resolvers) Set(namespace string, addresses []string) error {
	var errs []error
	wanted := make(map[netip.Addr]bool)
	for _, text := range addresses {
		address, err := netip.ParseAddr(text)
		if err == nil {
			wanted[address] = true
			err = r.add(namespace, address)
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("resolver %s: %w", text, err))
		}
	}
	for address, resolver := range r.all {
		if !wanted[address] {
			errs = append(errs, r.redirect.remove(resolver), resolver.close())
			delete(r.all, address)
		}
	}
	return errors.Join(errs...)
}

func (r *Resolvers) add(namespace string, address netip.Addr) (err error) {
	if r.all[address] != nil {
		return nil
	}
	if r.redirect == nil {
		if r.redirect, err = newRedirect(namespace); err != nil {
			return err
		}
	}
	added := r.resolver(namespace, address)
	if err := thread.InNetworkAt(namespace, added.listen); err != nil {
		return errors.Join(err, added.close())
	}
	if err := r.redirect.add(added); err != nil {
		return errors.Join(err, added.close())
	}
	r.all[address] = added
	go added.servePackets()
	go added.serveConnections()
	return nil
}

// resolver is one of them.
type resolver struct {
	of          *Resolvers
	namespace   string
	address     netip.Addr
	packets     *net.UDPConn
	connections *net.TCPListener

	openQueries, openConnections chan struct{}
}

func (r *Resolvers) resolver(namespace string, address netip.Addr) *resolver {
	return &resolver{
		of: r, namespace: namespace, address: address,
		openQueries: make(chan struct{}, maxOpen), openConnections: make(chan struct{}, maxOpen),
	}
}

// listen listens at ports of the address that the kernel chooses.
func (r *resolver) listen() (err error) {
	free := netip.AddrPortFrom(r.address, 0)
	if r.packets, err = net.ListenUDP("udp", net.UDPAddrFromAddrPort(free)); err != nil {
		return err
	}
	r.connections, err = net.ListenTCP("tcp", net.TCPAddrFromAddrPort(free))
	return err
}

func (r *resolver) close() error {
	var errs []error
	if r.packets != nil {
		errs = append(errs, r.packets.Close())
	}
	if r.connections != nil {
		errs = append(errs, r.connections.Close())
	}
	return errors.Join(errs...)
}

// servePackets answers each query that comes by UDP. What is more than may be open waits in
// the socket, and is lost there, as in any network.
func (r *resolver) servePackets() {
	buffer := make([]byte, 1<<16)
	for {
		n, client, err := r.packets.ReadFromUDPAddrPort(buffer)
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(pause)
			continue
		}
		query := append([]byte(nil), buffer[:n]...)
		r.openQueries <- struct{}{}
		go func() {
			defer func() { <-r.openQueries }()
			if answer := r.answer(query); len(answer) > 0 {
				_, _ = r.packets.WriteToUDPAddrPort(answer, client)
			}
		}()
	}
}

// answer is the host's. If nobody is there, the container may have a resolver of its own at
// the address, and if there is none the client learns it at once.
func (r *resolver) answer(query []byte) []byte {
	answer, err := r.askHost(query)
	if err != nil || len(answer) == 0 {
		answer, err = r.askGuest(query)
	}
	if err != nil {
		return failure(query)
	}
	return answer
}

func (r *resolver) askHost(query []byte) ([]byte, error) {
	stream, err := r.stream(true)
	if err != nil {
		return nil, err
	}
	defer stream.Close()
	return ask(stream, query)
}

func ask(stream net.Conn, query []byte) ([]byte, error) {
	if err := stream.SetDeadline(time.Now().Add(api.QueryTimeout)); err != nil {
		return nil, err
	}
	if err := api.WriteDatagram(stream, query); err != nil {
		return nil, err
	}
	return api.ReadDatagram(stream)
}

func (r *resolver) askGuest(query []byte) ([]byte, error) {
	conn, err := r.dial("udp")
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(api.QueryTimeout)); err != nil {
		return nil, err
	}
	if _, err := conn.Write(query); err != nil {
		return nil, err
	}
	answer := make([]byte, 1<<16)
	n, err := conn.Read(answer)
	return answer[:n], err
}

// dial connects to what the containers have at the address themselves.
func (r *resolver) dial(network string) (conn net.Conn, err error) {
	err = thread.InNetworkAt(r.namespace, func() error {
		dialer := net.Dialer{Timeout: connectTimeout}
		conn, err = dialer.Dial(network, netip.AddrPortFrom(r.address, port).String())
		return err
	})
	return conn, err
}

func (r *resolver) stream(datagram bool) (net.Conn, error) {
	return r.of.open(&api.StreamHeader{Purpose: &api.StreamHeader_Resolver{
		Resolver: &api.ResolverStream{Address: r.address.String(), Datagram: datagram},
	}})
}

// failure answers a query with SERVFAIL (RFC 1035, 4.1.1); nil if it is none.
func failure(query []byte) []byte {
	const (
		header     = 12
		response   = 0x80 // in the third byte
		recursion  = 0x01 // and in the third
		opcode     = 0x78
		serverFail = 2 // in the fourth
	)
	if len(query) < header || query[2]&response != 0 {
		return nil
	}
	answer := append([]byte(nil), query...)
	answer[2] = answer[2]&(opcode|recursion) | response
	answer[3] = serverFail
	return answer
}

func (r *resolver) serveConnections() {
	for {
		conn, err := r.connections.AcceptTCP()
		if errors.Is(err, net.ErrClosed) {
			return
		}
		if err != nil {
			time.Sleep(pause)
			continue
		}
		r.openConnections <- struct{}{}
		go func() {
			defer func() { <-r.openConnections }()
			r.forward(conn)
		}()
	}
}

// forward joins a connection with the host's resolver, or else with the container's own.
func (r *resolver) forward(conn *net.TCPConn) {
	defer conn.Close()
	other, err := r.stream(false)
	if err != nil {
		other, err = r.dial("tcp")
	}
	if err != nil {
		log.G(context.Background()).WithError(err).Debugf("a connection to the resolver %s", r.address)
		_ = conn.SetLinger(0) // closes it by a reset
		return
	}
	defer other.Close()
	deadline := time.Now().Add(r.of.connectionTimeout)
	if errors.Join(conn.SetDeadline(deadline), other.SetDeadline(deadline)) == nil {
		api.Join(conn, other)
	}
}
