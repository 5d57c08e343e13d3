package server

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/shield/acl"
)

// file is one shielded file: its data is the host's, its metadata is its own.
type file struct {
	fs.Inode
	current     target
	passthrough bool   // opened files are read and written by the kernel itself
	fixed       *fixed // nil if the size may change
	kept        metadata
}

// target is the file of the host behind a shielded one.
type target struct {
	names *names // asked at each open; nil without follow
	entry string // by which the shim knows it

	mu  sync.Mutex
	pin *os.File // O_PATH; the last one found; guarded by mu
}

// path leads to the file of a descriptor, whatever kind of descriptor.
func path(file *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", file.Fd()) }

// open opens the file as it is now.
func (t *target) open(flags int) (*os.File, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if err := t.resolve(); err != nil {
		return nil, err
	}
	return os.OpenFile(path(t.pin), flags, 0)
}

// stat looks at the file as it is now, or at the last one while there is none.
func (t *target) stat(stat *unix.Stat_t) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	_ = t.resolve()
	return unix.Fstat(int(t.pin.Fd()), stat)
}

// inode looks at the file as stat does, and at its access control list.
func (t *target) inode() (host *inode, err error) {
	host = new(inode)
	if err := t.stat(&host.Stat_t); err != nil {
		return nil, err
	}
	err = t.with(func(path string) error {
		host.list, err = acl.Of(path)
		return err
	})
	return host, err
}

// attribute is an extended attribute of the host's inode. On a file system that has none it is
// not there: this one has.
func (t *target) attribute(name string) (value []byte, err error) {
	err = t.with(func(path string) error {
		value, err = readAttribute(func(dest []byte) (int, error) { return unix.Getxattr(path, name, dest) })
		return err
	})
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = unix.ENODATA
	}
	return value, err
}

// with calls f with the path of the file.
func (t *target) with(f func(path string) error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	return f(path(t.pin))
}

// resolve asks which file it is now.
func (t *target) resolve() error {
	if t.names == nil {
		return nil
	}
	var before unix.Stat_t
	if err := unix.Fstat(int(t.pin.Fd()), &before); err != nil {
		return err
	}
	found, err := t.names.find(t.entry, &before)
	if found == nil || err != nil {
		return err
	}
	t.pin.Close()
	t.pin = found
	return nil
}

func (t *target) close() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.pin.Close()
}

var (
	_ fs.NodeGetattrer     = (*file)(nil)
	_ fs.NodeSetattrer     = (*file)(nil)
	_ fs.NodeOpener        = (*file)(nil)
	_ fs.NodeGetxattrer    = (*file)(nil)
	_ fs.NodeSetxattrer    = (*file)(nil)
	_ fs.NodeRemovexattrer = (*file)(nil)
	_ fs.NodeListxattrer   = (*file)(nil)
	_ fs.NodeOnForgetter   = (*file)(nil)
	_ fs.NodeStatfser      = (*file)(nil)
)

// OnForget is called when the entry was removed and nothing uses the file.
func (f *file) OnForget() { f.current.close() }

// Getattr implements fs.NodeGetattrer. It passes over the handle: the library gives
// any that is open, and with follow that may be of another file than the current.
func (f *file) Getattr(_ context.Context, _ fs.FileHandle, out *fuse.AttrOut) syscall.Errno {
	host, err := f.current.inode()
	if err != nil {
		return fs.ToErrno(err)
	}
	f.show(host, &out.Attr)
	return 0
}

// show has attributes be the host's file's, with what is kept of it.
func (f *file) show(host *inode, attr *fuse.Attr) {
	f.kept.apply(host)
	f.fixed.show(&host.Stat_t)
	attrOf(&host.Stat_t, attr)
}

// Setattr implements fs.NodeSetattrer: the size is the host's, the rest is kept.
func (f *file) Setattr(_ context.Context, h fs.FileHandle, in *fuse.SetAttrIn, out *fuse.AttrOut) syscall.Errno {
	if size, ok := in.GetSize(); ok && f.fixed != nil {
		if int64(size) != f.fixed.size {
			return syscall.EPERM
		}
	} else if ok {
		if _, own := in.GetFh(); !own {
			h = nil // any that is open
		}
		if err := f.truncate(h, int64(size)); err != nil {
			return fs.ToErrno(err)
		}
	}
	host, err := f.current.inode()
	if err != nil {
		return fs.ToErrno(err)
	}
	if mode, ok := in.GetMode(); ok && mode != unprivileged(mode) {
		ripen(&host.Stat_t)
	}
	f.kept.set(in, host)
	f.show(host, &out.Attr)
	return 0
}

func (f *file) truncate(h fs.FileHandle, size int64) error {
	if h, ok := h.(*handle); ok && h.writable {
		return h.file.Truncate(size)
	}
	opened, err := f.current.open(unix.O_WRONLY | unix.O_NONBLOCK)
	if err != nil {
		return err
	}
	return errors.Join(opened.Truncate(size), opened.Close())
}

// Statfs implements fs.NodeStatfser: the space is that of the host's file system.
func (f *file) Statfs(_ context.Context, out *fuse.StatfsOut) syscall.Errno {
	var stat syscall.Statfs_t
	err := f.current.with(func(path string) error { return syscall.Statfs(path, &stat) })
	if err == nil {
		out.FromStatfsT(&stat)
	}
	return fs.ToErrno(err)
}

