// Package socket forwards sockets of the host that were mounted into a container.
// A socket is of one kernel, so the guest has one of its own at the mount's
// destination; each connection to it becomes a stream to the shim, which connects
// to the host's socket. The guest names a socket by its tag, and can name none but
// those that it was given.
package socket

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/resolver"
	"github.com/msb-runtime/containerd-shim-msb/shim/share"
)

const (
	// MaxConnections is how many connections a guest can have open at a time. Each
	// costs the shim at most mux.Window and api.JoinBuffer, beside mux.LargeStreams.
	MaxConnections = 256
	// MaxOpening is how many streams of the guest may be without a connection or a
	// refusal at a time. More wait, up to mux.Backlog. The agent has as many.
	MaxOpening = api.MaxOpening
	// HeaderTimeout is how long the header of a stream may take.
	HeaderTimeout = 5 * time.Second
	// replyTimeout is how long the guest may take to make room for the reply.
	replyTimeout = 30 * time.Second
)

// A Socket is one of the host's that a guest may connect to.
type Socket struct {
	// Tag is its random name.
	Tag string
	// Mode is its permission bits, UID and GID its owner, for the guest's.
	Mode     uint32
	UID, GID uint32

	file *os.File // O_PATH
	dir  *os.File // where base is looked up at each connection; nil when pinned
	base string
	path string // for messages
}

// Table holds the sockets of one VM. Its zero value is empty.
type Table struct {
	// Resolvers are reached by streams of the guest too.
	Resolvers resolver.Set

	mu      sync.Mutex
	sockets map[string]*Socket           // by tag
	conns   map[string]map[net.Conn]bool // by tag; the host's ends
	opened  int                          // connections
}

// Add lets the guest connect to a source, which is a socket, with follow to
// whatever socket then has its name. The caller closes the source.
func (t *Table) Add(source *share.Source, follow bool) (_ *Socket, err error) {
	s := &Socket{Tag: "so_" + rand.Text(), path: source.Path()}
	var stat unix.Stat_t
	if err := unix.Fstat(int(source.File().Fd()), &stat); err != nil {
		return nil, err
	}
	s.Mode, s.UID, s.GID = stat.Mode&0o777, stat.Uid, stat.Gid
	if err := refuseDatagrams(source); err != nil {
		return nil, err
	}
	if follow {
		if s.dir, s.base, err = source.Directory(); err != nil {
			return nil, err
		}
	}
	if s.file, err = duplicate(source.File()); err != nil {
		return nil, errors.Join(err, s.close())
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sockets == nil {
		t.sockets, t.conns = make(map[string]*Socket), make(map[string]map[net.Conn]bool)
	}
	t.sockets[s.Tag], t.conns[s.Tag] = s, make(map[net.Conn]bool)
	return s, nil
}

// refuseDatagrams tells a socket that takes datagrams: connecting to one disturbs
// nobody, and connecting so to another is refused (unix(7)).
func refuseDatagrams(source *share.Source) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	if unix.Connect(fd, &unix.SockaddrUnix{Name: descriptorPath(source.File())}) == nil {
		return fmt.Errorf("source %s is a socket for datagrams; msb forwards those for streams: %w", source.Path(), errdefs.ErrInvalidArgument)
	}
	return nil
}

// descriptorPath is short enough for an address, whatever the socket's own is.
func descriptorPath(file *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", file.Fd()) }

func duplicate(file *os.File) (*os.File, error) {
	fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("fcntl", err)
	}
	return os.NewFile(uintptr(fd), file.Name()), nil
}

// Remove takes a socket from the guest and ends its connections.
func (t *Table) Remove(tag string) error {
	t.mu.Lock()
	socket, conns := t.sockets[tag], t.conns[tag]
	delete(t.sockets, tag)
	delete(t.conns, tag)
	for conn := range conns {
		conn.Close()
	}
	t.mu.Unlock()
	if socket == nil {
		return nil
	}
	return socket.close()
}

func (s *Socket) close() (err error) {
	for _, file := range []*os.File{s.file, s.dir} {
		if file != nil {
			err = errors.Join(err, file.Close())
		}
	}
	return err
}

