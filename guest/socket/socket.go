// Package socket listens in the guest for sockets of the host that were mounted
// into containers, and opens a stream to the host for each connection.
package socket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/vm/mux"
)

// Sockets are the sockets that the agent listens on. Its methods may be called
// concurrently.
type Sockets struct {
	host    *mux.Session
	opening chan struct{} // a slot for each stream that the host has not answered

	setting sync.Mutex // is held by Set

	mu         sync.Mutex
	containers map[string][]net.Listener     // guarded by mu
	placed     map[string]map[string]*placed // by container and tag; guarded by mu
}

// New returns none yet.
func New(host *mux.Session) *Sockets {
	return &Sockets{
		host: host, opening: make(chan struct{}, api.MaxOpening),
		containers: make(map[string][]net.Listener), placed: make(map[string]map[string]*placed),
	}
}

// Listen makes a container's sockets where crun takes them from, and serves them
// until Close. After an error none is left.
func (s *Sockets) Listen(ctx context.Context, container string, sockets []*api.SocketMount) (err error) {
	defer func() {
		if err != nil {
			s.Close(container)
		}
	}()
	for _, socket := range sockets {
		listener, err := listenFor(container, socket)
		if err != nil {
			return fmt.Errorf("mount %s: listening in the guest: %w", socket.Destination, err)
		}
		s.mu.Lock()
		s.containers[container] = append(s.containers[container], listener)
		s.mu.Unlock()
		go s.serve(ctx, listener, socket.Tag)
	}
	return nil
}

func listenFor(container string, socket *api.SocketMount) (net.Listener, error) {
	if err := errors.Join(api.CheckName("container id", container), api.CheckName("tag", socket.Tag)); err != nil {
		return nil, err
	}
	// The name goes when the container has its bind.
	return listen(api.FilePath(container, socket.Tag), socket.Mode, socket.Uid, socket.Gid)
}

// listen makes a socket with the mode and owner of the host's.
func listen(path string, mode, uid, gid uint32) (_ net.Listener, err error) {
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	// The path of a socket has room for 107 bytes (unix(7)).
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	short := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
	if err != nil {
		return nil, err
	}
	listener.SetUnlinkOnClose(false)
	if err := own(path, mode, uid, gid); err != nil {
		return nil, errors.Join(err, listener.Close(), unix.Unlink(path))
	}
	return listener, nil
}

func own(path string, mode, uid, gid uint32) error {
	return errors.Join(os.Chown(path, int(uid), int(gid)), os.Chmod(path, os.FileMode(mode&0o777)))
}

func (s *Sockets) serve(ctx context.Context, listener net.Listener, tag string) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			if err := s.forward(conn.(*net.UnixConn), tag); err != nil {
				log.G(ctx).WithError(err).Debug("forwarding a connection")
			}
		}()
	}
}

func (s *Sockets) forward(conn *net.UnixConn, tag string) error {
	peer, err := peerOf(conn)
	if err != nil {
		return err
	}
	stream, err := s.Open(&api.StreamHeader{Purpose: &api.StreamHeader_Socket{Socket: &api.SocketStream{Tag: tag, Peer: peer}}})
	if err != nil {
		return err
	}
	defer stream.Close()
	api.Join(conn, stream)
	return nil
}

// Open opens a stream to the host for a purpose, of which there are api.MaxOpening at a
// time without an answer.
func (s *Sockets) Open(header *api.StreamHeader) (_ net.Conn, err error) {
	s.opening <- struct{}{}
	defer func() { <-s.opening }()
	stream, err := s.host.Open()
	if err != nil {
		return nil, err
	}
	if err := api.OpenStream(stream, header); err != nil {
		stream.Close()
		return nil, err
	}
	return stream, nil
}

// Close ends a container's sockets. Connections live on until one side ends them. No Set of
// the container may be under way, or follow.
func (s *Sockets) Close(container string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, listener := range s.containers[container] {
		listener.Close()
	}
	for _, one := range s.placed[container] {
		_ = one.close()
	}
	delete(s.containers, container)
	delete(s.placed, container)
	_ = os.Remove(filepath.Dir(api.SocketPath(container, "tag"))) // it had none, or has none now
}
