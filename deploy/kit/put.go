package kit

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// versionLength is the length of a version's name, in hexadecimal digits.
const versionLength = 16

// Put adds the kit in source as a version, if it is not there, and returns its name:
// the sum of its files. It is written beside the others and renamed when whole.
func (s Store) Put(source fs.FS) (version string, err error) {
	version, err = sum(source)
	if err != nil {
		return "", err
	}
	dir := filepath.Join(s.versions(), version)
	if have, err := sum(os.DirFS(dir)); err == nil && have == version {
		return version, nil
	}
	if err := os.MkdirAll(s.versions(), 0o755); err != nil {
		return "", err
	}
	// Prune removes what is left of either after a crash.
	unfinished, err := os.MkdirTemp(s.versions(), ".new-")
	if err != nil {
		return "", err
	}
	defer os.RemoveAll(unfinished)
	if err := os.Chmod(unfinished, 0o755); err != nil {
		return "", err
	}
	if err := copyTree(source, unfinished); err != nil {
		return "", err
	}
	// One that is there is damaged; processes may run from it all the same.
	damaged := filepath.Join(s.versions(), ".old-"+filepath.Base(unfinished))
	if err := os.Rename(dir, damaged); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return "", err
	}
	return version, os.Rename(unfinished, dir)
}

// sum is a name for the content: each file's path, whether it is a program, and what
// is in it.
func sum(source fs.FS) (string, error) {
	all := sha256.New()
	err := walk(source, func(path string, mode fs.FileMode, file fs.File) error {
		one := sha256.New()
		if _, err := io.Copy(one, file); err != nil {
			return err
		}
		_, err := fmt.Fprintf(all, "%q %o %x\n", path, mode, one.Sum(nil))
		return err
	})
	if err != nil {
		return "", err
	}
	return hex.EncodeToString(all.Sum(nil))[:versionLength], nil
}

func copyTree(source fs.FS, dir string) error {
	return walk(source, func(path string, mode fs.FileMode, file fs.File) error {
		target := filepath.Join(dir, path)
		if err := os.MkdirAll(filepath.Dir(target), 0o755); err != nil {
			return err
		}
		return write(target, mode, file)
	})
}

// write returns when the file is on the disk: a version that has its name must have
// its content after a power failure too.
func write(path string, mode fs.FileMode, content io.Reader) error {
	file, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, mode)
	if err != nil {
		return err
	}
	_, err = io.Copy(file, content)
	if err == nil {
		err = file.Chmod(mode) // whatever the umask
	}
	if err == nil {
		err = file.Sync()
	}
	return errors.Join(err, file.Close())
}

// walk calls do with each file, in the order of their paths. A kit has nothing but
// directories and files. Kubernetes mounts a ConfigMap's files without regard to
// what they are: only whether it is a program counts of a file's mode.
func walk(source fs.FS, do func(path string, mode fs.FileMode, file fs.File) error) error {
	return fs.WalkDir(source, ".", func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		if !entry.Type().IsRegular() {
			return fmt.Errorf("the kit has %s, which is no file", path)
		}
		file, err := source.Open(path)
		if err != nil {
			return err
		}
		defer file.Close()
		info, err := file.Stat()
		if err != nil {
			return err
		}
		mode := fs.FileMode(0o644)
		if info.Mode()&0o100 != 0 {
			mode = 0o755
		}
		return do(path, mode, file)
	})
}
