// Package beneath opens directories of file systems that somebody else has made, where any
// name may be a link that leads elsewhere.
package beneath

import (
	"fmt"
	"os"

	"golang.org/x/sys/unix"
)

// Open opens the directory name below root, for its descriptor (O_PATH); an empty name is root
// itself. It follows no link (openat2(2)). The caller closes it.
func Open(root, name string) (*os.File, error) {
	dir, err := os.OpenFile(root, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil || name == "" {
		return dir, err
	}
	defer dir.Close()
	fd, err := unix.Openat2(int(dir.Fd()), name, &unix.OpenHow{
		Flags:   unix.O_PATH | unix.O_DIRECTORY | unix.O_CLOEXEC,
		Resolve: unix.RESOLVE_BENEATH | unix.RESOLVE_NO_SYMLINKS,
	})
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: name, Err: err}
	}
	return os.NewFile(uintptr(fd), name), nil
}

// Path leads to an opened directory, in this process.
func Path(dir *os.File) string { return fmt.Sprintf("/proc/self/fd/%d", dir.Fd()) }

// Make makes the directory name below root with its parents, all with the mode, and gives it
// an owner, unless it is there. It follows no link out of root.
func Make(root, name string, mode os.FileMode, uid, gid int) error {
	dir, err := os.OpenRoot(root)
	if err != nil {
		return err
	}
	defer dir.Close()
	if _, err := dir.Lstat(name); err == nil {
		return nil
	}
	if err := dir.MkdirAll(name, mode); err != nil {
		return err
	}
	if err := dir.Chmod(name, mode); err != nil { // whatever the umask is
		return err
	}
	return dir.Chown(name, uid, gid)
}
