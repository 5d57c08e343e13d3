package jail

import (
	"fmt"
	"os"

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

// executable is the path that a child of this process executes. It is no number of the child's own
// descriptors, because what is given to the child takes these. The kernel names a process after the last
// element of it, so the program gives itself its name (prctl(2), PR_SET_NAME).
func (p Program) executable() string {
	if p.File == nil {
		return p.Path
	}
	return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), p.File.Fd())
}
