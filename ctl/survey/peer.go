package survey

import (
	"context"
	"errors"
	"net"

	"golang.org/x/sys/unix"
)

// PeerOf is the process that listens at the path of a socket (unix(7), SO_PEERCRED).
func PeerOf(ctx context.Context, path string) (pid int, err error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	raw, err := conn.(*net.UnixConn).SyscallConn()
	if err != nil {
		return 0, err
	}
	controlErr := raw.Control(func(fd uintptr) {
		var credentials *unix.Ucred
		if credentials, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err == nil {
			pid = int(credentials.Pid)
		}
	})
	return pid, errors.Join(controlErr, err)
}
