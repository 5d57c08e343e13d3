package share

import (
	"errors"
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// A Source is an object of the host, opened and checked. Everything after works
// on the descriptor, so a path that is changed meanwhile changes nothing.
type Source struct {
	path  string
	file  *os.File // O_PATH
	isDir bool
}

// OpenSource opens the source of a mount, following symbolic links as mount(2)
// does, and checks on the descriptor that it is a regular file or a directory.
func OpenSource(path string) (*Source, error) {
	file, err := os.OpenFile(path, unix.O_PATH, 0)
	if err != nil {
		return nil, sourceError(path, err)
	}
	source := &Source{path: path, file: file}
	if err := source.check(); err != nil {
		return nil, errors.Join(err, file.Close())
	}
	return source, nil
}

// Close lets go of the descriptor. Shares of the source live on.
func (s *Source) Close() error { return s.file.Close() }

func (s *Source) check() error {
	info, err := s.file.Stat()
	if err != nil {
		return err
	}
	switch kind := info.Mode().Type(); kind {
	case 0:
		return nil
	case os.ModeDir:
		s.isDir = true
		return nil
	default:
		return fmt.Errorf("source %s is %s; msb can mount regular files and directories: %w", s.path, kindNames[kind], errdefs.ErrInvalidArgument)
	}
}

var kindNames = map[os.FileMode]string{
	os.ModeNamedPipe:                  "a FIFO",
	os.ModeSocket:                     "a socket",
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
	}
	return fmt.Errorf("source %s: %w (%w)", path, errors.Unwrap(err), errdefs.ErrInvalidArgument)
}
