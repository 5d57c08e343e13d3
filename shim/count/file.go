package count

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime/debug"
	"sync/atomic"
	"unsafe"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// Dir is the directory of the file: msb's for what goes with a reboot, which is root's alone.
const Dir = "/run/msb"

const size = int64(unsafe.Sizeof(page{}))

var (
	mapped atomic.Pointer[page] // nil before Open
	own    page                 // what this process counts without the file, which nobody reads
)

// Open has this process count in the file of a directory from now on, and makes both if they are
// not there. The file stays mapped. After an error, and before it is called, what is counted is
// lost, and nothing else.
func Open(dir string) error {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	p, err := open(dir, os.O_RDWR, unix.PROT_READ|unix.PROT_WRITE)
	if errors.Is(err, fs.ErrNotExist) {
		if err = create(dir); err == nil || errors.Is(err, fs.ErrExist) {
			p, err = open(dir, os.O_RDWR, unix.PROT_READ|unix.PROT_WRITE)
		}
	}
	if err != nil {
		return err
	}
	mapped.Store(p)
	return nil
}

// Read is what was counted in the file of a directory. Without a file that is nothing.
func Read(dir string) (counts Counts, err error) {
	p, err := open(dir, os.O_RDONLY, unix.PROT_READ)
	if errors.Is(err, fs.ErrNotExist) {
		return new(page).counts(), nil
	}
	if err != nil {
		return Counts{}, err
	}
	defer p.unmap()
	if !survives(func() { counts = p.counts() }) {
		return Counts{}, broken(dir, "it has just been made shorter")
	}
	return counts, nil
}

// open maps the file, if it is one that shims of this version count in. Nothing is waited for, not
// even if it is a FIFO.
func open(dir string, flags, protection int) (*page, error) {
	file, err := os.OpenFile(filepath.Join(dir, fileName), flags|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if errors.Is(err, unix.ELOOP) {
		return nil, broken(dir, "it is a symbolic link")
	}
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if err := check(dir, file); err != nil {
		return nil, err
	}
	data, err := unix.Mmap(int(file.Fd()), 0, int(size), protection, unix.MAP_SHARED)
	if err != nil {
		return nil, &os.PathError{Op: "mmap", Path: file.Name(), Err: err}
	}
	return (*page)(unsafe.Pointer(unsafe.SliceData(data))), nil
}

// check refuses a file that nobody has made as create does.
func check(dir string, file *os.File) error {
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil {
		return &os.PathError{Op: "fstat", Path: file.Name(), Err: err}
	}
	switch {
	case stat.Mode&unix.S_IFMT != unix.S_IFREG:
		return broken(dir, "it is no regular file")
	case int(stat.Uid) != os.Geteuid() || stat.Mode&0o077 != 0:
		return broken(dir, "others may write or read it")
	case stat.Size != size:
		return broken(dir, fmt.Sprintf("it has %d bytes and not %d", stat.Size, size))
	}
	var begins [len(magic)]byte
	if _, err := file.ReadAt(begins[:], 0); err != nil {
		return err
	}
	if string(begins[:]) != magic {
		return broken(dir, "it begins otherwise")
	}
	return nil
}

func broken(dir, why string) error {
	return fmt.Errorf("%s is not what shims count in, %s: remove it, and the next shim makes another: %w",
		filepath.Join(dir, fileName), why, errdefs.ErrFailedPrecondition)
}

// create makes the file, which has its name when it is whole. All of its blocks are there, or a
// full file system would be a signal for who adds to a counter (SIGBUS).
func create(dir string) error {
	file, err := os.OpenFile(dir, os.O_RDWR|unix.O_TMPFILE, 0o600)
	if err != nil {
		return err
	}
	defer file.Close()
	if err := unix.Fallocate(int(file.Fd()), 0, 0, size); err != nil {
		return &os.PathError{Op: "fallocate", Path: dir, Err: err}
	}
	if _, err := file.WriteAt([]byte(magic), 0); err != nil {
		return err
	}
	// open(2), O_TMPFILE, has this way for who lacks CAP_DAC_READ_SEARCH.
	path := filepath.Join(dir, fileName)
	err = unix.Linkat(unix.AT_FDCWD, fmt.Sprintf("/proc/self/fd/%d", file.Fd()), unix.AT_FDCWD, path, unix.AT_SYMLINK_FOLLOW)
	if err != nil {
		return &os.LinkError{Op: "linkat", Old: file.Name(), New: path, Err: err}
	}
	return nil
}

func (p *page) unmap() {
	_ = unix.Munmap(unsafe.Slice((*byte)(unsafe.Pointer(p)), size)) // it is a mapping of this size
}

// add has f add to counters.
func add(f func(*page)) {
	p := mapped.Load()
	if p != nil && survives(func() { f(p) }) {
		return
	}
	mapped.CompareAndSwap(p, nil)
	f(&own)
}

// survives does what touches the file, and tells whether all of it was there. Root may make it
// shorter, and then no container is to end because of a number.
func survives(f func()) (whole bool) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		switch fault := recover().(type) {
		case nil:
		case interface{ Addr() uintptr }:
			whole = false
		default:
			panic(fault)
		}
	}()
	f()
	return true
}
