package socket

import (
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/internal/peer"
	"github.com/msb-runtime/containerd-shim-msb/internal/rawcall"
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
	controlErr := control.Control(func(fd uintptr) { who.Groups, err = peerGroups(int(fd)) })
	if err := errors.Join(controlErr, err); err != nil {
		return nil, err
	}
	return who, nil
}

func peerGroups(socket int) ([]uint32, error) {
	groups, err := rawcall.PeerGroups(socket, api.MaxGroups)
	if errors.Is(err, unix.ERANGE) {
		return nil, fmt.Errorf("a process with more than %d supplementary groups", api.MaxGroups)
	}
	return groups, os.NewSyscallError("getsockopt", err)
}
