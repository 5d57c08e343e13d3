// msb-shield is the process of a VM that keeps the metadata of mounted files. The
// shim starts it; it is not run by hand.
package main

import (
	"fmt"
	"net"
	"os"

	"github.com/msb-runtime/containerd-shim-msb/shim/shield/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/shield/server"
	"github.com/msb-runtime/containerd-shim-msb/vm/jail"
)

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "msb-shield:", err)
		os.Exit(1)
	}
}

func run() error {
	if err := jail.Enter(); err != nil {
		return err
	}
	socket := os.NewFile(api.Control, "control")
	conn, err := net.FileConn(socket)
	socket.Close()
	if err != nil {
		return fmt.Errorf("the control socket: %w", err)
	}
	s, err := server.New(api.Device)
	if err != nil {
		return err
	}
	return s.Serve(conn.(*net.UnixConn))
}
