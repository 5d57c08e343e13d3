// Package share keeps what a microVM is given of its host: two trees, each
// served to the guest by one virtio-fs device, in which every share is a
// directory with a random name.
//
//	<dir>/pool/rf_<hex>         a container's root file system
//	<dir>/pool/dm_<hex>         a mounted directory
//	<dir>/files/fm_<hex>/<name> a mounted file, the only entry of its directory
//
// Both trees are file systems in the memory of the shim's private mount
// namespace, so all of it is gone with the shim and the VMM, however they end.
// The VMM is served a read-only bind of each tree that receives its mounts: a
// share added later appears there by propagation, while nothing can be created
// beside a share or a staged file (mount_namespaces(7), "shared subtrees").
//
// A share is attached complete: the source is opened once, what is bound is
// that descriptor, and its attributes, read-only above all, are set before it
// is attached anywhere. An attribute set later would not reach the VMM's copy.
package share

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"

	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/unmount"
	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
)

// Prefixes of tags. Of a share whose tag begins with rootfsPrefix the file servers let the
// guest's kernel keep what it has read of a file for later opens of it (hack/virtiofsd,
// hack/libkrun).
const (
	rootfsPrefix = "rf_"
	dirPrefix    = "dm_"
	filePrefix   = "fm_"
)

const (
	tagBytes    = 16 // 128 random bits
	tagAttempts = 8
)

// Trees are the two trees of one VM. Its methods may be called concurrently.
type Trees struct {
	dir    string
	host   mountns.Namespace
	random io.Reader
	shield Shield
	users  users
	covers *covers
	keeper *keeper
	locks  locks
	// devices counts the block devices that were ever staged.
	devices atomic.Uint32

	namespaces namespaces
}

// Open makes the trees below dir, which must exist and be in a mount namespace
// of the caller's own; below it in the host's there is nothing. What containerd hands over
// is mounted as containerd would, whose mount namespace is host. Files that are to be
// shielded are given to shield. Close takes the trees away.
func Open(dir string, host mountns.Namespace, shield Shield) (_ *Trees, err error) {
	t := &Trees{dir: dir, host: host, random: rand.Reader, shield: shield}
	if err := mountTmpfs(dir, unix.MS_PRIVATE); err != nil {
		return nil, fmt.Errorf("preparing %s for the VM's shares: %w", dir, err)
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, t.Close())
		}
	}()
	if err := os.Mkdir(t.scratch(), 0o700); err != nil {
		return nil, err
	}
	for _, tree := range []string{t.pool(), t.files()} {
		if err := openTree(tree); err != nil {
			return nil, fmt.Errorf("preparing %s: %w", tree, err)
		}
	}
	if t.covers, err = openCovers(filepath.Join(dir, "covers"), t.Pool()); err != nil {
		return nil, err
	}
	t.keeper = newKeeper(t.covers)
	return t, nil
}

// openTree makes one tree and, beside it, what the VMM serves.
func openTree(tree string) error {
	if err := os.Mkdir(tree, 0o755); err != nil {
		return err
	}
	if err := mountTmpfs(tree, unix.MS_SHARED); err != nil {
		return err
	}
	served := servedDir(tree)
	if err := os.Mkdir(served, 0o755); err != nil {
		return err
	}
	const readOnly = unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY | unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC
	for _, step := range []struct {
		source string
		flags  uintptr
	}{
		{tree, unix.MS_BIND},
		{"", unix.MS_SLAVE},  // receives the tree's mounts, gives none back
		{"", readOnly},       // the tree's own directories; shares keep their own attributes
		{"", unix.MS_SHARED}, // hands them on to the VMM's namespace
	} {
		if err := unix.Mount(step.source, served, "", step.flags, ""); err != nil {
			return &os.PathError{Op: "mount", Path: served, Err: err}
		}
	}
	return nil
}

func mountTmpfs(dir string, propagation uintptr) error {
	const flags = unix.MS_NODEV | unix.MS_NOSUID | unix.MS_NOEXEC
	if err := unix.Mount("msb", dir, "tmpfs", flags, "mode=0755,size=16m"); err != nil {
		return &os.PathError{Op: "mount tmpfs", Path: dir, Err: err}
	}
	if err := unix.Mount("", dir, "", propagation, ""); err != nil {
		return &os.PathError{Op: "set propagation", Path: dir, Err: err}
	}
	return nil
}

func (t *Trees) pool() string    { return filepath.Join(t.dir, "pool") }
func (t *Trees) files() string   { return filepath.Join(t.dir, "files") }
func (t *Trees) scratch() string { return filepath.Join(t.dir, "scratch") }

func servedDir(tree string) string { return tree + ".served" }

// Pool is the directory that the VMM serves for root file systems and mounted
// directories.
func (t *Trees) Pool() string { return servedDir(t.pool()) }

// Files is the directory that the VMM serves for mounted files.
func (t *Trees) Files() string { return servedDir(t.files()) }

