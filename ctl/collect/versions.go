package collect

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"

	"golang.org/x/sys/unix"
)

// versions are what is installed here.
type versions struct {
	// Msbctl is this program's, Shim the one that containerd starts, and Kit what the kit says
	// of itself.
	Msbctl string `json:"msbctl"`
	Shim   string `json:"shim"`
	Kit    string `json:"kit"`
	// Kernel is the host's, with its build and machine (uname(2)).
	Kernel     []string `json:"kernel"`
	Containerd string   `json:"containerd"`
	QEMU       string   `json:"qemu"`
	// Libkrun is why it is not there, or empty.
	Libkrun string `json:"libkrun_missing,omitempty"`
	Files   []file `json:"files"`
}

// A file is one of the installation.
type file struct {
	Path string `json:"path"`
	Size int64  `json:"size"`
	Sum  string `json:"sha256"`
}

func (s Source) versions() (versions, error) {
	f := s.Facts
	v := versions{
		Msbctl: f.Version, Shim: f.Containerd.RuntimeVersion, Containerd: f.Containerd.Version, QEMU: f.QEMU.Version,
		Kernel: kernel(), Files: []file{},
	}
	if f.Krun != nil {
		v.Libkrun = f.Krun.Error()
	}
	notes, err := os.ReadFile(filepath.Join(f.Kit.Dir, "VERSIONS"))
	v.Kit = string(notes)
	errs := []error{err}
	paths := []string{s.Program, f.Kit.Shim}
	entries, err := os.ReadDir(f.Kit.Dir)
	errs = append(errs, err)
	for _, entry := range entries {
		paths = append(paths, filepath.Join(f.Kit.Dir, entry.Name()))
	}
	for _, path := range paths {
		if path == "" {
			continue
		}
		file, err := sumOf(path)
		errs = append(errs, err)
		if file.Sum != "" {
			v.Files = append(v.Files, file)
		}
	}
	return v, errors.Join(errs...)
}

// sumOf is empty for what is no regular file.
func sumOf(path string) (f file, err error) {
	stat, err := os.Stat(path)
	if err != nil || !stat.Mode().IsRegular() {
		return f, err
	}
	opened, err := os.Open(path)
	if err != nil {
		return f, err
	}
	defer opened.Close()
	sum := sha256.New()
	size, err := io.Copy(sum, opened)
	return file{path, size, hex.EncodeToString(sum.Sum(nil))}, err
}

// kernel is neither the host's name nor its domain's.
func kernel() []string {
	var name unix.Utsname
	if err := unix.Uname(&name); err != nil {
		return []string{}
	}
	return []string{unix.ByteSliceToString(name.Sysname[:]), unix.ByteSliceToString(name.Release[:]), unix.ByteSliceToString(name.Version[:]), unix.ByteSliceToString(name.Machine[:])}
}
