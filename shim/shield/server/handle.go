package server

import (
	"context"
	"os"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// handle is an opened file. It offers what concerns data and nothing else of
// fs.LoopbackFile, which would let an ioctl or a statx through to the host's
// metadata.
type handle struct {
	file        *os.File
	data        *fs.LoopbackFile // of file, which it owns
	writable    bool
	passthrough bool
}

var (
	_ fs.FileReader          = (*handle)(nil)
	_ fs.FileWriter          = (*handle)(nil)
	_ fs.FileFlusher         = (*handle)(nil)
	_ fs.FileFsyncer         = (*handle)(nil)
	_ fs.FileLseeker         = (*handle)(nil)
	_ fs.FileAllocater       = (*handle)(nil)
	_ fs.FileReleaser        = (*handle)(nil)
	_ fs.FilePassthroughFder = (*handle)(nil)
)

// PassthroughFd implements fs.FilePassthroughFder.
func (h *handle) PassthroughFd() (int, bool) {
	if !h.passthrough {
		return 0, false
	}
	return h.data.PassthroughFd()
}

// Read implements fs.FileReader.
func (h *handle) Read(ctx context.Context, dest []byte, offset int64) (fuse.ReadResult, syscall.Errno) {
	return h.data.Read(ctx, dest, offset)
}

// Write implements fs.FileWriter.
func (h *handle) Write(ctx context.Context, data []byte, offset int64) (uint32, syscall.Errno) {
	return h.data.Write(ctx, data, offset)
}

// Flush implements fs.FileFlusher.
func (h *handle) Flush(ctx context.Context) syscall.Errno { return h.data.Flush(ctx) }

// Fsync implements fs.FileFsyncer.
func (h *handle) Fsync(ctx context.Context, flags uint32) syscall.Errno {
	return h.data.Fsync(ctx, flags)
}

// Lseek implements fs.FileLseeker: it finds data and holes.
func (h *handle) Lseek(ctx context.Context, offset uint64, whence uint32) (uint64, syscall.Errno) {
	return h.data.Lseek(ctx, offset, whence)
}

// Allocate implements fs.FileAllocater.
func (h *handle) Allocate(ctx context.Context, offset, size uint64, mode uint32) syscall.Errno {
	return h.data.Allocate(ctx, offset, size, mode)
}

// Release implements fs.FileReleaser.
func (h *handle) Release(ctx context.Context) syscall.Errno { return h.data.Release(ctx) }
