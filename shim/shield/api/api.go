// Package api is how the shim speaks to the shield: one request and one reply at
// a time, each a datagram of a SOCK_SEQPACKET socket, descriptors beside it
// (unix(7), SCM_RIGHTS).
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
	// Control is the socket of requests.
	Control = 3
	// Device is the opened /dev/fuse of its mount.
	Device = 4
)

// maxMessage bounds a message, in bytes: a file name of 255 bytes at its longest.
const maxMessage = 4 << 10

// A Request changes the shield's entries. Its descriptors are passed beside it.
type Request struct {
	// Add is the name of a new entry. The first descriptor is its file, opened
	// with O_PATH. With Follow there is a second: the directory in which Base is
	// looked up at each open.
	Add    string `json:"add,omitempty"`
	Follow bool   `json:"follow,omitempty"`
	Base   []byte `json:"base,omitempty"` // bytes: a file name need not be UTF-8
	// Remove is the name of the entry to take away.
	Remove string `json:"remove,omitempty"`
}

// A Reply answers a Request.
type Reply struct {
	// Error is empty when it was done.
	Error string `json:"error,omitempty"`
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
	data, rights := make([]byte, maxMessage), make([]byte, unix.CmsgSpace(2*4))
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
