package socket

import (
	"encoding/binary"
	"errors"
	"fmt"
	"net"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/internal/peer"
)

// peerOf is who has connected, as the kernel noted at that time (socket(7), SO_PEERGROUPS).
func peerOf(conn *net.UnixConn) (*api.Peer, error) {
	ids, err := peer.Of(conn)
	if err != nil {
		return nil, err
	}
	control, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	who := &api.Peer{Uid: ids.Uid, Gid: ids.Gid}
	controlErr := control.Control(func(fd uintptr) { who.Groups, err = peerGroups(fd) })
	if err := errors.Join(controlErr, err); err != nil {
		return nil, err
	}
	return who, nil
}

func peerGroups(fd uintptr) ([]uint32, error) {
	var groups [api.MaxGroups]uint32
	size := uint32(unsafe.Sizeof(groups))
	_, _, errno := unix.Syscall6(unix.SYS_GETSOCKOPT, fd, unix.SOL_SOCKET, unix.SO_PEERGROUPS,
		uintptr(unsafe.Pointer(&groups)), uintptr(unsafe.Pointer(&size)), 0)
	switch errno {
	case 0:
		return append([]uint32(nil), groups[:size/uint32(binary.Size(groups[0]))]...), nil
	case unix.ERANGE:
		return nil, fmt.Errorf("a process with more than %d supplementary groups", api.MaxGroups)
	}
	return nil, os.NewSyscallError("getsockopt", errno)
}
