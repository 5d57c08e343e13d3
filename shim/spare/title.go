package spare

import (
	"os"
	"strings"
	"unsafe"
)

// titleRoom is how many bytes a spare's arguments have beside what they say, for those of the
// daemon that it becomes: a name of containerd has 76 at most.
const titleRoom = 512

// padding is the last argument of a spare.
func padding() string { return strings.Repeat(" ", titleRoom) }

// setTitle shows arguments as this process's, to who lists processes (proc_pid_cmdline(5)), in
// the place where the kernel has put those that it was started with. What has no room is cut
// off. It is for a process that was started with padding, before os.Args is changed.
func setTitle(args []string) {
	first, last := unsafe.StringData(os.Args[0]), os.Args[len(os.Args)-1]
	end := uintptr(unsafe.Pointer(unsafe.StringData(last))) + uintptr(len(last))
	room := unsafe.Slice(first, end-uintptr(unsafe.Pointer(first)))
	// Go's strings are this memory itself: nobody may need them any more.
	title := strings.Join(append(os.Args[:1:1], args...), "\x00")
	title = strings.Clone(title)
	clear(room[copy(room, title):])
}
