package transfer

import (
	"archive/tar"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// An unpacker takes an archive apart in a directory that its entries cannot leave, by a name
// or by a link (os.Root).
type unpacker struct {
	*order
	dir     *os.Root
	only    string // the name of the one file that the archive may have; empty for any
	entries int
	times   []dirTime
}

// A dirTime is when a directory was modified. It is set last, as what comes into it changes it.
type dirTime struct {
	name string
	at   time.Time
}

// unpack takes an archive apart in the directory that the path names, which is made if it is
// not there. Where the path is a file, the archive is one file, which takes its place.
func (o *order) unpack(r io.Reader) error {
	u, err := o.open()
	if err != nil {
		return err
	}
	defer u.dir.Close()
	archive := tar.NewReader(r)
	for {
		header, err := archive.Next()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			return fmt.Errorf("reading the archive: %w (%w)", err, errdefs.ErrInvalidArgument)
		}
		if err := u.take(header, archive); err != nil {
			return fmt.Errorf("unpacking %q to %s: %w", header.Name, o.Path, err)
		}
	}
	if u.only != "" && u.entries == 0 {
		return fmt.Errorf("%s is a file, and the archive is empty: %w", o.Path, errdefs.ErrInvalidArgument)
	}
	for _, dir := range u.times {
		if err := u.dir.Chtimes(dir.name, dir.at, dir.at); err != nil {
			return err
		}
	}
	_, err = io.Copy(io.Discard, r) // archives are padded
	return err
}

// open opens the directory that the archive goes to.
func (o *order) open() (*unpacker, error) {
	u := &unpacker{order: o}
	dir := o.file()
	info, err := os.Stat(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		err = o.makeAll(dir)
	case err == nil && !info.IsDir() && o.wantsDir():
		err = &os.PathError{Op: "open", Path: o.Path, Err: unix.ENOTDIR}
	case err == nil && !info.IsDir():
		if dir, err = filepath.EvalSymlinks(dir); err == nil {
			dir, u.only = path.Split(dir)
		}
	}
	if err != nil {
		return nil, err
	}
	u.dir, err = os.OpenRoot(dir)
	return u, err
}

// makeAll makes the directories of a path.
func (o *order) makeAll(dir string) error {
	parent := dir
	for _, err := os.Stat(parent); errors.Is(err, fs.ErrNotExist); _, err = os.Stat(parent) {
		parent = path.Dir(parent)
	}
	above, err := os.OpenRoot(parent)
	if err != nil {
		return err
	}
	defer above.Close()
	rest, err := filepath.Rel(parent, dir)
	if err != nil {
		return err
	}
	return (&unpacker{order: o, dir: above}).makeDirs(rest)
}

// take unpacks an entry.
func (u *unpacker) take(header *tar.Header, content io.Reader) error {
	name := path.Clean("/" + header.Name)[1:]
	if u.only != "" {
		if u.entries++; u.entries > 1 || header.Typeflag != tar.TypeReg {
			return fmt.Errorf("%s is a file, and only an archive of one file can take its place: %w", u.Path, errdefs.ErrInvalidArgument)
		}
		name = u.only
	}
	if name == "" {
		return nil // the directory itself
	}
	if err := u.makeDirs(path.Dir(name)); err != nil {
		return err
	}
	owner, err := u.owner(header)
	if err != nil {
		return err
	}
	switch header.Typeflag {
	case tar.TypeDir:
		return u.takeDir(name, header, owner)
	case tar.TypeReg:
		return u.takeFile(name, header, owner, content)
	case tar.TypeLink, tar.TypeSymlink, tar.TypeChar, tar.TypeBlock, tar.TypeFifo:
		return u.takeOther(name, header, owner)
	}
	return fmt.Errorf("an entry of type %q: %w", header.Typeflag, errdefs.ErrNotImplemented)
}

// An owner is who owns a file, in the guest.
type owner struct{ uid, gid int }

// root is the container's root.
func (o *order) root() (root owner) {
	root.uid, _ = o.Users.toGuest(0)
	root.gid, _ = o.Groups.toGuest(0)
	return root
}

// owner is who is to own an entry.
func (u *unpacker) owner(header *tar.Header) (owner, error) {
	if !u.PreserveOwnership {
		return u.root(), nil
	}
	uid, isUser := u.Users.toGuest(header.Uid)
	gid, isGroup := u.Groups.toGuest(header.Gid)
	if !isUser || !isGroup {
		return owner{}, fmt.Errorf("the container's user namespace has no user %d or no group %d: transfer it without its owners: %w", header.Uid, header.Gid, errdefs.ErrInvalidArgument)
	}
	return owner{uid, gid}, nil
}

// makeDirs makes the directories of a name that are not there.
func (u *unpacker) makeDirs(name string) error {
	if name == "." {
		return nil
	}
	if info, err := u.dir.Stat(name); err == nil && info.IsDir() {
		return nil
	}
	if err := u.makeDirs(path.Dir(name)); err != nil {
		return err
	}
	if err := u.dir.Mkdir(name, 0o755); err != nil {
		return err
	}
	root := u.root()
	return u.dir.Lchown(name, root.uid, root.gid)
}

