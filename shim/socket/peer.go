package socket

import (
	"fmt"
	"net"
	"os"
	"slices"
	"sync"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/internal/rawcall"
	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
)

// A Peer is who connects to a socket: what its server is told by SO_PEERCRED and
// SO_PEERGROUPS (unix(7), socket(7)). With a user namespace these are ids of the host.
type Peer struct {
	UID, GID uint32
	Groups   []uint32
}

func peerOf(named *api.Peer) (Peer, error) {
	switch {
	case named == nil:
		return Peer{}, fmt.Errorf("the guest does not say who connects: %w", errdefs.ErrInvalidArgument)
	case len(named.Groups) > api.MaxGroups:
		return Peer{}, fmt.Errorf("a process with %d supplementary groups; %d are carried: %w", len(named.Groups), api.MaxGroups, errdefs.ErrInvalidArgument)
	}
	return Peer{named.Uid, named.Gid, named.Groups}, nil
}

// Identities are who the processes of one container may be. The guest says who it is that
// connects, and a guest that was broken says what it likes: what a container cannot be is
// refused on the host. The zero value lets them be anybody. Its methods may be called
// concurrently.
type Identities struct {
	users spec.IDMap // of the container's user namespace

	mu    sync.Mutex
	known []spec.Identity // of processes that stay who they are; guarded by mu
	fixed bool            // there are no others; guarded by mu
}

// NewIdentities are those of a container whose first process is given. users maps its user
// namespace.
func NewIdentities(users spec.IDMap, first spec.Identity) *Identities {
	return &Identities{users: users, known: []spec.Identity{first}, fixed: first.Fixed}
}

// Add is for another process that the host starts in the container.
func (i *Identities) Add(process spec.Identity) {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.fixed = i.fixed && process.Fixed
	if i.fixed && !slices.ContainsFunc(i.known, process.Equal) {
		i.known = append(i.known, process)
	}
}

// check refuses a peer that no process of the container can be.
func (i *Identities) check(peer Peer) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	allowed := isMapped(i.users, peer)
	if i.fixed {
		allowed = slices.ContainsFunc(i.known, func(one spec.Identity) bool { return isOf(i.users, one, peer) })
	}
	if !allowed {
		return fmt.Errorf("no process of the container is user %d of group %d with groups %v: %w", peer.UID, peer.GID, peer.Groups, errdefs.ErrPermissionDenied)
	}
	return nil
}

// rules tells whether the container's root could do what it likes with an inode of an owner:
// so far its CAP_DAC_OVERRIDE reaches (capabilities(7); inode_owner_or_capable in the kernel).
func (i *Identities) rules(uid, gid uint32) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	return !i.fixed && isMapped(i.users, Peer{UID: uid, GID: gid})
}

// noID stands for no change in setresuid(2).
const noID = ^uint32(0)

// isMapped tells whether all ids are of a user namespace. Without one, all ids are.
func isMapped(users spec.IDMap, peer Peer) bool {
	groups := append([]uint32{peer.GID}, peer.Groups...)
	if peer.UID == noID || slices.Contains(groups, noID) {
		return false
	}
	if users.IsZero() {
		return true
	}
	return users.HasOwner(peer.UID) && !slices.ContainsFunc(groups, func(gid uint32) bool { return !users.HasGroup(gid) })
}

// isOf tells whether a process that stays who it is connects: as its user, with no group but
// its own.
func isOf(users spec.IDMap, process spec.Identity, peer Peer) bool {
	uid, _ := users.Owner(process.UID, 0)
	own := make([]uint32, 0, 1+len(process.Groups))
	for _, gid := range append([]uint32{process.GID}, process.Groups...) {
		_, mapped := users.Owner(0, gid)
		own = append(own, mapped)
	}
	stranger := func(gid uint32) bool { return !slices.Contains(own, gid) }
	return peer.UID == uid && !slices.ContainsFunc(append([]uint32{peer.GID}, peer.Groups...), stranger)
}

// dial connects to a socket of which file is a descriptor. The host's kernel judges whether
// the peer may, unless overriding.
func (p Peer) dial(file *os.File, overriding bool) (*net.UnixConn, error) {
	var connected *os.File
	err := thread.Run(func() (err error) {
		if err := p.become(overriding); err != nil {
			return err
		}
		connected, err = connect(file)
		return err
	})
	if err != nil {
		return nil, err
	}
	defer connected.Close()
	conn, err := net.FileConn(connected)
	if err != nil {
		return nil, err
	}
	return conn.(*net.UnixConn), nil
}

// become gives this thread the effective ids of the peer, which are those that count for a
// connection and for permissions. It stays root's by its real and its saved user id: a
// process of the peer's user on the host can neither signal nor trace it (kill(2),
// ptrace(2)). Of the capabilities it keeps the one that overrides permissions, if any.
func (p Peer) become(overriding bool) error {
	for _, step := range []struct {
		name string
		do   func() error
	}{
		{"setgroups", func() error { return rawcall.SetThreadGroups(p.Groups) }},
		{"setresgid", func() error { return rawcall.SetThreadGroup(p.GID) }},
		{"setresuid", func() error { return rawcall.SetThreadUser(p.UID) }},
	} {
		if err := step.do(); err != nil {
			return fmt.Errorf("becoming user %d: %w", p.UID, os.NewSyscallError(step.name, err))
		}
	}
	header := unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3}
	var kept [2]unix.CapUserData
	if overriding {
		kept[0].Permitted, kept[0].Effective = 1<<unix.CAP_DAC_OVERRIDE, 1<<unix.CAP_DAC_OVERRIDE
	}
	return os.NewSyscallError("capset", unix.Capset(&header, &kept[0]))
}

// connect makes a connection on this thread.
func connect(file *os.File) (*os.File, error) {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	if err := unix.Connect(fd, &unix.SockaddrUnix{Name: descriptorPath(file)}); err != nil {
		unix.Close(fd)
		return nil, os.NewSyscallError("connect", err)
	}
	return os.NewFile(uintptr(fd), file.Name()), nil
}

// speaker is a connection that says with all that it sends who sends it.
type speaker struct {
	*net.UnixConn
	credentials []byte
}

// speak has a server that asks for the credentials of each message be told the peer's
// (unix(7), SO_PASSCRED). Left alone the kernel tells the real ids of the thread that sends,
// which are the shim's.
func (p Peer) speak(conn *net.UnixConn) *speaker {
	return &speaker{conn, unix.UnixCredentials(&unix.Ucred{Pid: int32(os.Getpid()), Uid: p.UID, Gid: p.GID})}
}

// Write implements net.Conn.
func (s *speaker) Write(data []byte) (written int, err error) {
	for written < len(data) && err == nil {
		var n int
		n, _, err = s.WriteMsgUnix(data[written:], s.credentials, nil)
		written += n
	}
	return written, err
}
