package socket

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path"

	"golang.org/x/sys/unix"
)

// Bounds of a look into the mounted directories of one container.
const (
	// MaxDepth is how many levels below a mounted directory are looked at; what is in the
	// directory itself is on the first.
	MaxDepth = 3
	// MaxEntries is how many names are read, and MaxNames how many of one directory, so that
	// a large one does not take all.
	MaxEntries = 4096
	MaxNames   = 1024
	// MaxDirectories is how many directories are read, each of which is watched afterwards by
	// an open descriptor.
	MaxDirectories = 256
	// MaxSockets is how many sockets are forwarded.
	MaxSockets = 64
)

// A seen socket is one that a look has found.
type seen struct {
	dir           int    // which of the directories that were looked into it is below
	path          string // below it
	mode          uint32
	uid, gid      uint32
	device, inode uint64
	changed       unix.Timespec // its owner or mode, or its inode is another (inode(7), ctime)
	served        bool          // somebody on this host takes streams there
}

// is tells whether both looks have found one socket in one state.
func (s seen) is(other seen) bool {
	return s.device == other.device && s.inode == other.inode && s.changed == other.changed
}

// A look goes through directories, each level before the next one, as far as its bounds
// allow.
type look struct {
	watch   func(dir *os.File) error // is called before a directory is read
	blind   error                    // of watch, if any
	entries int                      // that were read
	dirs    []*os.File               // that were; the caller closes them
	exceeded
}

// exceeded are the bounds that a look has met.
type exceeded struct{ names, directories bool }

func (e exceeded) String() string {
	switch {
	case e.names:
		return fmt.Sprintf("%d names, or %d of one directory, were read", MaxEntries, MaxNames)
	case e.directories:
		return fmt.Sprintf("%d directories were read", MaxDirectories)
	}
	return ""
}

// batch is how many names of a directory are read at a time.
const batch = 256

// A root is a directory to look into. resolve restricts how it is gone through (openat2(2)).
type root struct {
	file    *os.File
	resolve uint64
}

// sockets finds those below directories, and tells of each in which of them it is. A level of
// all directories is looked at before the next one of any. What cannot be read, or is gone
// meanwhile, is passed over.
func (l *look) sockets(roots ...root) (found []seen) {
	type directory struct {
		of   int
		name string
	}
	var level []directory
	for i := range roots {
		level = append(level, directory{i, "."})
	}
	for depth := 1; depth <= MaxDepth && len(level) > 0; depth++ {
		var next []directory
		for _, dir := range level {
			sockets, below := l.read(roots[dir.of], dir.name)
			for _, one := range sockets {
				one.dir = dir.of
				found = append(found, one)
			}
			for _, name := range below {
				next = append(next, directory{dir.of, name})
			}
		}
		level = next
	}
	return found
}

// read reads one directory.
func (l *look) read(from root, name string) (sockets []seen, below []string) {
	if l.entries >= MaxEntries || len(l.dirs) >= MaxDirectories {
		l.names, l.directories = l.names || l.entries >= MaxEntries, l.directories || len(l.dirs) >= MaxDirectories
		return nil, nil
	}
	fd, err := openat2(from.file, name, unix.O_RDONLY|unix.O_DIRECTORY, from.resolve)
	if err != nil {
		return nil, nil
	}
	// Where the kernel does not tell the kind of an entry, it is asked for by this name.
	dir := os.NewFile(uintptr(fd), fmt.Sprintf("/proc/self/fd/%d", fd))
	l.dirs = append(l.dirs, dir)
	if err := l.watch(dir); err != nil {
		l.blind = err
	}
	for most := min(l.entries+MaxNames, MaxEntries); l.entries < most; {
		entries, err := dir.ReadDir(min(batch, most-l.entries))
		l.entries += len(entries)
		for _, entry := range entries {
			at := path.Join(name, entry.Name())
			switch entry.Type() {
			case os.ModeDir:
				below = append(below, at)
			case os.ModeSocket:
				if one, ok := see(from, at); ok {
					sockets = append(sockets, one)
				}
			}
		}
		if errors.Is(err, io.EOF) || err != nil && len(entries) == 0 {
			return sockets, below
		}
	}
	l.names = true
	return sockets, below
}

// see looks at what may be a socket.
func see(from root, at string) (_ seen, ok bool) {
	file, err := openBelow(from.file, at, unix.O_PATH, from.resolve)
	if err != nil {
		return seen{}, false
	}
	defer file.Close()
	var stat unix.Stat_t
	if err := unix.Fstat(int(file.Fd()), &stat); err != nil || stat.Mode&unix.S_IFMT != unix.S_IFSOCK {
		return seen{}, false
	}
	taken, err := server(file)
	return seen{
		path: at, mode: permissions(file, &stat), uid: stat.Uid, gid: stat.Gid,
		device: stat.Dev, inode: stat.Ino, changed: stat.Ctim, served: taken == streams,
	}, err == nil
}
