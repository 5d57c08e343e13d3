// Package socket forwards sockets of the host that were mounted into a container, by
// themselves or in a directory. A socket is of one kernel, so the guest has one of its own
// at the place; each connection to it becomes a stream to the shim, which connects to the
// host's socket. The guest names a socket by its tag, and can name none but those that it
// was given.
//
// The server learns who connects (Peer). The guest tells that, and the host refuses who
// the container cannot be (Identities). Whether that user may connect to a socket that was
// mounted itself was decided by mounting it, and by the guest's kernel on the guest's
// socket. Of one that is only in a directory the host's kernel judges again, unless the
// container's root would be above that.
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
	"github.com/msb-runtime/containerd-shim-msb/internal/rawcall"
	"github.com/msb-runtime/containerd-shim-msb/shim/count"
	"github.com/msb-runtime/containerd-shim-msb/shim/resolver"
	"github.com/msb-runtime/containerd-shim-msb/shim/share"
	"github.com/msb-runtime/containerd-shim-msb/shim/shield/acl"
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

	file       *os.File // O_PATH; the socket's, or the directory's where below is looked up at each connection
	below      string   // empty when pinned
	resolve    uint64   // restricts the way to it (openat2(2))
	path       string   // for messages
	identities *Identities
	judged     bool // the host's kernel judges who may connect
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

// Add lets a container that identities are of connect to a source, which is a socket, with
// follow to whatever socket then has its name. The caller closes the source.
func (t *Table) Add(source *share.Source, follow bool, identities *Identities) (_ *Socket, err error) {
	s := &Socket{path: source.Path(), identities: identities}
	var stat unix.Stat_t
	if err := unix.Fstat(int(source.File().Fd()), &stat); err != nil {
		return nil, err
	}
	s.Mode, s.UID, s.GID = permissions(source.File(), &stat), stat.Uid, stat.Gid
	if err := refuseDatagrams(source); err != nil {
		return nil, err
	}
	if follow {
		s.file, s.below, err = source.Directory()
	} else {
		s.file, err = duplicate(source.File())
	}
	if err != nil {
		return nil, err
	}
	t.add(s)
	return s, nil
}

// add gives a socket, which the table owns from now on, its tag.
func (t *Table) add(s *Socket) {
	s.Tag = "so_" + rand.Text()
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.sockets == nil {
		t.sockets, t.conns = make(map[string]*Socket), make(map[string]map[net.Conn]bool)
	}
	t.sockets[s.Tag], t.conns[s.Tag] = s, make(map[net.Conn]bool)
}

// permissions are the bits by which the guest judges who may connect to a socket: the host's,
// narrowed by its access control list, if it has one.
func permissions(file *os.File, stat *unix.Stat_t) uint32 {
	const all, owner = 0o777, 0o700
	bits := stat.Mode & all
	if bits&^owner == 0 {
		return bits
	}
	list, err := acl.Of(descriptorPath(file))
	if err != nil {
		return bits & owner
	}
	return list.Narrow(bits)
}

func refuseDatagrams(source *share.Source) error {
	taken, err := server(source.File())
	if err == nil && taken == datagrams {
		err = fmt.Errorf("source %s is a socket for datagrams; msb forwards those for streams: leave it out: %w", source.Path(), errdefs.ErrInvalidArgument)
	}
	return err
}

// What may be bound to a socket.
type kind int

const (
	nobody kind = iota
	datagrams
	streams // or packets in sequence
)

// server tells what is bound to a socket of which file is a descriptor. Connecting to one
// that takes datagrams disturbs nobody, and connecting so to another is refused (unix(7)).
func server(file *os.File) (kind, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nobody, os.NewSyscallError("socket", err)
	}
	defer unix.Close(fd)
	switch unix.Connect(fd, &unix.SockaddrUnix{Name: descriptorPath(file)}) {
	case nil:
		return datagrams, nil
	case unix.EPROTOTYPE:
		return streams, nil
	}
	return nobody, nil
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
	return socket.file.Close()
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
		if !left(err) {
			count.AddStreamRefused(err)
		}
		return nil, err
	}
	if carrier, err = t.open(header); err != nil {
		count.AddStreamRefused(err)
	}
	return carrier, errors.Join(err,
		stream.SetDeadline(time.Now().Add(replyTimeout)),
		api.ReplyStream(stream, err),
		stream.SetDeadline(time.Time{}))
}

