package network

import (
	"errors"
	"fmt"
	"net"
	"strconv"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
)

// ServePort joins a stream of the host with a TCP connection to a loopback address of
// the containers' network, and owns it.
func ServePort(stream net.Conn, port uint32) {
	defer stream.Close()
	conn, err := dialLoopback(port)
	if replyErr := api.ReplyStream(stream, err); err != nil || replyErr != nil {
		if conn != nil {
			conn.Close()
		}
		return
	}
	defer conn.Close()
	api.Join(conn, stream)
}

func dialLoopback(port uint32) (conn *net.TCPConn, err error) {
	err = thread.InNetworkAt(api.NetworkPath(), func() error {
		var errs []error
		for _, host := range []string{"127.0.0.1", "::1"} {
			dialed, err := net.Dial("tcp", net.JoinHostPort(host, strconv.FormatUint(uint64(port), 10)))
			if err == nil {
				conn = dialed.(*net.TCPConn)
				return nil
			}
			errs = append(errs, err)
		}
		return fmt.Errorf("port %d: %w", port, errors.Join(errs...))
	})
	return conn, err
}
