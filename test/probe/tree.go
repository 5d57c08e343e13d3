package main

import (
	"crypto/sha256"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// tree ROOT [PATH ...] lists what is below a directory but for some paths, a line for each
// file: all that a program can see of it, but for what differs between file systems. Those
// are a directory's size and links, and times of access and change.
func tree(args []string) error {
	root, without := args[0], args[1:]
	return filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		relative, err := filepath.Rel(root, path)
		if err != nil {
			return err
		}
		if slices.Contains(without, "/"+relative) {
			if entry.IsDir() {
				return fs.SkipDir
			}
			return nil
		}
		line, err := describe(path, relative == ".")
		if err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
		fmt.Printf("%q%s\n", relative, line)
		return nil
	})
}

// describe is what is said of one file. The root's time is that of the last entry that was
// made in it, such as the place of a mount.
func describe(path string, isRoot bool) (string, error) {
	var s unix.Stat_t
	if err := unix.Lstat(path, &s); err != nil {
		return "", err
	}
	var line strings.Builder
	fmt.Fprintf(&line, " mode=%o owner=%d:%d", s.Mode, s.Uid, s.Gid)
	if !isRoot {
		fmt.Fprintf(&line, " mtime=%d", s.Mtim.Sec)
	}
	if s.Mode&unix.S_IFMT != unix.S_IFDIR {
		fmt.Fprintf(&line, " links=%d size=%d device=%d:%d", s.Nlink, s.Size, unix.Major(s.Rdev), unix.Minor(s.Rdev))
	}
	switch s.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		target, err := os.Readlink(path)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&line, " target=%q", target)
	case unix.S_IFREG:
		sum, err := sumOf(path)
		if err != nil {
			return "", err
		}
		fmt.Fprintf(&line, " sha256=%x", sum)
	}
	attributes, err := attributesOf(path)
	return line.String() + attributes, err
}

func sumOf(path string) ([]byte, error) {
	file, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer file.Close()
	hash := sha256.New()
	_, err = io.Copy(hash, file)
	return hash.Sum(nil), err
}

// attributesOf are the extended attributes of a file, sorted.
func attributesOf(path string) (string, error) {
	names := make([]byte, 64<<10) // XATTR_LIST_MAX
	n, err := unix.Llistxattr(path, names)
	if err != nil {
		return "", err
	}
	var line strings.Builder
	for _, name := range slices.Sorted(strings.SplitSeq(strings.TrimRight(string(names[:n]), "\x00"), "\x00")) {
		if name == "" {
			continue
		}
		value := make([]byte, 64<<10) // XATTR_SIZE_MAX
		n, err := unix.Lgetxattr(path, name, value)
		if err != nil {
			return "", fmt.Errorf("%s: %w", name, err)
		}
		fmt.Fprintf(&line, " %s=%q", name, value[:n])
	}
	return line.String(), nil
}
