package server

import (
	"syscall"

	"golang.org/x/sys/unix"
)

// fixed is the size of a file that keeps it, in bytes: an image, which is to take no more of
// the host's disk than it was made for, whatever the guest's kernel does. It is as a block
// device in this.
type fixed struct{ size int64 }

// within is how much of what is written at an offset fits.
func (f fixed) within(data []byte, offset int64) ([]byte, syscall.Errno) {
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
func (f fixed) allocates(offset, size uint64, mode uint32) syscall.Errno {
	const inPlace = unix.FALLOC_FL_KEEP_SIZE | unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_ZERO_RANGE
	if mode&^inPlace != 0 {
		return syscall.EOPNOTSUPP
	}
	if end := offset + size; end < offset || end > uint64(f.size) {
		return syscall.ENOSPC
	}
	return 0
}
