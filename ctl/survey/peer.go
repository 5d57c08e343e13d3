package survey

import (
	"context"
	"net"

	"github.com/msb-runtime/containerd-shim-msb/internal/peer"
)

// PeerOf is the process that listens at the path of a socket.
func PeerOf(ctx context.Context, path string) (pid int, err error) {
	conn, err := new(net.Dialer).DialContext(ctx, "unix", path)
	if err != nil {
		return 0, err
	}
	defer conn.Close()
	who, err := peer.Of(conn.(*net.UnixConn))
	if err != nil {
		return 0, err
	}
	return int(who.Pid), nil
}