// Close takes both trees and every share away. What a VMM still serves lives on
// in that VMM's namespace only.
func (t *Trees) Close() error {
	if t.keeper != nil {
		t.keeper.close()
	}
	t.namespaces.close()
	t.locks.close()
	if err := unix.Unmount(t.dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW); err != nil {
		return &os.PathError{Op: "unmount", Path: t.dir, Err: err}
	}
	return nil
}

// Attributes are what holds for a share whatever the guest does.
type Attributes struct {
	// ReadOnly makes the share's own mount read-only, RecursiveReadOnly those
	// below it too.
	ReadOnly, RecursiveReadOnly bool
	// Recursive includes the mounts below the source.
	Recursive bool
	// Slave lets later mounts of the host below the source appear.
	Slave bool
	// IDMap maps the owners of its files.
	IDMap IDMap
	// Shield, of a file, keeps the host's metadata of it from the guest's hands.
	Shield bool
	// Follow, of a shielded file, lets each open of the guest find what then has
	// the source's name on the host.
	Follow bool
	// Fixed, of a shielded file, keeps its size.
	Fixed bool
	// Hidden are paths below a directory that are not shared.
	Hidden Hidden
}

// A Share is something of the host in one of the trees.
type Share struct {
	// Tag is its random name.
	Tag string
	// Name is, for a file, the entry below the tag's directory.
	Name string
	// IsFile tells a mounted file from a directory.
	IsFile bool
	// Withheld are the paths below a directory where a file system of the host's kernel is
	// mounted, which is not shared.
	Withheld []string
	// Number is a block device's: that of no other in the VM.
	Number uint32

	dir        string   // the tag's directory
	target     string   // what the source is attached to
	shieldName string   // empty if it is not shielded
	key        identity // of a directory that may have more users
	hides      bool     // something below it is hidden
}

// Add shares a source with the guest: a directory in the pool, once however often it is
// added, a regular file staged alone in the files tree. The caller owns the source and
// closes it.
func (t *Trees) Add(source *Source, attributes Attributes) (Share, error) {
	switch {
	case source.IsDir():
		return t.addDir(source, attributes)
	case source.IsSocket():
		return Share{}, fmt.Errorf("source %s is a socket, which is not shared: %w", source.path, errdefs.ErrInvalidArgument)
	}
	return t.addFile(source, attributes)
}

// addDir shares a directory, and keeps hidden what is to be hidden in it. Of a share that
// others use already, something that must be there may have gone since.
func (t *Trees) addDir(source *Source, attributes Attributes) (Share, error) {
	share, err := t.users.add(source.object, attributes, "", func() (Share, error) {
		return t.share(t.pool(), dirPrefix, "", source.object, attributes)
	})
	if err != nil || attributes.Hidden == (Hidden{}) {
		return share, err
	}
	if err := t.keeper.keep(share.target, attributes.Hidden); err != nil {
		err = fmt.Errorf("source %s: %w", source.path, err)
		if t.Release(share) {
			err = errors.Join(err, t.Remove(share))
		}
		return Share{}, err
	}
	return share, nil
}

// AddRootfs mounts what containerd hands over as a container's root file
// system, out of the guest's sight, and shares the result. The snapshot is
// the container's alone: nobody on the host changes it meanwhile.
func (t *Trees) AddRootfs(mounts []mount.Mount) (Share, error) {
	return t.addRootfs(rootfsPrefix, mounts)
}

// AddPreparedRootfs shares a directory that the client has prepared as a
// container's root file system (ctr run --rootfs), and may change at any time.
func (t *Trees) AddPreparedRootfs(dir string) (Share, error) {
	return t.addRootfs(dirPrefix, []mount.Mount{{Type: "bind", Source: dir, Options: []string{"rbind", "rw"}}})
}

func (t *Trees) addRootfs(prefix string, mounts []mount.Mount) (Share, error) {
	root, err := t.mountRootfs(mounts)
	if err != nil {
		return Share{}, fmt.Errorf("mounting the root file system: %w", err)
	}
	defer root.Close()
	if err := t.restrict(root, Attributes{}); err != nil {
		return Share{}, err
	}
	return t.addTree(prefix, root, Hidden{})
}

// share makes a share of an object.
func (t *Trees) share(tree, prefix, name string, source object, attributes Attributes) (Share, error) {
	mount, err := t.clone(source, attributes)
	if err != nil {
		return Share{}, classify(err)
	}
	defer mount.Close()
	if (attributes.Recursive || attributes.Hidden != (Hidden{})) && name == "" {
		return t.addTree(prefix, mount, attributes.Hidden)
	}
	return t.add(tree, prefix, name, mount)
}

