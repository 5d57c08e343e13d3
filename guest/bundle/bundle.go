// Package bundle keeps the bundles of the guest's containers: the runtime
// configuration, and the mounted files that crun takes from beside it.
//
// A mounted file is bound in three steps. The files tree is mounted at a point
// of the bundle's own; the staged file is bound from there to the place that
// the container's configuration names; the tree is unmounted again, also after
// an error. So the tree, and with it what other mounts of the same machine
// stage in it, is in sight only for these moments and of no container.
package bundle

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/internal/unmount"
)

// MountPool mounts the pool where containers' root file systems and mounted
// directories are taken from. The agent's mount namespace is no container's.
func MountPool() error {
	if err := os.MkdirAll(api.PoolPath(), 0o755); err != nil {
		return err
	}
	return mountTree(api.PoolTag, api.PoolPath())
}

// mountTree mounts a virtio-fs device; a test has none.
var mountTree = func(tag, target string) error {
	if err := unix.Mount(tag, target, "virtiofs", 0, ""); err != nil {
		return fmt.Errorf("mounting the virtio-fs device %s on %s: %w", tag, target, err)
	}
	return nil
}

// Create makes a bundle. After an error nothing of it is left.
func Create(request *api.CreateBundleRequest) (path string, err error) {
	if err := api.CheckName("container id", request.Container); err != nil {
		return "", err
	}
	path = api.BundlePath(request.Container)
	for _, dir := range []string{path, api.FilesPath(request.Container), api.StagePath(request.Container)} {
		if err := os.MkdirAll(filepath.Dir(dir), 0o711); err != nil {
			return "", err
		}
	}
	if err := os.Mkdir(path, 0o711); err != nil {
		if errors.Is(err, os.ErrExist) {
			return "", fmt.Errorf("container %s has a bundle in the guest already: %w", request.Container, errdefs.ErrAlreadyExists)
		}
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, Remove(request.Container, nil))
		}
	}()
	if err := os.WriteFile(filepath.Join(path, "config.json"), request.Spec, 0o600); err != nil {
		return "", err
	}
	enter(request.Submounts)
	return path, bindFiles(request.Container, request.Files)
}

// enter has the kernel make the mounts of directories of the pool in the agent's mount
// namespace, of which containers' are copies. What cannot be entered is found so by crun.
func enter(submounts [][]byte) {
	for _, path := range submounts {
		if dir, err := os.Open(filepath.Join(api.PoolPath(), filepath.Clean("/"+string(path)))); err == nil {
			dir.Close()
		}
	}
}

// bindFiles binds staged files to their places, with the files tree mounted no
// longer than that takes.
func bindFiles(container string, files []*api.FileMount) (err error) {
	if len(files) == 0 {
		return nil
	}
	if err := os.Mkdir(api.FilesPath(container), 0o700); err != nil {
		return err
	}
	stage := api.StagePath(container)
	return WithFiles(stage, func() error {
		for _, file := range files {
			if err := bindFile(container, stage, file); err != nil {
				return fmt.Errorf("mount %s: binding the file in the guest: %w", file.Destination, err)
			}
		}
		return nil
	})
}

// WithFiles calls use while the files tree is mounted on stage, a directory that it makes and
// takes away. What holds a file of the tree open keeps it.
func WithFiles(stage string, use func() error) (err error) {
	if err := os.Mkdir(stage, 0o700); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(stage)) }()
	if err := mountTree(api.FilesTag, stage); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, unmount.Path(stage)) }()
	return use()
}

// Staged is where a staged file is in the files tree. The name of one that could be elsewhere
// is refused.
func Staged(stage string, file *api.FileMount) (string, error) {
	name := string(file.Name)
	return filepath.Join(stage, file.Tag, name), errors.Join(api.CheckName("tag", file.Tag), api.CheckName("file", name))
}

