// Package kit keeps msb's kit on a node: a directory for each version, and a link to
// the one that new VMs are started from.
//
//	/opt/msb/versions/1f0c…/bin/containerd-shim-msb-v2
//	/opt/msb/versions/1f0c…/lib/msb/…
//	/opt/msb/versions/1f0c…/config.toml
//	/opt/msb/current -> versions/1f0c…
//	/opt/msb/holder     who installed it last
//
// A shim takes its kit from beside itself, by its real path. So a VM that runs keeps
// the version that it was started from, and that one is removed when no process of it
// is left.
package kit

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/rawcall"
)

// Store is the directory with the versions.
type Store struct {
	Dir  string // such as /opt/msb
	Proc string // the node's procfs
}

func (s Store) versions() string { return filepath.Join(s.Dir, "versions") }
func (s Store) current() string  { return filepath.Join(s.Dir, "current") }
func (s Store) holder() string   { return filepath.Join(s.Dir, "holder") }

// Lock keeps others of our kind away until unlock is called.
func (s Store) Lock() (unlock func(), err error) {
	for {
		if err := os.MkdirAll(s.Dir, 0o755); err != nil {
			return nil, err
		}
		dir, err := os.Open(s.Dir)
		if err != nil {
			return nil, err
		}
		if err := rawcall.Again(func() error { return unix.Flock(int(dir.Fd()), unix.LOCK_EX) }); err != nil {
			return nil, errors.Join(fmt.Errorf("locking %s: %w", s.Dir, err), dir.Close())
		}
		// Whoever had the lock before may have removed the directory.
		locked, err := dir.Stat()
		if err != nil {
			return nil, errors.Join(err, dir.Close())
		}
		if there, err := os.Stat(s.Dir); err == nil && os.SameFile(locked, there) {
			return func() { _ = dir.Close() }, nil
		}
		_ = dir.Close()
	}
}

// Holder is who installed last; "" is nobody.
func (s Store) Holder() (string, error) {
	holder, err := os.ReadFile(s.holder())
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return string(holder), err
}

// Hold makes somebody the one who installed last.
func (s Store) Hold(who string) error {
	if who == "" {
		return os.Remove(s.holder())
	}
	if err := os.WriteFile(s.holder()+".new", []byte(who), 0o644); err != nil {
		return err
	}
	return os.Rename(s.holder()+".new", s.holder())
}

// Current is the version that new VMs are started from; "" is none.
func (s Store) Current() (string, error) {
	target, err := os.Readlink(s.current())
	if errors.Is(err, fs.ErrNotExist) {
		return "", nil
	}
	return filepath.Base(target), err
}

// Use starts new VMs from a version; "" is none.
func (s Store) Use(version string) error {
	if version == "" {
		if err := os.Remove(s.current()); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return nil
	}
	link := s.current() + ".new"
	if err := os.Remove(link); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	if err := os.Symlink(filepath.Join("versions", version), link); err != nil {
		return err
	}
	return os.Rename(link, s.current())
}

// Prune removes every version but the current and those that processes run from,
// and returns the processes of versions that are not current.
func (s Store) Prune() (inUse []int, err error) {
	current, err := s.Current()
	if err != nil {
		return nil, err
	}
	entries, err := os.ReadDir(s.versions())
	if err != nil && !errors.Is(err, fs.ErrNotExist) {
		return nil, err
	}
	running, err := s.running()
	if err != nil {
		return nil, err
	}
	for _, entry := range entries {
		if entry.Name() == current {
			continue
		}
		dir := filepath.Join(s.versions(), entry.Name())
		pids, err := running.of(dir)
		if err != nil {
			return nil, err
		}
		if len(pids) > 0 {
			inUse = append(inUse, pids...)
		} else if err := os.RemoveAll(dir); err != nil {
			return nil, err
		}
	}
	slices.Sort(inUse)
	return inUse, nil
}

// Remove removes the store when no version is left in it.
func (s Store) Remove() error {
	if err := os.Remove(s.versions()); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	return os.Remove(s.Dir)
}

// A fileID tells one file from all others.
type fileID struct{ dev, inode uint64 }

func idOf(info fs.FileInfo) fileID {
	stat := info.Sys().(*syscall.Stat_t)
	return fileID{stat.Dev, stat.Ino}
}

// programs says which processes run a program.
type programs map[fileID][]int

func (s Store) running() (programs, error) {
	entries, err := os.ReadDir(s.Proc)
	if err != nil {
		return nil, err
	}
	running := programs{}
	for _, entry := range entries {
		pid, err := strconv.Atoi(entry.Name())
		if err != nil {
			continue
		}
		// A kernel thread has no program, and a process may be gone by now.
		if info, err := os.Stat(filepath.Join(s.Proc, entry.Name(), "exe")); err == nil {
			running[idOf(info)] = append(running[idOf(info)], pid)
		}
	}
	return running, nil
}

func (p programs) of(dir string) (pids []int, err error) {
	err = filepath.WalkDir(dir, func(_ string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		info, err := entry.Info()
		if err != nil {
			return err
		}
		pids = append(pids, p[idOf(info)]...)
		return nil
	})
	return pids, err
}
