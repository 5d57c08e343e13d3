package socket

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
)

// A socket in a mounted directory is bound over the host's, which this kernel sees as a file
// on which nobody listens. That is done in the mount namespace of the container, which may
// run: its processes may change what they can change there meanwhile. So a place is found
// by descriptors, and counts only if the file there is the one that the host has named.
// What is mounted there instead is the container's, and stays.
//
// The host may have replaced the socket. This kernel then drops the bind together with the
// name that it knew (d_invalidate in fs/dcache.c) as soon as it asks the file server again,
// which refresh has it do.

// placed is a listener of the agent's for a socket in a directory.
type placed struct {
	net.Listener
	path string // its own
	told *api.DirectorySocket
}

func (p *placed) close() error { return errors.Join(p.Close(), unix.Unlink(p.path)) }

// Set makes a container's sockets in directories those that are described, and does all of
// that which can be done. in runs a function in the container's mount namespace.
func (s *Sockets) Set(ctx context.Context, container string, in func(func() error) error, described []*api.DirectorySocket) error {
	if err := api.CheckName("container id", container); err != nil {
		return err
	}
	s.setting.Lock()
	defer s.setting.Unlock()
	errs := s.drop(container, described)
	var binds []*bind
	for _, socket := range described {
		refresh(socket)
		b, err := s.place(ctx, container, socket)
		if err != nil {
			errs = append(errs, fmt.Errorf("socket %q of mount %s: %w", socket.Path, socket.Destination, err))
		}
		if b != nil {
			defer b.close()
			binds = append(binds, b)
		}
	}
	if len(binds) > 0 {
		errs = append(errs, in(func() (err error) {
			for _, b := range binds {
				err = errors.Join(err, b.attach())
			}
			return err
		}))
	}
	return errors.Join(errs...)
}

// drop closes what is described no more. Its binds go with the names that the host removed;
// on what is left of them nobody listens, as on the host.
func (s *Sockets) drop(container string, described []*api.DirectorySocket) (errs []error) {
	stays := make(map[string]bool)
	for _, socket := range described {
		stays[socket.Tag] = true
	}
	var gone []*placed
	s.mu.Lock()
	for tag, one := range s.placed[container] {
		if !stays[tag] {
			gone = append(gone, one)
			delete(s.placed[container], tag)
		}
	}
	s.mu.Unlock()
	for _, one := range gone {
		errs = append(errs, one.close())
		refresh(one.told)
	}
	return errs
}

// place listens for a socket, unless that is done, with the owner and mode that the host
// tells. It returns how it is bound to its place; nil if that is not there any more.
func (s *Sockets) place(ctx context.Context, container string, socket *api.DirectorySocket) (*bind, error) {
	if err := errors.Join(api.CheckName("tag", socket.Tag), api.CheckName("share", socket.Share)); err != nil {
		return nil, err
	}
	s.mu.Lock()
	one := s.placed[container][socket.Tag]
	s.mu.Unlock()
	at := api.SocketPath(container, socket.Tag)
	switch {
	case one == nil:
		listener, err := listen(at, socket.Mode, socket.Uid, socket.Gid)
		if err != nil {
			return nil, err
		}
		one = &placed{listener, at, socket}
		s.mu.Lock()
		if s.placed[container] == nil {
			s.placed[container] = make(map[string]*placed)
		}
		s.placed[container][socket.Tag] = one
		s.mu.Unlock()
		go s.serve(ctx, listener, socket.Tag)
	case one.told.Mode != socket.Mode, one.told.Uid != socket.Uid, one.told.Gid != socket.Gid:
		if err := own(at, socket.Mode, socket.Uid, socket.Gid); err != nil {
			return nil, err
		}
		one.told = socket
	}
	return newBind(at, socket)
}

// bind is one that is to be made, of which everything but the place is known.
type bind struct {
	mount     *os.File // of the agent's socket, attached nowhere
	dir, file found    // in the pool
	socket    *api.DirectorySocket
}

func newBind(at string, socket *api.DirectorySocket) (_ *bind, err error) {
	b := &bind{socket: socket}
	dir, err := openAt(nil, api.SharePath(socket.Share), unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	file, err := openAt(dir, string(socket.Path), 0, below)
	if err != nil {
		return nil, unlessGone(err)
	}
	defer file.Close()
	err = errors.Join(b.dir.stat(dir), b.file.stat(file))
	if err != nil || b.file.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return nil, err
	}
	fd, err := unix.OpenTree(unix.AT_FDCWD, at, unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return nil, os.NewSyscallError("open_tree", err)
	}
	b.mount = os.NewFile(uintptr(fd), at)
	return b, nil
}

