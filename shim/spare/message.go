package spare

import (
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/peer"
)

// A Start is what a daemon needs to know, and what it must have.
type Start struct {
	// Args are its arguments, without the program's name; Env is its environment.
	Args, Env []string
	// Dir is the path of Bundle.
	Dir string
	// Nice is the priority that it is to have (setpriority(2)).
	Nice int
	// Socket is that of the shim, Released a pipe that tells when its "start" is done, and
	// Bundle the directory that it works in. They are the sender's to close.
	Socket, Released, Bundle *os.File `json:"-"`
}

const (
	// files is how many descriptors come with a Start.
	files = 3
	// maxStart is how long one may be, in bytes: what a kernel gives to a program is less.
	maxStart = 4 << 20
	// accepted is the answer of a spare that is a start's now. Any other says why not.
	accepted = "accepted"
)

// A start is one message over a socket of type SOCK_SEQPACKET, which keeps its bounds, with
// the descriptors in it (unix(7)). The answer is another.

// send sends a start.
func (s Start) send(conn *net.UnixConn) error {
	data, err := json.Marshal(s)
	if err != nil {
		return err
	}
	rights := unix.UnixRights(int(s.Socket.Fd()), int(s.Released.Fd()), int(s.Bundle.Fd()))
	_, _, err = conn.WriteMsgUnix(data, rights, nil)
	return err
}

// close closes what came with a start.
func (s Start) close() {
	for _, file := range []*os.File{s.Socket, s.Released, s.Bundle} {
		if file != nil {
			file.Close()
		}
	}
}

// receive takes a start, whose files the caller closes.
func receive(conn *net.UnixConn) (s Start, err error) {
	data, rights := make([]byte, maxStart), make([]byte, unix.CmsgSpace(files*4))
	n, rightsLength, flags, _, readErr := conn.ReadMsgUnix(data, rights)
	// An empty message is an end (io.EOF) that may have descriptors all the same.
	received, err := open(rights[:rightsLength])
	defer func() {
		if err != nil {
			for _, file := range received {
				file.Close()
			}
		}
	}()
	if err := errors.Join(readErr, err); err != nil {
		return s, err
	}
	if flags&(unix.MSG_TRUNC|unix.MSG_CTRUNC) != 0 || len(received) != files {
		return s, fmt.Errorf("a start of %d bytes and %d descriptors is not whole", n, len(received))
	}
	if err := json.Unmarshal(data[:n], &s); err != nil {
		return s, err
	}
	if err := check(received, unix.S_IFSOCK, unix.S_IFIFO, unix.S_IFDIR); err != nil {
		return s, err
	}
	s.Socket, s.Released, s.Bundle = received[0], received[1], received[2]
	return s, s.checkDir()
}

// checkDir refuses a bundle that is not at its path in the mount namespace of this process,
// which is a copy of containerd's from before: what containerd has mounted since is there only
// if the host's mounts are shared.
func (s Start) checkDir() error {
	bundle, err := s.Bundle.Stat()
	if err != nil {
		return err
	}
	here, err := os.Stat(s.Dir)
	if err != nil {
		return err
	}
	if !os.SameFile(bundle, here) {
		return fmt.Errorf("%s was mounted after this spare was made", s.Dir)
	}
	return nil
}

// open makes files of the descriptors that came.
func open(rights []byte) (opened []*os.File, err error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}
	for i := range messages {
		descriptors, err := unix.ParseUnixRights(&messages[i])
		if err != nil {
			return opened, err
		}
		for _, fd := range descriptors {
			opened = append(opened, os.NewFile(uintptr(fd), "received"))
		}
	}
	return opened, nil
}

// check refuses files that are not of the types (inode(7)) that are expected.
func check(opened []*os.File, types ...uint32) error {
	for i, file := range opened {
		var stat unix.Stat_t
		if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
			return err
		}
		if stat.Mode&unix.S_IFMT != types[i] {
			return fmt.Errorf("descriptor %d of a start is of type %o and not %o", i, stat.Mode&unix.S_IFMT, types[i])
		}
	}
	return nil
}

var errNotRoot = errors.New("the other end of the socket is not root's")

// checkPeer refuses anybody but root. Nobody else gets at a spare's socket, either.
func checkPeer(conn *net.UnixConn) error {
	who, err := peer.Of(conn)
	if err != nil {
		return err
	}
	if who.Uid != 0 {
		return errNotRoot
	}
	return nil
}
