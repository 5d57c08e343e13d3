package main

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// connected are both ends of a connection over loopback.
func connected(listen net.ListenConfig, dial net.Dialer) (client, server *net.TCPConn, err error) {
	listener, err := listen.Listen(context.Background(), "tcp4", "127.0.0.1:0")
	if err != nil {
		return nil, nil, err
	}
	defer listener.Close()
	to, err := dial.Dial("tcp4", listener.Addr().String())
	if err != nil {
		return nil, nil, err
	}
	from, err := listener.Accept()
	if err != nil {
		return nil, nil, err
	}
	return to.(*net.TCPConn), from.(*net.TCPConn), nil
}

// through sends a text over a connection.
func through(client io.Writer, server io.Reader) error {
	const text = "hello"
	if _, err := client.Write([]byte(text)); err != nil {
		return err
	}
	got := make([]byte, len(text))
	if _, err := io.ReadFull(server, got); err != nil {
		return err
	}
	if string(got) != text {
		return fmt.Errorf("%q came", got)
	}
	return nil
}

// on does something with a connection's descriptor.
func on(conn *net.TCPConn, do func(fd int) error) error {
	control, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	return errors.Join(control.Control(func(fd uintptr) { err = do(int(fd)) }), err)
}

// mptcp speaks it with itself.
func mptcp([]string) error {
	var listen net.ListenConfig
	var dial net.Dialer
	listen.SetMultipathTCP(true)
	dial.SetMultipathTCP(true)
	client, server, err := connected(listen, dial)
	if err != nil {
		return err
	}
	if err := through(client, server); err != nil {
		return err
	}
	if multipath, err := client.MultipathTCP(); err != nil || !multipath {
		return fmt.Errorf("the connection is TCP's: %w", err)
	}
	return nil
}

// bbr takes it as the congestion control of a connection.
func bbr([]string) error {
	client, server, err := connected(net.ListenConfig{}, net.Dialer{})
	if err != nil {
		return err
	}
	err = on(client, func(fd int) error { return unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_CONGESTION, "bbr") })
	return errors.Join(err, through(client, server))
}

// ktls has the kernel encrypt on one side and decrypt on the other.
func ktls([]string) error {
	client, server, err := connected(net.ListenConfig{}, net.Dialer{})
	if err != nil {
		return err
	}
	// struct tls12_crypto_info_aes_gcm_128 with a key of zeros (include/uapi/linux/tls.h).
	const solTLS, sends, receives = 282, 1, 2
	info := make([]byte, 40)
	binary.NativeEndian.PutUint16(info, 0x0303) // TLS 1.2
	binary.NativeEndian.PutUint16(info[2:], 51) // AES GCM 128
	encrypt := func(conn *net.TCPConn, direction int) error {
		return on(conn, func(fd int) error {
			if err := unix.SetsockoptString(fd, unix.IPPROTO_TCP, unix.TCP_ULP, "tls"); err != nil {
				return err
			}
			return unix.SetsockoptString(fd, solTLS, direction, string(info))
		})
	}
	if err := errors.Join(encrypt(client, sends), encrypt(server, receives)); err != nil {
		return err
	}
	return through(client, server)
}

// sctp [SERVER CLIENT] speaks it with itself: the server has the first ADDRESS:PORT, and the
// client connects to the second.
func sctp(args []string) error {
	var own, other unix.Sockaddr = &unix.SockaddrInet4{Addr: [4]byte{127, 0, 0, 1}}, nil
	if len(args) > 0 {
		addresses := make([]unix.SockaddrInet4, 2)
		for i := range addresses {
			address, err := netip.ParseAddrPort(args[i])
			if err != nil {
				return err
			}
			addresses[i] = unix.SockaddrInet4{Addr: address.Addr().As4(), Port: int(address.Port())}
		}
		own, other = &addresses[0], &addresses[1]
	}
	open := func() (int, error) {
		return unix.Socket(unix.AF_INET, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, unix.IPPROTO_SCTP)
	}
	listener, err := open()
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(listener)
	if err := errors.Join(unix.Bind(listener, own), unix.Listen(listener, 1)); err != nil {
		return err
	}
	if other == nil {
		if other, err = unix.Getsockname(listener); err != nil {
			return err
		}
	}
	client, err := open()
	if err != nil {
		return err
	}
	if err := unix.Connect(client, other); err != nil {
		return os.NewSyscallError("connect", err)
	}
	server, _, err := unix.Accept(listener)
	if err != nil {
		return err
	}
	to, from := os.NewFile(uintptr(client), "client"), os.NewFile(uintptr(server), "server")
	return errors.Join(through(to, from), to.Close(), from.Close())
}

// ipset NAME ADDRESS TYPE ... makes a set of one address, and an empty one of each other type.
func ipset(args []string) error {
	for _, kind := range args[2:] {
		if err := netlink.IpsetCreate("of-"+kind, kind, netlink.IpsetCreateOptions{PortTo: 1<<16 - 1}); err != nil {
			return fmt.Errorf("%s: %w", kind, err)
		}
	}
	if err := netlink.IpsetCreate(args[0], "hash:ip", netlink.IpsetCreateOptions{}); err != nil {
		return err
	}
	return netlink.IpsetAdd(args[0], &netlink.IPSetEntry{IP: net.ParseIP(args[1])})
}

// protocols are those of ipvs by name.
var protocols = map[string]uint16{"tcp": unix.IPPROTO_TCP, "sctp": unix.IPPROTO_SCTP}

// ipvs PROTOCOL SCHEDULER VIRTUAL REAL makes a service with one server, both ADDRESS:PORT.
func ipvs(args []string) error {
	virtual, err := net.ResolveTCPAddr("tcp4", args[2])
	if err != nil {
		return err
	}
	server, err := net.ResolveTCPAddr("tcp4", args[3])
	if err != nil {
		return err
	}
	// struct ip_vs_service_user and ip_vs_dest_user (include/uapi/linux/ip_vs.h).
	const addService, addServer = 1154, 1159 // IP_VS_SO_SET_ADD, IP_VS_SO_SET_ADDDEST
	const serviceSize, serverSize = 44, 24
	options := make([]byte, serviceSize+serverSize)
	binary.NativeEndian.PutUint16(options, protocols[args[0]])
	copy(options[4:], virtual.IP.To4())
	binary.BigEndian.PutUint16(options[8:], uint16(virtual.Port))
	copy(options[16:32], args[1])
	binary.NativeEndian.PutUint32(options[40:], 1<<32-1) // netmask
	copy(options[serviceSize:], server.IP.To4())
	binary.BigEndian.PutUint16(options[serviceSize+4:], uint16(server.Port))
	binary.NativeEndian.PutUint32(options[serviceSize+12:], 1) // weight
	socket, err := unix.Socket(unix.AF_INET, unix.SOCK_RAW|unix.SOCK_CLOEXEC, unix.IPPROTO_RAW)
	if err != nil {
		return err
	}
	defer unix.Close(socket)
	if err := unix.SetsockoptString(socket, unix.IPPROTO_IP, addService, string(options[:serviceSize])); err != nil {
		return os.NewSyscallError("setsockopt(IP_VS_SO_SET_ADD)", err)
	}
	return unix.SetsockoptString(socket, unix.IPPROTO_IP, addServer, string(options))
}
