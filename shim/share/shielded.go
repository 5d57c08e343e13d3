package share

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// A Shield makes of a file one that has the same data and a metadata of its own.
type Shield interface {
	// Add makes the file of a descriptor into one called name, opened with
	// O_PATH, which the caller closes. With dir, it follows what base is in dir,
	// read-only if the file's mount is.
	Add(name string, file, dir *os.File, base string) (*os.File, error)
	// AddFixed makes one that keeps its size.
	AddFixed(name string, file *os.File) (*os.File, error)
	// Remove takes it away again.
	Remove(name string) error
}

// addFile stages a file. A shielded one is staged as any other: what is bound is
// the shield's file instead of the host's.
func (t *Trees) addFile(source *Source, attributes Attributes) (_ Share, err error) {
	name := filepath.Base(source.path)
	if !attributes.Shield {
		return t.share(t.files(), filePrefix, name, source.object, attributes)
	}
	shieldName, err := t.newTag(filePrefix)
	if err != nil {
		return Share{}, err
	}
	shielded, err := t.addToShield(shieldName, source, attributes)
	if err != nil {
		return Share{}, fmt.Errorf("shielding the metadata of %s: %w", source.path, err)
	}
	defer shielded.Close()
	attributes.IDMap = IDMap{} // the shield's file has the mapped owner
	share, err := t.share(t.files(), filePrefix, name, object{file: shielded}, attributes)
	if err != nil {
		return Share{}, errors.Join(err, t.shield.Remove(shieldName))
	}
	share.shieldName = shieldName
	return share, nil
}

// addToShield gives the shield a file, and to follow it its directory, as the guest is to
// see them.
func (t *Trees) addToShield(name string, source *Source, attributes Attributes) (*os.File, error) {
	if source.kind == os.ModeDevice {
		return t.shield.AddFixed(name, source.file) // a clone's device cannot be opened
	}
	file, err := t.restricted(source.object, attributes.IDMap, attributes.ReadOnly)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	if attributes.Fixed {
		return t.shield.AddFixed(name, file)
	}
	if !attributes.Follow {
		return t.shield.Add(name, file, nil, "")
	}
	place, base, err := source.Directory()
	if err != nil {
		return nil, err
	}
	defer place.Close()
	// The shield makes what it finds there as read-only as the file.
	mapped := attributes.IDMap != (IDMap{})
	dir, err := t.restricted(object{place, source.in}, attributes.IDMap, mapped && attributes.ReadOnly)
	if err != nil {
		return nil, err
	}
	defer dir.Close()
	// What is mounted on the name is not in the clone.
	there, err := source.isAt(dir, base)
	if err == nil && !there {
		err = fmt.Errorf("source %s is a mount of its own, which cannot be followed with its owner mapped: leave out following: %w", source.path, errdefs.ErrInvalidArgument)
	}
	if err != nil {
		return nil, err
	}
	return t.shield.Add(name, file, dir, base)
}

// restricted is an object, with the owners of its files mapped, and
// read-only if asked: what is reopened through the descriptor of a mount's clone has
// the clone's attributes. The caller closes it.
func (t *Trees) restricted(source object, ids IDMap, readOnly bool) (*os.File, error) {
	if ids == (IDMap{}) && !readOnly {
		fd, err := unix.FcntlInt(source.file.Fd(), unix.F_DUPFD_CLOEXEC, 0)
		if err != nil {
			return nil, os.NewSyscallError("fcntl", err)
		}
		return os.NewFile(uintptr(fd), source.file.Name()), nil
	}
	return t.clone(source, Attributes{IDMap: ids, ReadOnly: readOnly})
}
