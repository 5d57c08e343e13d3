package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"time"

	"golang.org/x/sys/unix"
)

// works are what programs do to files, by name. What they are done to is below a directory that
// furnish has made.
var works = map[string]func(dir string) error{
	"exec-small":  func(dir string) error { return execTimes(40, filepath.Join(dir, smallProgram), "true") },
	"exec-large":  func(dir string) error { return execTimes(3, filepath.Join(dir, largeProgram), "--version") },
	"find":        func(dir string) error { return walkFiles(filepath.Join(dir, manyFiles), lstat) },
	"read":        func(dir string) error { return walkFiles(filepath.Join(dir, manyFiles), readWhole) },
	"create":      createMany,
	"delete":      func(dir string) error { return os.RemoveAll(filepath.Join(dir, "new")) },
	"untar":       untar,
	"modules":     func(dir string) error { return modules(filepath.Join(dir, manyFiles)) },
	"write":       func(dir string) error { return sequential(dir, os.O_RDWR|os.O_CREATE|os.O_TRUNC, (*os.File).Write) },
	"read-back":   func(dir string) error { return sequential(dir, os.O_RDONLY, (*os.File).Read) },
	"fsync":       fsyncMany,
	"remove-file": func(dir string) error { return os.Remove(filepath.Join(dir, "large")) },
}

// Places below the directory, and sizes.
const (
	smallProgram = "busybox"
	largeProgram = "containerd"
	manyFiles    = "many"
	archive      = "many.tar"

	perDir       = 100
	mebibytes    = 256
	syncedWrites = 100
)

// work NAME DIR does one, and prints how long it took.
func work(args []string) error {
	do := works[args[0]]
	if do == nil {
		return fmt.Errorf("no work %s", args[0])
	}
	begin := time.Now()
	if err := do(args[1]); err != nil {
		return err
	}
	fmt.Println(time.Since(begin))
	return nil
}

// furnish DIR FILES BUSYBOX CONTAINERD makes what works are done to, with so many small files.
func furnish(args []string) error {
	dir := args[0]
	files, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return err
	}
	for name, from := range map[string]string{smallProgram: args[2], largeProgram: args[3]} {
		content, err := os.ReadFile(from)
		if err == nil {
			err = os.WriteFile(filepath.Join(dir, name), content, 0o755)
		}
		if err != nil {
			return err
		}
	}
	if err := smallFiles(filepath.Join(dir, manyFiles), files); err != nil {
		return err
	}
	return exec.Command(filepath.Join(dir, smallProgram), "tar", "-C", dir, "-cf", filepath.Join(dir, archive), manyFiles).Run()
}

// smallFiles makes files of 1 to 8 KiB, perDir in a directory.
func smallFiles(dir string, files int) error {
	content := make([]byte, 8<<10)
	for i := range content {
		content[i] = byte(i * i >> 5)
	}
	for i := range files {
		below := filepath.Join(dir, strconv.Itoa(i/perDir))
		if i%perDir == 0 {
			if err := os.MkdirAll(below, 0o755); err != nil {
				return err
			}
		}
		if err := os.WriteFile(filepath.Join(below, fmt.Sprintf("module%d.py", i)), content[:1<<10+i%8*896], 0o644); err != nil {
			return err
		}
	}
	return nil
}

// createMany creates as many small files as there are.
func createMany(dir string) error {
	there, err := os.ReadDir(filepath.Join(dir, manyFiles))
	if err != nil {
		return err
	}
	return smallFiles(filepath.Join(dir, "new"), len(there)*perDir)
}

func execTimes(times int, program string, arguments ...string) error {
	for range times {
		if err := exec.Command(program, arguments...).Run(); err != nil {
			return err
		}
	}
	return nil
}

func walkFiles(dir string, do func(path string) error) error {
	return filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || entry.IsDir() {
			return err
		}
		return do(path)
	})
}

func lstat(path string) error {
	_, err := os.Lstat(path)
	return err
}

func readWhole(path string) error {
	_, err := os.ReadFile(path)
	return err
}

// modules does what Python does to import 200 of them: it looks for each under names that are
// not there, opens it, and asks for its size.
func modules(dir string) error {
	for i := range 200 {
		base := filepath.Join(dir, strconv.Itoa(i/perDir), fmt.Sprintf("module%d", i))
		for _, suffix := range []string{"", ".cpython-313-x86_64-linux-gnu.so", ".abi3.so", ".so"} {
			if err := lstat(base + suffix); !errors.Is(err, fs.ErrNotExist) {
				return fmt.Errorf("%s%s: %w", base, suffix, err)
			}
		}
		if err := errors.Join(lstat(base+".py"), readWhole(base+".py")); err != nil {
			return err
		}
	}
	return nil
}

func untar(dir string) error {
	to := filepath.Join(dir, "new")
	if err := os.MkdirAll(to, 0o755); err != nil {
		return err
	}
	return exec.Command(filepath.Join(dir, smallProgram), "tar", "-C", to, "-xf", filepath.Join(dir, archive)).Run()
}

// sequential goes through a large file, and writes back what was written.
func sequential(dir string, flags int, do func(*os.File, []byte) (int, error)) error {
	file, err := os.OpenFile(filepath.Join(dir, "large"), flags, 0o644)
	if err != nil {
		return err
	}
	defer file.Close()
	chunk := make([]byte, 1<<20)
	for range mebibytes {
		if _, err := do(file, chunk); err != nil {
			return err
		}
	}
	return file.Sync()
}

// fsyncMany writes blocks of 4 KiB, each through to the disk.
func fsyncMany(dir string) error {
	file, err := os.Create(filepath.Join(dir, "synced"))
	if err != nil {
		return err
	}
	defer file.Close()
	block := make([]byte, 4<<10)
	for range syncedWrites {
		if _, err := file.Write(block); err != nil {
			return err
		}
		if err := unix.Fdatasync(int(file.Fd())); err != nil {
			return err
		}
	}
	return nil
}
