// Package api is how the shim and the shield speak to each other: one request and
// one reply at a time, each a datagram of a SOCK_SEQPACKET socket, descriptors
// beside it (unix(7), SCM_RIGHTS). There are two sockets: on one the shim adds and
// removes entries, on the other the shield asks for files that are followed.
package api

import (
	"encoding/json"
	"fmt"
	"net"
	"os"

	"golang.org/x/sys/unix"
)

// The shield's descriptors: Files of its jail, in this order.
const (
	// Control is the socket of the shim's requests.
	Control = 3
	// Device is the opened /dev/fuse of its mount.
	Device = 4
	// Names is the socket of the shield's questions.
	Names = 5
)

// maxMessage bounds a message, in bytes: a file name of 255 bytes at its longest.
const maxMessage = 4 << 10

// A Request changes the shield's entries. Its descriptors are passed beside it.
type Request struct {
	// Add is the name of a new entry. The descriptor is its file, opened with
	// O_PATH. With Follow the shield asks at each open which file it is now. With Fixed the
	// file keeps the size that it has.
	Add    string `json:"add,omitempty"`
	Follow bool   `json:"follow,omitempty"`
	Fixed  bool   `json:"fixed,omitempty"`
	// Remove is the name of the entry to take away.
	Remove string `json:"remove,omitempty"`
}

// A Reply answers a Request.
type Reply struct {
	// Error is empty when it was done.
	Error string `json:"error,omitempty"`
}

// A Find asks for the file that an entry is to follow. The shield has no directory
// in which it could look: from a directory's descriptor, and a right that overrides
// permissions, the whole host could be reached.
type Find struct {
	// Entry is the name under which the file was added.
	Entry string `json:"entry"`
	// Dev and Ino are of the file that the shield has.
	Dev uint64 `json:"dev"`
	Ino uint64 `json:"ino"`
}

// A Found answers a Find.
type Found struct {
	// Changed says that it is another file than the one that the shield has. Its
	// descriptor, opened with O_PATH, is beside the message.
	Changed bool `json:"changed,omitempty"`
	// Errno says why there is none; 0 means that there is one.
	Errno int `json:"errno,omitempty"`
}

// Send sends a message. The files stay the caller's.
func Send(conn *net.UnixConn, message any, files ...*os.File) error {
	data, err := json.Marshal(message)
	if err != nil {
		return err
	}
	if len(data) > maxMessage {
		return fmt.Errorf("a message of %d bytes: %w", len(data), unix.EMSGSIZE)
	}
	var rights []byte
	if len(files) > 0 {
		fds := make([]int, len(files))
		for i, file := range files {
			fds[i] = int(file.Fd())
		}
		rights = unix.UnixRights(fds...)
	}
	_, _, err = conn.WriteMsgUnix(data, rights, nil)
	return err
}

// Receive reads a message and returns the descriptors beside it, which are the
// caller's.
func Receive(conn *net.UnixConn, message any) ([]*os.File, error) {
	data, rights := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(4))
	n, nRights, _, _, err := conn.ReadMsgUnix(data, rights)
	if err != nil {
		return nil, err
	}
	files, err := parseRights(rights[:nRights])
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data[:n], message); err != nil {
		CloseAll(files)
		return nil, err
	}
	return files, nil
}

func parseRights(rights []byte) (files []*os.File, err error) {
	messages, err := unix.ParseSocketControlMessage(rights)
	if err != nil {
		return nil, err
	}
	for _, message := range messages {
		fds, err := unix.ParseUnixRights(&message)
		if err != nil {
			CloseAll(files)
			return nil, err
		}
		for _, fd := range fds {
			unix.CloseOnExec(fd)
			files = append(files, os.NewFile(uintptr(fd), "received"))
		}
	}
	return files, nil
}

// CloseAll closes files.
func CloseAll(files []*os.File) {
	for _, file := range files {
		file.Close()
	}
}