func (b *bind) close() { b.mount.Close() }

// attach binds the socket in the mount namespace of this thread, if it is not there.
func (b *bind) attach() error {
	dir, err := openAt(nil, b.socket.Destination, unix.O_DIRECTORY, unix.RESOLVE_NO_MAGICLINKS)
	if err != nil {
		return unlessGone(err)
	}
	defer dir.Close()
	place, err := openAt(dir, string(b.socket.Path), 0, below)
	if err != nil {
		return unlessGone(err)
	}
	defer place.Close()
	var here, there found
	if err := errors.Join(here.stat(dir), there.stat(place)); err != nil {
		return err
	}
	if !here.is(b.dir) || !there.is(b.file) && !(there.isBelow(here) && b.file.isBelow(b.dir) && there.Ino == b.file.Ino) {
		return nil // it is bound, or something else is
	}
	const flags = unix.MOVE_MOUNT_F_EMPTY_PATH | unix.MOVE_MOUNT_T_EMPTY_PATH
	if err := unix.MoveMount(int(b.mount.Fd()), "", int(place.Fd()), "", flags); err != nil {
		return os.NewSyscallError("move_mount", err)
	}
	return nil
}

// found is what has a path.
type found struct {
	unix.Stat_t
	system int64 // the kind of its file system
}

func (f *found) stat(file *os.File) error {
	var system unix.Statfs_t
	if err := errors.Join(unix.Fstat(int(file.Fd()), &f.Stat_t), unix.Fstatfs(int(file.Fd()), &system)); err != nil {
		return &os.PathError{Op: "stat", Path: file.Name(), Err: err}
	}
	f.system = int64(system.Type)
	return nil
}

func (f *found) is(other found) bool { return f.Dev == other.Dev && f.Ino == other.Ino }

// isBelow tells what is on a mount of the host below a shared directory. The kernel makes a
// file system of its own of it in each mount namespace, with the same inode numbers.
func (f *found) isBelow(dir found) bool {
	return f.system == unix.FUSE_SUPER_MAGIC && dir.system == unix.FUSE_SUPER_MAGIC && f.Dev != dir.Dev
}

// below keeps a path below its directory, whatever is changed there.
const below = unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS | unix.RESOLVE_NO_MAGICLINKS

// openAt opens what has a path in a directory, nil being the current one, for its descriptor
// only.
func openAt(dir *os.File, path string, flags, resolve uint64) (*os.File, error) {
	at := unix.AT_FDCWD
	if dir != nil {
		at = int(dir.Fd())
	}
	how := unix.OpenHow{Flags: flags | unix.O_PATH | unix.O_NOFOLLOW | unix.O_CLOEXEC, Resolve: resolve}
	if flags&unix.O_DIRECTORY != 0 {
		how.Flags &^= unix.O_NOFOLLOW
	}
	fd, err := unix.Openat2(at, path, &how)
	if err != nil {
		return nil, &os.PathError{Op: "openat2", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// unlessGone is an error, but for that of a place that is gone or has a link on its way.
func unlessGone(err error) error {
	for _, gone := range []error{unix.ENOENT, unix.ENOTDIR, unix.ELOOP, unix.EXDEV} {
		if errors.Is(err, gone) {
			return nil
		}
	}
	return err
}

// refresh has the kernel ask the file server what now has the names on the way to a socket,
// instead of what it remembers. It does so for a name that is to be made and must not be
// there (LOOKUP_EXCL in fs/fuse/dir.c); by a mount that is read-only none is made.
func refresh(socket *api.DirectorySocket) {
	fd, err := unix.OpenTree(unix.AT_FDCWD, api.SharePath(socket.Share), unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC)
	if err != nil {
		return
	}
	root := os.NewFile(uintptr(fd), socket.Share)
	defer root.Close()
	readOnly := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &readOnly); err != nil {
		return
	}
	names := strings.Split(string(socket.Path), "/")
	for i, name := range names {
		// What is mounted below is not read-only.
		dir, err := openAt(root, path.Join(append([]string{"."}, names[:i]...)...), unix.O_DIRECTORY, below|unix.RESOLVE_NO_XDEV)
		if err != nil {
			return
		}
		_ = unix.Mkdirat(int(dir.Fd()), name, 0)
		dir.Close()
	}
}
