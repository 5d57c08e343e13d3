// Package spare has microVMs boot before anybody needs them, each in a process that waits
// to become the daemon of a shim.
//
//	Refill    a shim whose container runs starts a spare (refill.go)
//	Fill      so does a process that an operator runs (fill.go)
//	Wait      the spare boots its VM, and waits (wait.go)
//	Take      the "start" of another shim hands over to it what a daemon needs (take.go)
//
// From then on it is that shim's daemon, as if it had been started for it. A spare is used
// once; no container was ever in it. There is no daemon that keeps spares: one whose
// containerd ends, that nobody needs for a while, or that would not be made so any more,
// ends by itself.
//
// Spares wait in directories that only root may enter:
//
//	/run/msb/spares/<key>/<size>-<pid>/lock     locked by the spare for as long as it lives
//	                                  /waiting  there until a start is accepted, or it is to end
//	                                  /socket   there while it waits for one
//
// The key is a hash of all that a VM is made of. A start looks only for spares of its own.
package spare

import (
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"

	"github.com/containerd/containerd/v2/version"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/rawcall"
	"github.com/msb-runtime/containerd-shim-msb/shim/config"
	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
)

// Root is the directory of all spares.
const Root = "/run/msb/spares"

// Files of a spare's directory.
const (
	lockFile    = "lock"
	waitingFile = "waiting"
	socketFile  = "socket"
)

// A Pool is the spares that are alike but for their size.
type Pool struct {
	root, dir string
	limits    config.Spare
}

// Open is the pool of a configuration, for the containerd that has an address and is in a
// mount namespace. It makes nothing.
func Open(configuration config.Config, address string, mounts mountns.Namespace) (Pool, error) {
	key, err := keyOf(configuration, address, mounts)
	if err != nil {
		return Pool{}, fmt.Errorf("what spares are made of: %w", err)
	}
	return Pool{Root, filepath.Join(Root, key), configuration.Spare}, nil
}

// keyOf is the name of all that a VM is made of, in the form of a file name: program and kit,
// as they were installed, the configuration, what of the host a guest is told at its boot, and
// for whom it is.
func keyOf(configuration config.Config, address string, mounts mountns.Namespace) (string, error) {
	parameters, err := sandbox.Parameters()
	if err != nil {
		return "", err
	}
	namespace, err := mounts.Identity()
	if err != nil {
		return "", err
	}
	self, err := os.Executable()
	if err != nil {
		return "", err
	}
	files, err := stampsOf(self, configuration.Kit)
	if err != nil {
		return "", err
	}
	all, err := json.Marshal([]any{version.Version, configuration, parameters, address, namespace, files})
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(all)
	return hex.EncodeToString(sum[:8]), nil
}

// stampsOf tell a file, and those of a directory, from what may be installed in their places.
func stampsOf(file, dir string) (stamps []string, err error) {
	paths := []string{file}
	entries, err := os.ReadDir(dir)
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		paths = append(paths, filepath.Join(dir, entry.Name()))
	}
	for _, path := range paths {
		var stat unix.Stat_t
		if err := unix.Stat(path, &stat); err != nil {
			return nil, &os.PathError{Op: "stat", Path: path, Err: err}
		}
		stamps = append(stamps, fmt.Sprint(path, stat.Dev, stat.Ino, stat.Size, stat.Mtim, stat.Ctim))
	}
	return stamps, nil
}

// prefix begins the names of spares of a size.
func prefix(size spec.Size) string { return fmt.Sprintf("%dx%d-", size.CPUs, size.Memory) }

// waiting are the names of the spares that no start was handed over to yet, of a size if
// that is not zero. Dead ones may be among them.
func (p Pool) waiting(size spec.Size) ([]string, error) {
	entries, err := os.ReadDir(p.dir)
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	var names []string
	for _, entry := range entries {
		if size != (spec.Size{}) && !strings.HasPrefix(entry.Name(), prefix(size)) {
			continue
		}
		if _, err := os.Stat(filepath.Join(p.dir, entry.Name(), waitingFile)); err == nil {
			names = append(names, entry.Name())
		}
	}
	return names, nil
}

// socket is the path of a spare's.
func (p Pool) socket(name string) string { return filepath.Join(p.dir, name, socketFile) }

// A place is the directory of one spare, with its lock.
type place struct {
	dir  string
	lock *os.File
}

// errEnough says that no spare of a size is needed.
var errEnough = errors.New("there are enough spares")

