package main

import (
	"fmt"
	"io"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/kmsg"
)

// What is done at most with the files of one image, which say of themselves how many and how
// large they are.
const (
	imageFiles = 1000
	imageDepth = 16
	imageBytes = 8 << 20 // of all files of it
)

// kernelFault is the exit code after a fault of the kernel: it may hold locks for ever.
const kernelFault = 3

// images DIR FIRST mounts the images of a directory that belong to a privileged container, one
// after the other from the FIRSTth on, as the agent does, and uses the files in each. Before
// each it prints "trying NAME", and then what came of it. The file's extension is its type. Of
// an ext4 whose name begins with "panics" it leaves out what the agent asks for, so that the
// kernel does on an error what the image says.
func images(args []string) error {
	first, err := strconv.Atoi(args[1])
	if err != nil {
		return err
	}
	entries, err := os.ReadDir(args[0])
	if err != nil {
		return err
	}
	if err := unix.Mount("devtmpfs", "/dev", "devtmpfs", 0, ""); err != nil { // loop devices, and the kernel's log
		return err
	}
	place, err := os.MkdirTemp("/run", "image")
	if err != nil {
		return err
	}
	log, err := kmsg.Open()
	if err != nil {
		return err
	}
	for _, entry := range entries[min(first, len(entries)):] {
		fmt.Println("trying", entry.Name())
		result := make(chan string, 1)
		go func() { result <- useImage(filepath.Join(args[0], entry.Name()), place) }()
		fmt.Println(await(log, result))
	}
	fmt.Println("end")
	return nil
}

// await waits for a result, and adds what the kernel warned of meanwhile. After a fault of the
// kernel, whose thread never comes back, it prints that and ends the process.
func await(log kmsg.Log, result <-chan string) string {
	warned := ""
	look := func() {
		lines, _ := log.Read()
		for _, line := range lines {
			if strings.Contains(line, "WARNING: ") {
				warned += ", the kernel warned: " + line
			}
			for _, fault := range []string{"Oops", "BUG: ", "kernel BUG", "general protection fault"} {
				if strings.Contains(line, fault) {
					fmt.Println("fault", line)
					os.Exit(kernelFault)
				}
			}
		}
	}
	for {
		select {
		case text := <-result:
			look()
			return text + warned
		case <-time.After(100 * time.Millisecond):
			look()
		}
	}
}

// useImage mounts an image, uses its files, and unmounts it.
func useImage(file, place string) string {
	if err := mountImage(file, place); err != nil {
		return "refused " + name(err)
	}
	user := imageUser{errors: make(map[string]int)}
	user.read(place)
	if strings.HasSuffix(file, ".ext4") {
		user.write(place)
	}
	if err := unix.Unmount(place, 0); err != nil {
		user.note(err)
		user.note(unix.Unmount(place, unix.MNT_DETACH))
	}
	var told strings.Builder
	for _, name := range slices.Sorted(maps.Keys(user.errors)) {
		fmt.Fprintf(&told, " %s×%d", name, user.errors[name])
	}
	return fmt.Sprintf("mounted: %d files, %d bytes; errors:%s", user.files, user.bytes, told.String())
}

// mountImage mounts one as the agent does (guest/image).
func mountImage(file, place string) error {
	if strings.HasSuffix(file, ".erofs") {
		return unix.Mount(file, place, "erofs", unix.MS_RDONLY, "directio")
	}
	image, err := os.OpenFile(file, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer image.Close()
	control, err := os.OpenFile("/dev/loop-control", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer control.Close()
	number, err := unix.IoctlRetInt(int(control.Fd()), unix.LOOP_CTL_GET_FREE)
	if err != nil {
		return err
	}
	loop, err := os.OpenFile(fmt.Sprintf("/dev/loop%d", number), os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer loop.Close()
	config := unix.LoopConfig{Fd: uint32(image.Fd())}
	config.Info.Flags = unix.LO_FLAGS_AUTOCLEAR | unix.LO_FLAGS_DIRECT_IO
	if err := unix.IoctlLoopConfigure(int(loop.Fd()), &config); err != nil {
		return err
	}
	onError := "errors=remount-ro"
	if strings.HasPrefix(filepath.Base(file), "panics") {
		onError = ""
	}
	return unix.Mount(loop.Name(), place, "ext4", 0, onError)
}

// imageUser uses the files of an image, and counts the errors.
type imageUser struct {
	files  int
	bytes  int64
	errors map[string]int
}

func (u *imageUser) note(err error) {
	if err != nil {
		u.errors[name(err)]++
	}
}

// read looks at every file, and reads all that it has.
func (u *imageUser) read(root string) {
	var system unix.Statfs_t
	u.note(unix.Statfs(root, &system))
	_ = filepath.WalkDir(root, func(path string, entry fs.DirEntry, err error) error {
		u.note(err)
		if u.files++; u.files > imageFiles {
			return fs.SkipAll
		}
		if entry == nil || err != nil {
			return nil
		}
		_, err = attributesOf(path)
		u.note(err)
		var s unix.Stat_t
		if err := unix.Lstat(path, &s); err != nil {
			u.note(err)
			return nil
		}
		switch s.Mode & unix.S_IFMT {
		case unix.S_IFLNK:
			_, err := os.Readlink(path)
			u.note(err)
		case unix.S_IFREG:
			u.readFile(path)
		case unix.S_IFDIR:
			if strings.Count(strings.TrimPrefix(path, root), "/") > imageDepth {
				return fs.SkipDir
			}
		}
		return nil
	})
}

func (u *imageUser) readFile(path string) {
	file, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK|unix.O_NOFOLLOW, 0)
	if err != nil {
		u.note(err)
		return
	}
	defer file.Close()
	n, err := io.Copy(io.Discard, io.LimitReader(file, imageBytes-u.bytes))
	u.bytes += n
	u.note(err)
}

// write makes, changes and removes files.
func (u *imageUser) write(root string) {
	made, dir := filepath.Join(root, "made"), filepath.Join(root, "made-dir")
	u.note(os.WriteFile(made, make([]byte, 64<<10), 0o600))
	u.note(unix.Setxattr(made, "user.made", []byte("value"), 0))
	u.note(os.Mkdir(dir, 0o700))
	for i := range 20 {
		u.note(os.WriteFile(filepath.Join(dir, fmt.Sprint("file-", i)), []byte("made"), 0o600))
	}
	u.note(os.Rename(made, filepath.Join(dir, "renamed")))
	if file, err := os.Open(dir); err == nil {
		u.note(file.Sync())
		file.Close()
	}
	u.note(os.RemoveAll(dir))
	entries, err := os.ReadDir(root)
	u.note(err)
	for _, entry := range entries {
		u.note(os.RemoveAll(filepath.Join(root, entry.Name())))
	}
}
