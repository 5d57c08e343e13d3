package survey

import (
	"context"
	"fmt"
	"net"

	"github.com/msb-runtime/containerd-shim-msb/internal/peer"
)

// PeerOf is the process that listens at the path of a socket. It has to be root's, as containerd
// is: of another user's the namespaces are not entered, and nothing in its PATH is run.
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
	if who.Uid != 0 {
		return 0, fmt.Errorf("process %d of user %d listens on %s, and containerd is root's: name containerd's socket", who.Pid, who.Uid, path)
	}
	return int(who.Pid), nil
}
