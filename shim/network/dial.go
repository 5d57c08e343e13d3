package network

import (
	"errors"
	"math/rand/v2"
	"net"
	"net/netip"
	"os"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
)

// Ports of what DialPast connects from, which a Loopback leaves alone. They are below all that
// the kernel gives to other clients (ip_local_port_range of ip-sysctl.rst), and at one of them
// there can be as many connections as there are addresses to connect to.
const (
	firstOwnPort = 512
	endOwnPort   = 1024
)

// DialPast connects by TCP to what listens in a network namespace of the host, and not to the
// guest: past a Loopback.
func DialPast(namespace *os.File, address netip.AddrPort, timeout time.Duration) (conn net.Conn, err error) {
	dialer := net.Dialer{Deadline: time.Now().Add(timeout), Control: reuseAddress}
	err = thread.InNetwork(namespace, func() error {
		offset := rand.IntN(endOwnPort - firstOwnPort)
		for i := range endOwnPort - firstOwnPort {
			dialer.LocalAddr = &net.TCPAddr{Port: firstOwnPort + (offset+i)%(endOwnPort-firstOwnPort)}
			conn, err = dialer.Dial("tcp", address.String())
			if !errors.Is(err, unix.EADDRINUSE) && !errors.Is(err, unix.EADDRNOTAVAIL) {
				return err
			}
		}
		return err
	})
	return conn, err
}

// reuseAddress lets a socket have a port that others have, which are connected or were
// (socket(7)).
func reuseAddress(_, _ string, raw syscall.RawConn) error {
	var setErr error
	err := raw.Control(func(fd uintptr) {
		setErr = unix.SetsockoptInt(int(fd), unix.SOL_SOCKET, unix.SO_REUSEADDR, 1)
	})
	return errors.Join(err, setErr)
}
