package survey

import (
	"errors"
	"os"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/rawcall"
)

// fifosPrefix begins the name of each directory for a program's FIFOs.
const fifosPrefix = "shell-"

// A fifosDir is a directory for a program's FIFOs. Whoever made it has it locked: the kernel lets go
// of that with the process, however that ends.
type fifosDir struct {
	path string
	lock *os.File
}

// makeFIFOs makes one below dir, and takes away those that others have left there who were killed.
func makeFIFOs(dir string) (*fifosDir, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, err
	}
	sweepFIFOs(dir)
	for {
		path, err := os.MkdirTemp(dir, fifosPrefix)
		if err != nil {
			return nil, err
		}
		d, err := lockFIFOs(path, 0)
		if err != nil || d != nil {
			return d, err
		}
	}
}

// lockFIFOs locks a directory; nil if another takes it away.
func lockFIFOs(path string, how int) (*fifosDir, error) {
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW|unix.O_CLOEXEC, 0)
	if errors.Is(err, unix.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	d := &fifosDir{path, os.NewFile(uintptr(fd), path)}
	if err := rawcall.Again(func() error { return unix.Flock(fd, unix.LOCK_EX|how) }); err != nil {
		d.lock.Close()
		return nil, &os.PathError{Op: "lock", Path: path, Err: err}
	}
	var stat unix.Stat_t
	if err := unix.Fstat(fd, &stat); err != nil || stat.Nlink == 0 {
		d.lock.Close()
		return nil, err
	}
	return d, nil
}

// sweepFIFOs takes away what nobody has locked. What it cannot is left for the next.
func sweepFIFOs(dir string) {
	entries, _ := os.ReadDir(dir)
	for _, entry := range entries {
		if !entry.IsDir() || !strings.HasPrefix(entry.Name(), fifosPrefix) {
			continue
		}
		if d, err := lockFIFOs(filepath.Join(dir, entry.Name()), unix.LOCK_NB); err == nil && d != nil {
			d.remove()
		}
	}
}

func (d *fifosDir) remove() {
	_ = os.RemoveAll(d.path)
	_ = d.lock.Close()
}