// takeDir makes a directory. One that is there stays as it is, be it at the end of a link.
func (u *unpacker) takeDir(name string, header *tar.Header, owner owner) error {
	info, err := u.dir.Stat(name)
	if err == nil && info.IsDir() {
		return nil
	}
	if _, err := u.dir.Lstat(name); err == nil {
		return fmt.Errorf("it is a directory, and there is something else in its place: %w", errdefs.ErrFailedPrecondition)
	}
	if err := u.dir.Mkdir(name, 0o700); err != nil {
		return err
	}
	u.times = append(u.times, dirTime{name, header.ModTime})
	if err := u.dir.Lchown(name, owner.uid, owner.gid); err != nil {
		return err
	}
	return u.dir.Chmod(name, header.FileInfo().Mode())
}

// takeFile writes a file beside its place, and puts it there when it is whole. Where
// something is mounted, or nothing can be made beside it, it writes into what is there.
func (u *unpacker) takeFile(name string, header *tar.Header, owner owner, content io.Reader) error {
	if err := u.notDir(name); err != nil {
		return err
	}
	beside := path.Join(path.Dir(name), ".msb-"+rand.Text())
	file, err := u.dir.OpenFile(beside, os.O_CREATE|os.O_EXCL|os.O_RDWR, 0o600)
	if errors.Is(err, unix.EROFS) && u.only != "" {
		return u.overwrite(name, content)
	}
	if err != nil {
		return err
	}
	defer file.Close()
	err = fill(file, header, owner, content)
	if err == nil {
		err = u.dir.Chtimes(beside, header.ModTime, header.ModTime)
	}
	if err == nil {
		err = u.dir.Rename(beside, name)
	}
	if errors.Is(err, unix.EBUSY) { // it is a mount point (rename(2))
		if _, err = file.Seek(0, io.SeekStart); err == nil {
			err = errors.Join(u.overwrite(name, file), u.dir.Remove(beside))
		}
	}
	if err != nil {
		_ = u.dir.Remove(beside)
	}
	return err
}

// fill makes a file what the archive says.
func fill(file *os.File, header *tar.Header, owner owner, content io.Reader) error {
	if _, err := io.Copy(file, content); err != nil {
		return err
	}
	if err := file.Chown(owner.uid, owner.gid); err != nil {
		return err
	}
	if err := file.Chmod(header.FileInfo().Mode()); err != nil {
		return err
	}
	if value := header.PAXRecords[attributes+capability]; value != "" {
		if err := unix.Fsetxattr(int(file.Fd()), capability, []byte(value), 0); err != nil {
			return &os.PathError{Op: "setxattr " + capability, Path: file.Name(), Err: err}
		}
	}
	return nil
}

// overwrite writes into the file that is there, which keeps its mode and owner.
func (u *unpacker) overwrite(name string, content io.Reader) error {
	file, err := u.dir.OpenFile(name, os.O_WRONLY|os.O_TRUNC, 0)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	return errors.Join(err, file.Close())
}

// notDir refuses to put something else in the place of a directory.
func (u *unpacker) notDir(name string) error {
	if info, err := u.dir.Lstat(name); err == nil && info.IsDir() {
		return fmt.Errorf("there is a directory in its place: %w", errdefs.ErrFailedPrecondition)
	}
	return nil
}

// takeOther makes a link, a device or a FIFO.
func (u *unpacker) takeOther(name string, header *tar.Header, owner owner) error {
	if err := u.notDir(name); err != nil {
		return err
	}
	if err := u.dir.Remove(name); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	switch header.Typeflag {
	case tar.TypeLink:
		return u.dir.Link(path.Clean("/" + header.Linkname)[1:], name)
	case tar.TypeSymlink:
		if err := u.dir.Symlink(header.Linkname, name); err != nil {
			return err
		}
		return u.dir.Lchown(name, owner.uid, owner.gid)
	}
	return u.makeNode(name, header, owner)
}

// nodes are the types of files that mknod(2) makes.
var nodes = map[byte]uint32{tar.TypeChar: unix.S_IFCHR, tar.TypeBlock: unix.S_IFBLK, tar.TypeFifo: unix.S_IFIFO}

func (u *unpacker) makeNode(name string, header *tar.Header, owner owner) error {
	dir, err := u.dir.Open(path.Dir(name))
	if err != nil {
		return err
	}
	defer dir.Close()
	mode := nodes[header.Typeflag] | uint32(header.Mode&0o777)
	device := unix.Mkdev(uint32(header.Devmajor), uint32(header.Devminor))
	if err := unix.Mknodat(int(dir.Fd()), path.Base(name), mode, int(device)); err != nil {
		return &os.PathError{Op: "mknod", Path: name, Err: err}
	}
	return u.dir.Lchown(name, owner.uid, owner.gid)
}