// ServeAll serves the streams that the guest opens, which accept returns one after
// the other, until accept fails or ctx ends. It does not wait for those that are
// being served. It is called once.
func (t *Table) ServeAll(ctx context.Context, accept func(context.Context) (net.Conn, error)) {
	opening := make(chan struct{}, MaxOpening)
	for {
		select {
		case opening <- struct{}{}:
		case <-ctx.Done():
			return
		}
		stream, err := accept(ctx)
		if err != nil {
			return
		}
		go t.serve(ctx, stream, func() { <-opening })
	}
}

// carrier carries between a stream and what it was opened for, and is closed after that.
type carrier interface {
	io.Closer
	Carry(stream net.Conn)
}

// serve serves one stream that the guest has opened, and owns it. It returns when both
// directions have ended, and calls answered as soon as the guest has its answer.
func (t *Table) serve(ctx context.Context, stream net.Conn, answered func()) {
	defer stream.Close()
	carrier, err := t.answer(stream)
	answered()
	if carrier != nil {
		defer carrier.Close()
	}
	if err != nil {
		log.G(ctx).WithError(err).Debug("a stream of the guest's")
		return
	}
	carrier.Carry(stream)
}

// answer reads the stream's header and connects to what it names. After an error the
// caller still has to close a carrier.
func (t *Table) answer(stream net.Conn) (carrier carrier, err error) {
	if err := stream.SetDeadline(time.Now().Add(HeaderTimeout)); err != nil {
		return nil, err
	}
	header, err := api.AcceptStream(stream)
	if err != nil {
		return nil, err
	}
	carrier, err = t.open(header)
	return carrier, errors.Join(err,
		stream.SetDeadline(time.Now().Add(replyTimeout)),
		api.ReplyStream(stream, err),
		stream.SetDeadline(time.Time{}))
}

func (t *Table) open(header *api.StreamHeader) (carrier, error) {
	if named := header.GetResolver(); named != nil {
		connection, err := t.Resolvers.Connect(named)
		if err != nil {
			return nil, err
		}
		return connection, nil
	}
	tag := header.GetSocket().GetTag()
	conn, err := t.connect(tag)
	if err != nil {
		return nil, err
	}
	return &connection{t, tag, conn}, nil
}

// connection is one to a socket.
type connection struct {
	table *Table
	tag   string
	conn  *net.UnixConn
}

func (c *connection) Carry(stream net.Conn) { api.Join(c.conn, stream) }

func (c *connection) Close() error {
	c.table.disconnect(c.tag, c.conn)
	return nil
}

// connect opens a connection to the host's socket of a tag.
func (t *Table) connect(tag string) (*net.UnixConn, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	socket := t.sockets[tag]
	switch {
	case socket == nil:
		return nil, fmt.Errorf("there is no such socket: %w", errdefs.ErrNotFound)
	case t.opened >= MaxConnections:
		return nil, fmt.Errorf("%d connections are open: %w", t.opened, errdefs.ErrResourceExhausted)
	}
	conn, err := socket.dial()
	if err != nil {
		return nil, fmt.Errorf("connecting to %s: %w", socket.path, err)
	}
	t.conns[tag][conn] = true
	t.opened++
	return conn, nil
}

func (t *Table) disconnect(tag string, conn net.Conn) {
	conn.Close()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.opened--
	delete(t.conns[tag], conn)
}

func (s *Socket) dial() (*net.UnixConn, error) {
	file := s.file
	if s.dir != nil {
		fd, err := unix.Openat(int(s.dir.Fd()), s.base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
		if err != nil {
			return nil, err
		}
		file = os.NewFile(uintptr(fd), s.base)
		defer file.Close()
		var stat unix.Stat_t
		if err := unix.Fstat(fd, &stat); err != nil {
			return nil, err
		}
		if stat.Mode&unix.S_IFMT != unix.S_IFSOCK {
			return nil, unix.ECONNREFUSED
		}
	}
	return net.DialUnix("unix", nil, &net.UnixAddr{Name: descriptorPath(file), Net: "unix"})
}
