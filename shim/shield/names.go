package shield

import (
	"errors"
	"net"
	"os"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/shield/api"
)

// names looks up, for the process, the names of the files that are followed. The
// process itself is given no directory: it overrides permissions, and who owns it
// would read what is beside the file, /etc/shadow beside a mounted /etc/app.conf, and
// by ".." everything else. A clone of the directory's mount (open_tree(2)) stops "..",
// not the first. So a question names an entry, and the answer is one regular file.
//
// The lookup is the shim's, so it also finds what is, or is later, mounted on the
// name: the shim's mount namespace receives the host's mounts.
type names struct {
	conn *net.UnixConn
	done chan struct{} // closed when no more questions are answered

	mu     sync.Mutex
	places map[string]*place // by entry; guarded by mu
}

// place is where a followed file is.
type place struct {
	dir      *os.File
	base     string
	readOnly bool // whatever is found there
}

// answer answers the questions of a connection, which it owns, one at a time, until
// the other side has gone, or says what means nothing. The caller calls close.
func answer(conn *net.UnixConn) *names {
	n := &names{conn: conn, done: make(chan struct{}), places: make(map[string]*place)}
	go n.serve()
	return n
}

func (n *names) serve() {
	defer close(n.done)
	defer n.conn.Close()
	for {
		var question api.Find
		files, err := api.Receive(n.conn, &question)
		api.CloseAll(files)
		if err != nil {
			return
		}
		if err := n.reply(question); err != nil {
			return
		}
	}
}

func (n *names) reply(question api.Find) error {
	file, err := n.find(question)
	if err != nil {
		errno := unix.EIO
		errors.As(err, &errno)
		return api.Send(n.conn, api.Found{Errno: int(errno)})
	}
	if file == nil {
		return api.Send(n.conn, api.Found{})
	}
	defer file.Close()
	return api.Send(n.conn, api.Found{Changed: true}, file)
}

// follow lets the process ask for an entry. The descriptors stay the caller's.
func (n *names) follow(entry string, file, dir *os.File, base string) error {
	readOnly, err := isReadOnly(file)
	if err != nil {
		return err
	}
	fd, err := unix.FcntlInt(dir.Fd(), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return os.NewSyscallError("fcntl", err)
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.places[entry] = &place{dir: os.NewFile(uintptr(fd), dir.Name()), base: base, readOnly: readOnly}
	return nil
}

// forget ends that.
func (n *names) forget(entry string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if p := n.places[entry]; p != nil {
		p.dir.Close() // a lookup that is under way keeps it open
		delete(n.places, entry)
	}
}

// close ends the answers. A lookup in a file system of the host that hangs is not waited
// for longer than a while.
func (n *names) close() error {
	err := n.conn.Close()
	if errors.Is(err, net.ErrClosed) {
		err = nil
	}
	select {
	case <-n.done:
	case <-time.After(grace):
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	for _, p := range n.places {
		p.dir.Close()
	}
	clear(n.places)
	return err
}

// find is the file that a name has now; nil if it is the one that the process has.
func (n *names) find(question api.Find) (*os.File, error) {
	n.mu.Lock()
	p := n.places[question.Entry]
	n.mu.Unlock()
	if p == nil {
		return nil, unix.ENOENT
	}
	file, err := p.open()
	if err != nil {
		return nil, err
	}
	var stat unix.Stat_t
	switch err := unix.Fstat(int(file.Fd()), &stat); {
	case err != nil:
		return nil, errors.Join(err, file.Close())
	case stat.Dev == question.Dev && stat.Ino == question.Ino:
		return nil, file.Close()
	case stat.Mode&unix.S_IFMT != unix.S_IFREG: // a symbolic link among them
		file.Close()
		return nil, unix.ELOOP
	}
	if !p.readOnly {
		return file, nil
	}
	defer file.Close()
	return readOnly(file)
}

func (p *place) open() (file *os.File, err error) {
	conn, err := p.dir.SyscallConn()
	if err != nil {
		return nil, err
	}
	controlErr := conn.Control(func(dir uintptr) {
		var fd int
		if fd, err = unix.Openat(int(dir), p.base, unix.O_PATH|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0); err == nil {
			file = os.NewFile(uintptr(fd), p.base)
		}
	})
	if controlErr != nil { // the entry was removed meanwhile
		return nil, unix.ENOENT
	}
	return file, err
}

// isReadOnly tells a file that cannot be written through its mount.
func isReadOnly(file *os.File) (bool, error) {
	var stat unix.Statfs_t
	if err := unix.Fstatfs(int(file.Fd()), &stat); err != nil {
		return false, os.NewSyscallError("fstatfs", err)
	}
	return stat.Flags&unix.ST_RDONLY != 0, nil
}

// readOnly is a file in a read-only clone of its mount, unless it is in one already:
// one that is attached nowhere is cloned by newer kernels only. The caller closes it.
func readOnly(file *os.File) (*os.File, error) {
	switch already, err := isReadOnly(file); {
	case err != nil:
		return nil, err
	case already:
		fd, err := unix.FcntlInt(file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, os.NewSyscallError("fcntl", err)
		}
		return os.NewFile(uintptr(fd), file.Name()), nil
	}
	fd, err := unix.OpenTree(int(file.Fd()), "", unix.OPEN_TREE_CLONE|unix.OPEN_TREE_CLOEXEC|unix.AT_EMPTY_PATH)
	if err != nil {
		return nil, &os.PathError{Op: "open_tree", Path: file.Name(), Err: err}
	}
	clone := os.NewFile(uintptr(fd), file.Name())
	attributes := unix.MountAttr{Attr_set: unix.MOUNT_ATTR_RDONLY | unix.MOUNT_ATTR_NODEV | unix.MOUNT_ATTR_NOSUID | unix.MOUNT_ATTR_NOEXEC, Propagation: unix.MS_PRIVATE}
	if err := unix.MountSetattr(fd, "", unix.AT_EMPTY_PATH, &attributes); err != nil {
		return nil, errors.Join(&os.PathError{Op: "mount_setattr", Path: file.Name(), Err: err}, clone.Close())
	}
	return clone, nil
}