// addTree makes a share of a tree of mounts, in the pool, without those of the kernel and
// what is hidden.
func (t *Trees) addTree(prefix string, tree *os.File, hidden Hidden) (_ Share, err error) {
	tag, err := t.newTag(prefix)
	if err != nil {
		return Share{}, err
	}
	dir := filepath.Join(t.scratch(), tag)
	defer func() { err = errors.Join(err, unsieved(dir)) }()
	withheld, err := t.sieve(tree, dir)
	if err != nil {
		return Share{}, classify(err)
	}
	if err := t.covers.hide(dir, hidden); err != nil {
		return Share{}, fmt.Errorf("source %s: %w", tree.Name(), classify(err))
	}
	share, err := t.add(t.pool(), prefix, "", tree)
	share.Withheld, share.hides = withheld, hidden != Hidden{}
	return share, err
}

// add makes the tag's directory and attaches a mount to it or, if name is given, to an
// entry of that name in it.
func (t *Trees) add(tree, prefix, name string, mount *os.File) (_ Share, err error) {
	share, err := t.newDir(tree, prefix)
	if err != nil {
		return Share{}, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(classify(err), t.Remove(share))
		}
	}()
	if name != "" {
		share.Name, share.IsFile, share.target = name, true, filepath.Join(share.dir, name)
		entry, err := os.OpenFile(share.target, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0)
		if err != nil {
			return Share{}, err
		}
		entry.Close()
	}
	return share, attach(mount, share.target)
}

// Submounts are the paths of what is mounted below a shared directory, from the pool on,
// without what covers hidden paths.
func (t *Trees) Submounts(share Share) ([]string, error) {
	below, err := mountinfo.GetMounts(func(info *mountinfo.Info) (skip, stop bool) {
		return t.covers.has(info) || !strings.HasPrefix(info.Mountpoint, share.target+"/"), false
	})
	var paths []string
	for _, mount := range below {
		paths = append(paths, strings.TrimPrefix(mount.Mountpoint, t.pool()+"/"))
	}
	return paths, err
}

// OpenDir opens a shared directory as the guest is served it, with what is left out of it
// and its owners mapped, for its descriptor (O_PATH). The caller closes it, before Remove.
func (t *Trees) OpenDir(share Share) (*os.File, error) {
	return os.OpenFile(share.target, unix.O_PATH|unix.O_DIRECTORY, 0)
}

// newDir makes the directory of a new tag. A tag that is taken is never reused:
// the guest may hold what it once meant.
func (t *Trees) newDir(tree, prefix string) (Share, error) {
	for range tagAttempts {
		tag, err := t.newTag(prefix)
		if err != nil {
			return Share{}, err
		}
		dir := filepath.Join(tree, tag)
		switch err := os.Mkdir(dir, 0o755); {
		case err == nil:
			return Share{Tag: tag, dir: dir, target: dir}, nil
		case !errors.Is(err, os.ErrExist):
			return Share{}, classify(err)
		}
	}
	return Share{}, fmt.Errorf("no free tag in %s after %d attempts: %w", tree, tagAttempts, errdefs.ErrUnavailable)
}

// classify gives an error of the kernel the class that a client may act upon.
func classify(err error) error {
	for _, exhausted := range []error{unix.ENOSPC, unix.EMFILE, unix.ENFILE, unix.ENOMEM} {
		if errors.Is(err, exhausted) {
			return fmt.Errorf("%w (%w)", err, errdefs.ErrResourceExhausted)
		}
	}
	return err
}

func (t *Trees) newTag(prefix string) (string, error) {
	var bits [tagBytes]byte
	if _, err := io.ReadFull(t.random, bits[:]); err != nil {
		return "", fmt.Errorf("drawing a tag: %w", err)
	}
	return prefix + hex.EncodeToString(bits[:]), nil
}

// Release is called once for each Add, before the guest lets go of the share. If it
// tells that there is another user, neither the guest nor Remove is to take it away.
func (t *Trees) Release(share Share) (last bool) { return t.users.release(share) }

// Remove takes a share away from the host's side. The guest should have let go
// of it before; if it has not, what it holds stays usable to it until its VM
// ends, without keeping the host's source busy in any other namespace.
//
// One that hides something stays until Close, and Add finds it again. A mount that is still
// in use is taken out of the tree of mounts without those on it (umount2(2), MNT_DETACH; its
// disconnect_mount in fs/namespace.c): whoever holds the share would see what they covered.
func (t *Trees) Remove(share Share) error {
	if share.hides {
		return nil
	}
	if err := t.take(share); err != nil {
		return err
	}
	t.locks.release(share.Tag)
	return nil
}

// take takes a share away, but for its lock: after an error the guest may still have what is
// locked, which then stays so until Close.
func (t *Trees) take(share Share) error {
	if err := unmount.Path(share.target); err != nil {
		return err
	}
	// Never recursively: if a source were still mounted here, its own content
	// would go.
	if share.IsFile {
		if err := os.Remove(share.target); err != nil && !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	if err := os.Remove(share.dir); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	if share.shieldName == "" {
		return nil
	}
	return t.shield.Remove(share.shieldName)
}