func bindFile(container, stage string, file *api.FileMount) error {
	staged, err := Staged(stage, file)
	if err != nil {
		return err
	}
	target := api.FilePath(container, file.Tag)
	place, err := os.OpenFile(target, os.O_CREATE|os.O_EXCL|os.O_RDONLY, 0o600)
	if err != nil {
		return err
	}
	place.Close()
	if err := unix.Mount(staged, target, "", unix.MS_BIND, ""); err != nil {
		return &os.PathError{Op: "bind", Path: strings.TrimPrefix(staged, stage+"/"), Err: err}
	}
	if !file.ReadOnly {
		return nil
	}
	// The host refuses writes whatever the guest does; this makes the guest
	// show the mount as what it is.
	const readOnly = unix.MS_BIND | unix.MS_REMOUNT | unix.MS_RDONLY
	if err := unix.Mount("", target, "", readOnly, ""); err != nil {
		return &os.PathError{Op: "remount read-only", Path: target, Err: err}
	}
	return nil
}

// ReleaseFiles unmounts the places from which crun took a container's files.
func ReleaseFiles(container string) error {
	if err := api.CheckName("container id", container); err != nil {
		return err
	}
	dir := api.FilesPath(container)
	entries, err := os.ReadDir(dir)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	var errs []error
	for _, entry := range entries {
		place := filepath.Join(dir, entry.Name())
		errs = append(errs, unmount.Path(place), os.Remove(place))
	}
	return errors.Join(append(errs, os.Remove(dir))...)
}

// Remove undoes Create and lets go of the container's shares of the pool, so
// that the host can unmount them. It does all of it that can be done, whatever
// fails. Without an error all data is on the host when it returns; otherwise a
// sentence says of which shares some is lost. A bundle that is not there is no
// error.
func Remove(container string, shares []string) error {
	if err := api.CheckName("container id", container); err != nil {
		return err
	}
	errs := []error{ReleaseFiles(container)}
	for _, tag := range shares {
		errs = append(errs, releaseShare(tag))
	}
	if len(shares) > 0 {
		errs = append(errs, forgetShares())
	}
	errs = append(errs, removeBundle(container))
	return errors.Join(errs...)
}

// removeBundle takes a bundle away. It goes to another place first: where a container was deleted
// that never ran, the task service may still call crun, which makes its log file in the bundle, and
// a directory into which something comes while it is emptied is not removed. There nobody finds it,
// and only what was on its way into it already can still come.
func removeBundle(container string) (err error) {
	if err := os.MkdirAll(api.RemovedPath(), 0o700); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(api.RemovedPath(), "")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, removeAll(dir)) }()
	err = os.Rename(api.BundlePath(container), filepath.Join(dir, "bundle"))
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	return err
}

// removeAll removes a directory, to which no more than a few files may still come.
func removeAll(dir string) (err error) {
	for range 10 {
		if err = os.RemoveAll(dir); !errors.Is(err, unix.ENOTEMPTY) {
			break
		}
	}
	return err
}

// releaseShare writes a share's data back and unmounts the submount that the
// kernel made for it when it was first used. It is unmounted all the same if its
// data cannot be written, which will not be better later.
func releaseShare(tag string) error {
	if err := api.CheckName("tag", tag); err != nil {
		return err
	}
	return SyncAndUnmount("share", tag, api.SharePath(tag))
}

// SyncAndUnmount writes the data of the file system at path back and unmounts it. For errors
// it is of a kind and has a name. That nothing is there is no error.
func SyncAndUnmount(kind, name, path string) error {
	dir, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err == nil {
		err = syncfs(dir)
		dir.Close()
	}
	if err != nil {
		err = fmt.Errorf("writing data back to %s %s failed: %w: some of what the container wrote is lost", kind, name, err)
	}
	return errors.Join(err, unmount.Path(path))
}

// syncfs is syncfs(2); a test has it fail.
var syncfs = func(dir *os.File) error { return unix.Syncfs(int(dir.Fd())) }

// forgetShares drops the idle directory entries that keep the shares' mounts on
// the host busy; waiting for the kernel to drop them does not help.
func forgetShares() error {
	if err := unix.Mount("", api.PoolPath(), "", unix.MS_REMOUNT, ""); err != nil {
		return &os.PathError{Op: "remount", Path: api.PoolPath(), Err: err}
	}
	return nil
}