// openFlags are those that are for the host's file. O_APPEND is: the place where
// an append goes is known only there. O_DIRECT is not: it is about buffers of the
// caller.
const openFlags = unix.O_ACCMODE | unix.O_APPEND | unix.O_SYNC | unix.O_DSYNC | unix.O_NOATIME

// Open implements fs.NodeOpener.
func (f *file) Open(_ context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	if f.fixed != nil && flags&unix.O_APPEND != 0 {
		return nil, 0, syscall.EPERM // it would grow
	}
	opened, err := f.current.open(int(flags)&openFlags | unix.O_CLOEXEC)
	if errors.Is(err, unix.EPERM) && flags&unix.O_NOATIME != 0 {
		// Who owns the file in the guest may. This process owns only the host's root's.
		opened, err = f.current.open(int(flags)&openFlags&^unix.O_NOATIME | unix.O_CLOEXEC)
	}
	if err != nil {
		return nil, 0, fs.ToErrno(err)
	}
	h := &handle{
		file: opened, data: fs.NewLoopbackFileFromOS(opened),
		writable: flags&unix.O_ACCMODE != unix.O_RDONLY, passthrough: f.passthrough,
	}
	if f.fixed != nil {
		held, errno := f.fixed.hold(h)
		// The guest has a page cache of what is in it, and the host one of the file.
		return held, fuse.FOPEN_DIRECT_IO | fuse.FOPEN_PARALLEL_DIRECT_WRITES, errno
	}
	if f.current.names != nil {
		// The page cache is one for all that were ever opened here.
		return h, fuse.FOPEN_DIRECT_IO, 0
	}
	return h, 0, 0
}

// Getxattr implements fs.NodeGetxattrer.
func (f *file) Getxattr(_ context.Context, name string, dest []byte) (uint32, syscall.Errno) {
	if !keepable(name) {
		return 0, syscall.ENODATA
	}
	var stat unix.Stat_t
	if err := f.current.stat(&stat); err != nil {
		return 0, fs.ToErrno(err)
	}
	value, err := f.attribute(name, &stat)
	if err != nil {
		return 0, fs.ToErrno(err)
	}
	return reply(dest, value)
}

// attribute is an extended attribute as the guest sees it.
func (f *file) attribute(name string, host *unix.Stat_t) (value []byte, err error) {
	if value, known := f.kept.attribute(name, host); known {
		if value == nil {
			return nil, unix.ENODATA
		}
		return value, nil
	}
	return f.current.attribute(name)
}

// Setxattr implements fs.NodeSetxattrer.
func (f *file) Setxattr(_ context.Context, name string, value []byte, flags uint32) syscall.Errno {
	if !keepable(name) {
		return syscall.EOPNOTSUPP
	}
	var stat unix.Stat_t
	if err := f.current.stat(&stat); err != nil {
		return fs.ToErrno(err)
	}
	_, err := f.attribute(name, &stat)
	switch {
	case err == nil && flags&unix.XATTR_CREATE != 0:
		return syscall.EEXIST
	case errors.Is(err, unix.ENODATA) && flags&unix.XATTR_REPLACE != 0:
		return syscall.ENODATA
	}
	if name == capabilities {
		ripen(&stat)
	}
	return fs.ToErrno(f.kept.setAttribute(name, value, &stat))
}

// Removexattr implements fs.NodeRemovexattrer.
func (f *file) Removexattr(_ context.Context, name string) syscall.Errno {
	if !keepable(name) {
		return syscall.EOPNOTSUPP
	}
	var stat unix.Stat_t
	if err := f.current.stat(&stat); err != nil {
		return fs.ToErrno(err)
	}
	if _, err := f.attribute(name, &stat); err != nil {
		return fs.ToErrno(err)
	}
	return fs.ToErrno(f.kept.setAttribute(name, nil, &stat))
}

// Listxattr implements fs.NodeListxattrer.
func (f *file) Listxattr(_ context.Context, dest []byte) (uint32, syscall.Errno) {
	var stat unix.Stat_t
	if err := f.current.stat(&stat); err != nil {
		return 0, fs.ToErrno(err)
	}
	var names []byte
	err := f.current.with(func(path string) (err error) {
		names, err = readAttribute(func(dest []byte) (int, error) { return unix.Listxattr(path, dest) })
		return err
	})
	if err != nil && !errors.Is(err, unix.EOPNOTSUPP) {
		return 0, fs.ToErrno(err)
	}
	return reply(dest, f.kept.list(names, &stat))
}

// reply answers as getxattr(2) does: with room for nothing it tells the size.
func reply(dest, value []byte) (uint32, syscall.Errno) {
	if len(dest) == 0 {
		return uint32(len(value)), 0
	}
	if len(dest) < len(value) {
		return uint32(len(value)), syscall.ERANGE
	}
	return uint32(copy(dest, value)), 0
}

// readAttribute reads what may grow meanwhile.
func readAttribute(read func([]byte) (int, error)) ([]byte, error) {
	for {
		size, err := read(nil)
		if err != nil || size == 0 {
			return []byte{}, err
		}
		dest := make([]byte, size)
		n, err := read(dest)
		if errors.Is(err, unix.ERANGE) {
			continue
		}
		return dest[:max(n, 0)], err
	}
}
