package main

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/rawcall"
)

// changes are the events of inotify(7) that tell of a change.
var changes = []struct {
	bit  uint32
	name string
}{
	{unix.IN_MODIFY, "modify"},
	{unix.IN_ATTRIB, "attrib"},
	{unix.IN_CLOSE_WRITE, "close-write"},
	{unix.IN_CREATE, "create"},
	{unix.IN_DELETE, "delete"},
	{unix.IN_MOVED_FROM, "moved-from"},
	{unix.IN_MOVED_TO, "moved-to"},
	{unix.IN_DELETE_SELF, "delete-self"},
	{unix.IN_MOVE_SELF, "move-self"},
}

// watch DIR watches a directory and what is in it, says so, and prints each change that it is
// told, until a file named "stop" is created.
func watch(args []string) error {
	fd, err := unix.InotifyInit1(unix.IN_CLOEXEC)
	if err != nil {
		return err
	}
	paths, err := filepath.Glob(args[0] + "/*")
	if err != nil {
		return err
	}
	var mask uint32
	for _, change := range changes {
		mask |= change.bit
	}
	names := make(map[int32]string)
	for _, path := range append(paths, args[0]) {
		watched, err := unix.InotifyAddWatch(fd, path, mask)
		if err != nil {
			return err
		}
		names[int32(watched)] = filepath.Base(path)
	}
	fmt.Println("watching")
	buffer := make([]byte, 64<<10)
	for {
		n, err := rawcall.Retry(func() (int, error) { return unix.Read(fd, buffer) })
		if err != nil {
			return err
		}
		for rest := buffer[:n]; len(rest) > 0; {
			event := (*unix.InotifyEvent)(unsafe.Pointer(&rest[0]))
			end := unix.SizeofInotifyEvent + int(event.Len)
			name := string(bytes.TrimRight(rest[unix.SizeofInotifyEvent:end], "\x00"))
			fmt.Println(strings.TrimSpace(kind(event.Mask) + " " + names[event.Wd] + " " + name))
			if name == "stop" {
				return nil
			}
			rest = rest[end:]
		}
	}
}

// kind is what an event tells of.
func kind(mask uint32) string {
	for _, change := range changes {
		if mask&change.bit != 0 {
			return change.name
		}
	}
	return fmt.Sprintf("%#x", mask)
}

// fill FILE writes until it is refused, and prints how many bytes were taken, and what write,
// fsync and close said.
func fill(args []string) error {
	file, err := os.Create(args[0])
	if err != nil {
		return err
	}
	taken, block := 0, make([]byte, 64<<10)
	for err == nil {
		var n int
		n, err = file.Write(block)
		taken += n
	}
	fmt.Printf("%d %s, fsync %s, close %s\n", taken, name(err), name(file.Sync()), name(file.Close()))
	return nil
}