// left tells whether the guest has closed a stream before its header was whole, or the VM has ended.
func left(err error) bool {
	return errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, net.ErrClosed)
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
	peer, err := peerOf(header.GetSocket().GetPeer())
	if err != nil {
		return nil, err
	}
	conn, err := t.connect(tag, peer)
	if err != nil {
		return nil, err
	}
	return &connection{t, tag, conn, peer}, nil
}

// connection is one to a socket.
type connection struct {
	table *Table
	tag   string
	conn  *net.UnixConn
	peer  Peer
}

func (c *connection) Carry(stream net.Conn) { api.Join(c.peer.speak(c.conn), stream) }

func (c *connection) Close() error {
	c.table.disconnect(c.tag, c.conn)
	return nil
}

// connect opens a connection to the host's socket of a tag.
func (t *Table) connect(tag string, peer Peer) (*net.UnixConn, error) {
	socket, err := t.begin(tag)
	if err != nil {
		return nil, err
	}
	defer socket.file.Close()
	conn, err := socket.dial(peer)
	if err != nil {
		err = fmt.Errorf("connecting to %s: %w", socket.path, err)
	}
	return t.began(tag, conn, err)
}

// begin counts a connection, and returns its socket with a descriptor that is the caller's.
func (t *Table) begin(tag string) (Socket, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	socket := t.sockets[tag]
	switch {
	case socket == nil:
		return Socket{}, errNoSocket
	case t.opened >= MaxConnections:
		return Socket{}, fmt.Errorf("%d connections are open: %w", t.opened, errdefs.ErrResourceExhausted)
	}
	used := *socket
	var err error
	if used.file, err = duplicate(socket.file); err != nil {
		return Socket{}, err
	}
	t.opened++
	return used, nil
}

var errNoSocket = fmt.Errorf("there is no such socket: %w", errdefs.ErrNotFound)

// began keeps a connection whose socket is still there. After an error there is none.
func (t *Table) began(tag string, conn *net.UnixConn, err error) (*net.UnixConn, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err == nil && t.conns[tag] == nil {
		err = errors.Join(errNoSocket, conn.Close())
	}
	if err != nil {
		t.opened--
		return nil, err
	}
	t.conns[tag][conn] = true
	return conn, nil
}

func (t *Table) disconnect(tag string, conn net.Conn) {
	conn.Close()
	t.mu.Lock()
	defer t.mu.Unlock()
	t.opened--
	delete(t.conns[tag], conn)
}

// dial connects as a peer, if the container can be that.
func (s *Socket) dial(peer Peer) (*net.UnixConn, error) {
	if err := s.identities.check(peer); err != nil {
		return nil, err
	}
	file := s.file
	if s.below != "" {
		var err error
		if file, err = openBelow(s.file, s.below, unix.O_PATH, s.resolve); err != nil {
			return nil, err
		}
		defer file.Close()
	}
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return nil, err
	}
	if stat.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return nil, unix.ECONNREFUSED
	}
	return peer.dial(file, !s.judged || s.identities.rules(stat.Uid, stat.Gid))
}

// openBelow opens what has a path below a directory, however the path is changed meanwhile:
// nothing leads out of it, and no link is followed (openat2(2)). resolve adds restrictions.
func openBelow(dir *os.File, path string, flags int, resolve uint64) (*os.File, error) {
	fd, err := openat2(dir, path, flags, resolve)
	if err != nil {
		return nil, &os.PathError{Op: "openat2", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

func openat2(dir *os.File, path string, flags int, resolve uint64) (int, error) {
	how := unix.OpenHow{
		Flags:   uint64(flags | unix.O_NOFOLLOW | unix.O_CLOEXEC),
		Resolve: resolve | unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS,
	}
	return rawcall.Retry(func() (int, error) { return unix.Openat2(int(dir.Fd()), path, &how) })
}
