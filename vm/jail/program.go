package jail

import (
	"fmt"
	"os"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// A Program is an executable of the host's.
type Program struct {
	// Path is its absolute path.
	Path string
	// File is it, opened with O_PATH: it is what is executed, and not what is at its path by then. Nil
	// leaves it to the path, and to who starts it to say what is wrong there.
	File *os.File
}

// OpenProgram opens the program at a path, if it can be. The caller closes it.
func OpenProgram(path string) Program {
	file, err := os.OpenFile(path, unix.O_PATH|unix.O_CLOEXEC, 0)
	if err != nil {
		return Program{Path: path}
	}
	return Program{path, file}
}

// Close closes it. What runs of it goes on.
func (p Program) Close() error {
	if p.File == nil {
		return nil
	}
	return p.File.Close()
}

// execute calls start with the path that a child of this process executes. While it does, the program
// stays open: a number that was closed may be another file's by the time of the exec. One that is closed
// already is ErrFailedPrecondition: it was its VM's, which has ended.
//
// The path is no number of the child's own descriptors, because what is given to the child takes these.
// The kernel names a process after the last element of it, so the program gives itself its name
// (prctl(2), PR_SET_NAME).
func (p Program) execute(start func(path string) error) error {
	if p.File == nil {
		return start(p.Path)
	}
	conn, err := p.File.SyscallConn()
	if err != nil {
		return err
	}
	var started error
	err = conn.Control(func(fd uintptr) { started = start(fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), fd)) })
	if err != nil {
		return fmt.Errorf("the VM was stopped: %w", errdefs.ErrFailedPrecondition)
	}
	return started
}
