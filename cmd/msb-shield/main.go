// msb-shield is the process of a VM that keeps the metadata of mounted files. The
// shim starts it; it is not run by hand.
package main

import (
	"fmt"
	"net"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/shield/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/shield/server"
	"github.com/msb-runtime/containerd-shim-msb/vm/jail/entry"
)

// name is the program's, as the kernel takes it.
var name = []byte("msb-shield\x00")

// The program is executed by a descriptor, after whose number the kernel names it. The name of a process
// is that of its main thread, and that is where init is run.
func init() {
	_ = unix.Prctl(unix.PR_SET_NAME, uintptr(unsafe.Pointer(&name[0])), 0, 0, 0) // it only helps who looks
}

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "msb-shield:", err)
		os.Exit(1)
	}
}

func run() error {
	if err := entry.Enter(); err != nil {
		return err
	}
	control, err := connection(api.Control)
	if err != nil {
		return err
	}
	names, err := connection(api.Names)
	if err != nil {
		return err
	}
	s, err := server.New(api.Device, names)
	if err != nil {
		return err
	}
	return s.Serve(control)
}

// connection is the socket of a descriptor that the shim has left.
func connection(fd uintptr) (*net.UnixConn, error) {
	socket := os.NewFile(fd, "socket")
	defer socket.Close()
	conn, err := net.FileConn(socket)
	if err != nil {
		return nil, fmt.Errorf("the socket on descriptor %d: %w", fd, err)
	}
	of, ok := conn.(*net.UnixConn)
	if !ok {
		return nil, fmt.Errorf("descriptor %d is a socket of the wrong kind", fd)
	}
	return of, nil
}
