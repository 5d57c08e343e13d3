package socket

import (
	"encoding/binary"
	"fmt"
	"net"
	"os"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
)

// peerOf is who has connected, as the kernel noted at that time (unix(7), SO_PEERCRED;
// socket(7), SO_PEERGROUPS).
func peerOf(conn *net.UnixConn) (peer *api.Peer, err error) {
	control, err := conn.SyscallConn()
	if err != nil {
		return nil, err
	}
	err2 := control.Control(func(fd uintptr) {
		var ids *unix.Ucred
		if ids, err = unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED); err != nil {
			err = os.NewSyscallError("getsockopt", err)
			return
		}
		peer = &api.Peer{Uid: ids.Uid, Gid: ids.Gid}
		peer.Groups, err = peerGroups(fd)
	})
	if err2 != nil {
		return nil, err2
	}
	return peer, err
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
