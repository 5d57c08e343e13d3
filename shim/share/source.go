package share

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
)

// A Source is an object of the host, opened and checked. Everything after works
// on the descriptor, so a path that is changed meanwhile changes nothing.
type Source struct {
	path string
	object
	kind os.FileMode // type bits: a regular file, a directory or a socket
}

// An object is something of a mount. Only in the mount's namespace can it be bound
// (open_tree(2)).
type object struct {
	file *os.File // O_PATH
	in   mountns.Namespace
}

// OpenSource opens the source of a mount as containerd sees it, whose mount namespace is
// host. It follows symbolic links as mount(2) does, and checks on the descriptor that it is
// a regular file, a directory or a socket, and not of a file system of the host's kernel.
func OpenSource(host mountns.Namespace, path string) (*Source, error) {
	file, err := host.OpenFile(path, unix.O_PATH, 0)
	if err != nil {
		return nil, sourceError(path, err)
	}
	source := &Source{path: path, object: object{file, host}}
	if err := source.check(); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return source, nil
}

// Close lets go of the descriptor. Shares of the source live on.
func (s *Source) Close() error { return s.file.Close() }

// Path is the path that it was opened by.
func (s *Source) Path() string { return s.path }

// File is the source's descriptor, opened with O_PATH. It is the source's.
func (s *Source) File() *os.File { return s.file }

// Content is what a regular file has, up to a number of bytes; of anything else nothing.
func (s *Source) Content(most int64) ([]byte, error) {
	if s.kind != 0 {
		return nil, nil
	}
	file, err := os.Open(fmt.Sprintf("/proc/self/fd/%d", s.file.Fd()))
	if err != nil {
		return nil, sourceError(s.path, err)
	}
	defer file.Close()
	return io.ReadAll(io.LimitReader(file, most))
}

// IsDir tells a directory.
func (s *Source) IsDir() bool { return s.kind == os.ModeDir }

// IsSocket tells a socket.
func (s *Source) IsSocket() bool { return s.kind == os.ModeSocket }

func (s *Source) check() error {
	info, err := s.file.Stat()
	if err != nil {
		return err
	}
	switch s.kind = info.Mode().Type(); s.kind {
	case 0, os.ModeDir, os.ModeSocket:
		return s.checkFileSystem()
	}
	return fmt.Errorf("source %s is %s; msb can mount regular files, directories and sockets: %w", s.path, kindNames[s.kind], errdefs.ErrInvalidArgument)
}

// Directory opens the directory that the source is in, after all symbolic links,
// and tells the source's name there. The caller closes it.
func (s *Source) Directory() (_ *os.File, base string, err error) {
	path, err := os.Readlink(fmt.Sprintf("/proc/self/fd/%d", s.file.Fd()))
	if err != nil {
		return nil, "", err
	}
	dir, err := s.in.OpenFile(filepath.Dir(path), unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		return nil, "", sourceError(s.path, err)
	}
	defer func() {
		if err != nil {
			dir.Close()
		}
	}()
	base = filepath.Base(path)
	there, err := s.isAt(dir, base)
	if err == nil && !there {
		err = fmt.Errorf("source %s was replaced while it was being mounted; mount it again: %w", s.path, errdefs.ErrUnavailable)
	}
	return dir, base, err
}

// isAt tells whether the source is what has a name in a directory.
func (s *Source) isAt(dir *os.File, base string) (bool, error) {
	var there, here unix.Stat_t
	if err := unix.Fstatat(int(dir.Fd()), base, &there, unix.AT_SYMLINK_NOFOLLOW); err != nil {
		return false, sourceError(s.path, &os.PathError{Op: "stat", Path: filepath.Join(dir.Name(), base), Err: err})
	}
	if err := unix.Fstat(int(s.file.Fd()), &here); err != nil {
		return false, err
	}
	return there.Dev == here.Dev && there.Ino == here.Ino, nil
}

var kindNames = map[os.FileMode]string{
	os.ModeNamedPipe:                  "a FIFO",
	os.ModeDevice:                     "a block device",
	os.ModeDevice | os.ModeCharDevice: "a character device",
	os.ModeSymlink:                    "a symbolic link",
	os.ModeIrregular:                  "a file of an unknown kind",
}

func sourceError(path string, err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("source %s does not exist: %w", path, errdefs.ErrNotFound)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("source %s: permission denied: %w", path, errdefs.ErrPermissionDenied)
	case errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE):
		return fmt.Errorf("source %s: the shim has as many files open as it may: raise LimitNOFILE of containerd: %w (%w)", path, errors.Unwrap(err), errdefs.ErrResourceExhausted)
	}
	return fmt.Errorf("source %s: %w (%w)", path, errors.Unwrap(err), errdefs.ErrInvalidArgument)
}
