package transfer

import (
	"archive/tar"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// capability is the attribute that makes a program a privileged one (capabilities(7)). It is
// the one that archives keep, as with "docker cp". attributes is where archives have them
// (the PAX record of star).
const (
	capability = "security.capability"
	attributes = "SCHILY.xattr."
)

// entriesAtOnce is how many entries of a directory are read at a time.
const entriesAtOnce = 512

// A packer makes an archive.
type packer struct {
	*order
	archive *tar.Writer
	links   map[inode]string // names of files that have several
}

// An inode is a file, whatever its name.
type inode struct{ device, number uint64 }

// pack writes the archive of a file or a directory. Its entries begin with the last element
// of the path; those of the root, and of "dir/.", are relative.
func (o *order) pack(w io.Writer) error {
	p := &packer{order: o, archive: tar.NewWriter(w), links: make(map[inode]string)}
	file, name := o.file(), path.Base(o.file())
	if o.wantsContent() {
		name = "."
	}
	if o.wantsDir() {
		file += "/."
	}
	var stat unix.Stat_t
	if err := lstat(file, &stat); err != nil {
		return err
	}
	kind, err := kernels(file, &stat)
	if err != nil {
		return err
	}
	if kind != "" {
		return fmt.Errorf("%s is of a file system of the kernel's, %s, whose files have no size before they are read: have a program in the container read it: %w", o.Path, kind, errdefs.ErrInvalidArgument)
	}
	if err := p.add(file, name, &stat); err != nil {
		return err
	}
	return p.archive.Close()
}

// add adds a file, and all below it.
func (p *packer) add(file, name string, stat *unix.Stat_t) error {
	if stat.Mode&unix.S_IFMT == unix.S_IFREG {
		return p.addFile(file, name)
	}
	header, err := p.header(file, name, stat)
	if err != nil || header == nil {
		return err
	}
	if err := p.archive.WriteHeader(header); err != nil {
		return err
	}
	if header.Typeflag != tar.TypeDir || p.NoWalk {
		return nil
	}
	return p.addEntries(file, name, stat)
}

// addEntries adds what is in a directory. What goes meanwhile is passed over, and file
// systems of the kernel's are passed over but for their root.
func (p *packer) addEntries(dir, name string, stat *unix.Stat_t) error {
	opened, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer opened.Close()
	for {
		entries, err := opened.ReadDir(entriesAtOnce)
		for _, entry := range entries {
			if err := p.addEntry(path.Join(dir, entry.Name()), path.Join(name, entry.Name()), stat.Dev); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

func (p *packer) addEntry(file, name string, device uint64) error {
	var stat unix.Stat_t
	if err := lstat(file, &stat); err != nil {
		return unlessGone(err)
	}
	if stat.Dev != device {
		kind, err := kernels(file, &stat)
		if err != nil {
			return unlessGone(err)
		}
		if kind != "" {
			return p.addMountPoint(file, name, &stat)
		}
	}
	return unlessGone(p.add(file, name, &stat))
}

// addMountPoint adds the entry of a directory, and nothing for another file.
func (p *packer) addMountPoint(file, name string, stat *unix.Stat_t) error {
	if stat.Mode&unix.S_IFMT != unix.S_IFDIR {
		return nil
	}
	header, err := p.header(file, name, stat)
	if err != nil {
		return unlessGone(err)
	}
	return p.archive.WriteHeader(header)
}

func unlessGone(err error) error {
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	return err
}

// addFile adds a regular file, as long as it is when it is opened: a log may grow.
func (p *packer) addFile(file, name string) error {
	opened, err := os.OpenFile(file, os.O_RDONLY|unix.O_NOFOLLOW|unix.O_NONBLOCK, 0)
	if err != nil {
		return err
	}
	defer opened.Close()
	var stat unix.Stat_t
	if err := unix.Fstat(int(opened.Fd()), &stat); err != nil {
		return &os.PathError{Op: "stat", Path: file, Err: err}
	}
	header, err := p.header(file, name, &stat)
	if err != nil || header == nil {
		return err
	}
	if header.Typeflag == tar.TypeReg {
		if header.PAXRecords, err = capabilityOf(opened); err != nil {
			return err
		}
	}
	if err := p.archive.WriteHeader(header); err != nil {
		return err
	}
	if _, err := io.CopyN(p.archive, opened, header.Size); errors.Is(err, io.EOF) {
		return fmt.Errorf("%s was cut short while it was read: try again: %w", file, errdefs.ErrAborted)
	} else if err != nil {
		return err
	}
	return nil
}

// types are those of an archive's entries. Sockets have none.
var types = map[uint32]byte{
	unix.S_IFREG: tar.TypeReg, unix.S_IFDIR: tar.TypeDir, unix.S_IFLNK: tar.TypeSymlink,
	unix.S_IFCHR: tar.TypeChar, unix.S_IFBLK: tar.TypeBlock, unix.S_IFIFO: tar.TypeFifo,
}

// header makes the header of a file; nil for one that no archive can have.
func (p *packer) header(file, name string, stat *unix.Stat_t) (*tar.Header, error) {
	kind, ok := types[stat.Mode&unix.S_IFMT]
	if !ok {
		return nil, nil
	}
	header := &tar.Header{
		Typeflag: kind, Name: name, Mode: int64(stat.Mode & 0o7777), ModTime: time.Unix(stat.Mtim.Sec, 0),
		Uid: p.Users.toContainer(int(stat.Uid)), Gid: p.Groups.toContainer(int(stat.Gid)), Format: tar.FormatPAX,
	}
	switch kind {
	case tar.TypeDir:
		header.Name += "/"
	case tar.TypeChar, tar.TypeBlock:
		header.Devmajor, header.Devminor = int64(unix.Major(stat.Rdev)), int64(unix.Minor(stat.Rdev))
	case tar.TypeSymlink:
		var err error
		if header.Linkname, err = os.Readlink(file); err != nil {
			return nil, err
		}
	case tar.TypeReg:
		header.Size = stat.Size
		if stat.Nlink > 1 {
			p.link(header, inode{stat.Dev, stat.Ino})
		}
	}
	return header, nil
}

// link makes a header that of another name of a file that the archive has already.
func (p *packer) link(header *tar.Header, of inode) {
	first, ok := p.links[of]
	if !ok {
		p.links[of] = header.Name
		return
	}
	header.Typeflag, header.Linkname, header.Size = tar.TypeLink, first, 0
}

// capabilityOf are the records of a file's capabilities; nil if it has none.
func capabilityOf(file *os.File) (map[string]string, error) {
	value := make([]byte, 64) // a vfs_ns_cap_data has 24 bytes
	n, err := unix.Fgetxattr(int(file.Fd()), capability, value)
	switch {
	case errors.Is(err, unix.ENODATA), errors.Is(err, unix.ENOTSUP):
		return nil, nil
	case err != nil:
		return nil, &os.PathError{Op: "getxattr " + capability, Path: file.Name(), Err: err}
	}
	return map[string]string{attributes + capability: string(value[:n])}, nil
}

func lstat(file string, stat *unix.Stat_t) error {
	if err := unix.Lstat(file, stat); err != nil {
		return &os.PathError{Op: "lstat", Path: file, Err: err}
	}
	return nil
}

// kernelTypes are the file systems that the kernel makes of itself (statfs(2)).
var kernelTypes = map[int64]string{
	unix.PROC_SUPER_MAGIC: "proc", unix.SYSFS_MAGIC: "sysfs", unix.DEVPTS_SUPER_MAGIC: "devpts",
	unix.CGROUP_SUPER_MAGIC: "cgroup", unix.CGROUP2_SUPER_MAGIC: "cgroup2", unix.DEBUGFS_MAGIC: "debugfs",
	unix.TRACEFS_MAGIC: "tracefs", unix.BPF_FS_MAGIC: "bpf", unix.SECURITYFS_MAGIC: "securityfs",
	unix.BINFMTFS_MAGIC: "binfmt_misc", unix.PSTOREFS_MAGIC: "pstore", unix.NSFS_MAGIC: "nsfs",
	mqueueMagic: "mqueue", configfsMagic: "configfs",
}

// MQUEUE_MAGIC and CONFIGFS_MAGIC (ipc/mqueue.c, fs/configfs/mount.c).
const (
	mqueueMagic   = 0x19800202
	configfsMagic = 0x62656570
)

// kernels names the file system of the kernel's that a file is of; empty if it is of another.
// A link is not followed: it has no file system but that of its directory.
func kernels(file string, stat *unix.Stat_t) (string, error) {
	if stat.Mode&unix.S_IFMT == unix.S_IFLNK {
		return "", nil
	}
	var of unix.Statfs_t
	if err := unix.Statfs(file, &of); err != nil {
		return "", &os.PathError{Op: "statfs", Path: file, Err: err}
	}
	return kernelTypes[int64(of.Type)], nil
}
