// Package peer tells who is at the other end of a Unix socket, as the kernel noted when it was
// connected (unix(7), SO_PEERCRED).
package peer

import (
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// Of is the process at the other end, with its user and group.
func Of(conn *net.UnixConn) (credentials *unix.Ucred, err error) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	controlErr := raw.Control(func(fd uintptr) {
		credentials, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
	})
	if controlErr != nil {
		return nil, controlErr
	}
	return credentials, os.NewSyscallError("getsockopt", err)
}