// reserve makes the directory of a spare of a size, unless there are enough. What dead ones
// have left it takes away.
func (p Pool) reserve(size spec.Size) (*place, error) {
	all, err := p.sweep()
	if err != nil {
		return nil, err
	}
	defer all.Close()
	enough, err := p.enough(size)
	if err != nil {
		return nil, err
	}
	if enough {
		return nil, errEnough
	}
	return newPlace(filepath.Join(p.dir, fmt.Sprint(prefix(size), os.Getpid())))
}

// needs tells whether a spare of a size is needed, and allowed. Dead ones do not count: what
// they have left is taken away.
func (p Pool) needs(size spec.Size) (bool, error) {
	all, err := p.sweep()
	if err != nil {
		return false, err
	}
	defer all.Close()
	enough, err := p.enough(size)
	return !enough, err
}

// sweep takes away what dead spares have left, and returns the lock of all pools.
func (p Pool) sweep() (*os.File, error) {
	if err := os.MkdirAll(p.root, 0o700); err != nil {
		return nil, err
	}
	all, err := lock(filepath.Join(p.root, lockFile), unix.LOCK_EX)
	if err != nil {
		return nil, err
	}
	// What cannot be taken away is in nobody's way.
	if err := sweep(p.root); err != nil {
		log.L.WithError(err).Warn("taking away what dead spares have left")
	}
	return all, nil
}

// enough tells whether no spare of a size is needed, or allowed.
func (p Pool) enough(size spec.Size) (bool, error) {
	same, err := p.waiting(size)
	if err != nil {
		return false, err
	}
	all, err := p.waiting(spec.Size{})
	return len(same) >= p.limits.Count || len(all) >= p.limits.Max, err
}

// newPlace makes a directory, whose lock this process holds.
func newPlace(dir string) (_ *place, err error) {
	if err := makeNew(dir); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, Remove(dir))
		}
	}()
	p := &place{dir: dir}
	if err := p.offer(); err != nil {
		return nil, err
	}
	p.lock, err = lock(filepath.Join(dir, lockFile), unix.LOCK_EX|unix.LOCK_NB)
	if err != nil {
		return nil, err
	}
	return p, nil
}

// offer has the spare wait for a start.
func (p *place) offer() error { return os.WriteFile(filepath.Join(p.dir, waitingFile), nil, 0o600) }

// waits tells whether it does.
func (p *place) waits() bool {
	_, err := os.Lstat(filepath.Join(p.dir, waitingFile))
	return err == nil
}

// claim decides, once, what becomes of a spare: it accepts a start, or somebody else has it
// end. Only one of them takes the file away.
func claim(dir string) error { return os.Remove(filepath.Join(dir, waitingFile)) }

// makeNew makes a directory, which must not be there: it would be another's. A spare that ends
// may take the pool's directory away at any moment.
func makeNew(dir string) error {
	for {
		if err := os.MkdirAll(filepath.Dir(dir), 0o700); err != nil {
			return err
		}
		if err := os.Mkdir(dir, 0o700); !errors.Is(err, fs.ErrNotExist) {
			return err
		}
	}
}

// remove takes the directory away.
func (p *place) remove() error { return errors.Join(Remove(p.dir), p.lock.Close()) }

// lock opens a file and locks it (flock(2)), until it is closed.
func lock(path string, how int) (*os.File, error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	if err := rawcall.Again(func() error { return unix.Flock(int(file.Fd()), how) }); err != nil {
		return nil, errors.Join(&os.PathError{Op: "flock", Path: path, Err: err}, file.Close())
	}
	return file, nil
}

// sweep takes away what dead spares have left below a root, whose lock the caller has.
func sweep(root string) error {
	dirs, err := filepath.Glob(filepath.Join(root, "*", "*"))
	if err != nil {
		return err
	}
	var errs []error
	for _, dir := range dirs {
		held, err := lock(filepath.Join(dir, lockFile), unix.LOCK_EX|unix.LOCK_NB)
		if errors.Is(err, unix.EWOULDBLOCK) || errors.Is(err, fs.ErrNotExist) {
			continue // it lives, or has just gone
		}
		if err != nil {
			errs = append(errs, err)
			continue
		}
		errs = append(errs, Remove(dir), held.Close())
	}
	return errors.Join(errs...)
}

// Remove takes away the directory of a dead spare, or of one that ends, of which it knows
// every name: nothing else is removed.
func Remove(dir string) error {
	var errs []error
	for _, name := range []string{sandbox.TreesDir, socketFile, waitingFile, lockFile, ""} {
		if err := os.Remove(filepath.Join(dir, name)); err != nil && !errors.Is(err, fs.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	_ = os.Remove(filepath.Dir(dir)) // the pool's stays as long as something is in it
	return errors.Join(errs...)
}
