package server

import (
	"context"
	"io"
	"os"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"
)

// fixed is the size of a file that keeps it, in bytes: an image, which is to take no more of
// the host's disk than it was made for, whatever the guest's kernel does. It is as a block
// device in this, also when it is taken away: what is open then is of no use any more. The
// next user has the file alone, and none of its space stays taken, whatever the guest holds.
type fixed struct {
	size int64

	mu     sync.RWMutex          // held to read by who uses the host's file
	opened map[*fixedHandle]bool // nil after revoke; guarded by mu
}

func newFixed(size int64) *fixed {
	return &fixed{size: size, opened: make(map[*fixedHandle]bool)}
}

// sizeOf is the size of a file or of a block device, in bytes.
func sizeOf(pin *os.File) (int64, error) {
	info, err := pin.Stat()
	if err != nil {
		return 0, err
	}
	if info.Mode().Type() != os.ModeDevice {
		return info.Size(), nil
	}
	device, err := os.Open(path(pin))
	if err != nil {
		return 0, err
	}
	defer device.Close()
	return device.Seek(0, io.SeekEnd)
}

// show makes of a block device's inode one of a file: that is what it is to the guest, whose
// kernel has other devices.
func (f *fixed) show(stat *unix.Stat_t) {
	if f != nil && stat.Mode&unix.S_IFMT == unix.S_IFBLK {
		stat.Mode = stat.Mode&^unix.S_IFMT | unix.S_IFREG
		stat.Size, stat.Rdev = f.size, 0
	}
}

// hold takes an opened file over, until it is released or revoked.
func (f *fixed) hold(h *handle) (fs.FileHandle, syscall.Errno) {
	f.mu.Lock()
	defer f.mu.Unlock()
	held := &fixedHandle{handle: h, fixed: f}
	if f.opened == nil {
		_ = h.file.Close()
		return nil, syscall.EIO
	}
	f.opened[held] = true
	return held, 0
}

// revoke closes the host's file. When it returns nothing of the guest is under way to it.
func (f *fixed) revoke() {
	f.mu.Lock()
	defer f.mu.Unlock()
	for held := range f.opened {
		_ = held.handle.file.Close()
	}
	f.opened = nil
}

// use calls do unless the file was revoked, and has revoke wait for it.
func (f *fixed) use(do func() syscall.Errno) syscall.Errno {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.opened == nil {
		return syscall.EIO
	}
	return do()
}

// within is how much of what is written at an offset fits.
func (f *fixed) within(data []byte, offset int64) ([]byte, syscall.Errno) {
	switch {
	case offset < 0:
		return nil, syscall.EINVAL
	case len(data) == 0:
		return data, 0
	case offset >= f.size:
		return nil, syscall.ENOSPC
	}
	return data[:min(int64(len(data)), f.size-offset)], 0
}

// allocates tells whether fallocate(2) may do something. What moves data, or has space beyond
// the end, may not.
func (f *fixed) allocates(offset, size uint64, mode uint32) syscall.Errno {
	const inPlace = unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_ZERO_RANGE
	if mode&^inPlace != 0 {
		return syscall.EOPNOTSUPP
	}
	if end := offset + size; end < offset || end > uint64(f.size) {
		return syscall.ENOSPC
	}
	return 0
}

// fixedHandle is an opened file that keeps its size.
type fixedHandle struct {
	handle *handle
	fixed  *fixed
}

var (
	_ fs.FileReader    = (*fixedHandle)(nil)
	_ fs.FileWriter    = (*fixedHandle)(nil)
	_ fs.FileFlusher   = (*fixedHandle)(nil)
	_ fs.FileFsyncer   = (*fixedHandle)(nil)
	_ fs.FileLseeker   = (*fixedHandle)(nil)
	_ fs.FileAllocater = (*fixedHandle)(nil)
	_ fs.FileReleaser  = (*fixedHandle)(nil)
)

// Read implements fs.FileReader. It reads here: what the library reads later might be of
// another file, that has got the descriptor of a revoked one.
func (h *fixedHandle) Read(_ context.Context, dest []byte, offset int64) (fuse.ReadResult, syscall.Errno) {
	var n int
	errno := h.fixed.use(func() syscall.Errno {
		var err error
		n, err = unix.Pread(int(h.handle.file.Fd()), dest, offset)
		return fs.ToErrno(err)
	})
	return fuse.ReadResultData(dest[:max(n, 0)]), errno
}

// Write implements fs.FileWriter.
func (h *fixedHandle) Write(ctx context.Context, data []byte, offset int64) (n uint32, errno syscall.Errno) {
	if data, errno = h.fixed.within(data, offset); errno != 0 {
		return 0, errno
	}
	errno = h.fixed.use(func() (errno syscall.Errno) {
		n, errno = h.handle.Write(ctx, data, offset)
		return errno
	})
	return n, errno
}

// Flush implements fs.FileFlusher.
func (h *fixedHandle) Flush(ctx context.Context) syscall.Errno {
	return h.fixed.use(func() syscall.Errno { return h.handle.Flush(ctx) })
}

// Fsync implements fs.FileFsyncer.
func (h *fixedHandle) Fsync(ctx context.Context, flags uint32) syscall.Errno {
	return h.fixed.use(func() syscall.Errno { return h.handle.Fsync(ctx, flags) })
}

// Lseek implements fs.FileLseeker: it finds data and holes.
func (h *fixedHandle) Lseek(ctx context.Context, offset uint64, whence uint32) (at uint64, errno syscall.Errno) {
	errno = h.fixed.use(func() (errno syscall.Errno) {
		at, errno = h.handle.Lseek(ctx, offset, whence)
		return errno
	})
	return at, errno
}

// Allocate implements fs.FileAllocater.
func (h *fixedHandle) Allocate(ctx context.Context, offset, size uint64, mode uint32) syscall.Errno {
	if errno := h.fixed.allocates(offset, size, mode); errno != 0 {
		return errno
	}
	return h.fixed.use(func() syscall.Errno { return h.handle.Allocate(ctx, offset, size, mode) })
}

// Release implements fs.FileReleaser.
func (h *fixedHandle) Release(ctx context.Context) syscall.Errno {
	h.fixed.mu.Lock()
	defer h.fixed.mu.Unlock()
	if h.fixed.opened == nil {
		return 0 // it was closed
	}
	delete(h.fixed.opened, h)
	return h.handle.Release(ctx)
}
