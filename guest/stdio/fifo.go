package stdio

import (
	"errors"
	"io"
	"os"
	"time"

	"golang.org/x/sys/unix"
)

// The agent opens its ends of FIFOs so that no open(2) waits for the other end, neither its own nor the
// task service's. One that waits keeps what Go's scheduler runs goroutines on, of which a guest with one
// processor has one, until the scheduler looks for such calls: by a timer, at which all of the agent has
// stood still, and which is an exit of the VM.

// An end is the agent's end of a FIFO. Close ends what waits in the others.
type end interface {
	// copy copies to or from a stream of the host's, until one side ends.
	copy(host io.ReadWriter) error
	io.Closer
}

// open makes a FIFO and opens the agent's end.
func open(path string, input bool) (opened end, err error) {
	if err := unix.Mkfifo(path, 0o600); err != nil {
		return nil, &os.PathError{Op: "mkfifo", Path: path, Err: err}
	}
	if input {
		opened, err = openInput(path)
	} else {
		opened, err = openOutput(path)
	}
	if err != nil {
		err = errors.Join(err, os.Remove(path))
	}
	return opened, err
}

// output is the end of what a process writes.
type output struct{ *os.File }

func openOutput(path string) (end, error) {
	file, err := os.OpenFile(path, unix.O_RDONLY|unix.O_NONBLOCK, 0)
	return output{file}, err
}

func (o output) copy(host io.ReadWriter) error {
	if err := o.awaitWriter(); err != nil {
		return err
	}
	return buffers.Copy(host, o)
}

// awaitWriter waits until there is something to read, or somebody has had the FIFO open for writing and
// let go of it. Before that a read says that it has ended (fifo(7)), but poll(2) says nothing.
func (o output) awaitWriter() error {
	conn, err := o.SyscallConn()
	if err != nil {
		return err
	}
	if conn.Read(func(fd uintptr) bool { return poll(fd, unix.POLLIN) != 0 }) != nil {
		return os.ErrClosed
	}
	return nil
}

// firstLook is the pause before an input is asked again for its reader. Pauses double up to lastLook:
// together they are a second, and then nobody is to come any more.
const firstLook = time.Millisecond

// lastLook is the longest pause. A test changes it.
var lastLook = 512 * time.Millisecond

// input is the end of what a process reads.
type input struct {
	writer *os.File
	// keeper is its reader and its writer until begin. Who opens the FIFO finds the other end.
	keeper *os.File
	closed chan struct{}
}

func openInput(path string) (end, error) {
	keeper, err := os.OpenFile(path, unix.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	writer, err := os.OpenFile(path, unix.O_WRONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, errors.Join(err, keeper.Close())
	}
	return input{writer, keeper, make(chan struct{})}, nil
}

func (i input) copy(host io.ReadWriter) error {
	if err := buffers.Copy(i, host); err != nil {
		return err
	}
	return i.begin() // who comes only now is to see the end, and not to wait for a writer
}

// Write implements io.Writer.
func (i input) Write(p []byte) (int, error) {
	if err := i.begin(); err != nil {
		return 0, err
	}
	return i.writer.Write(p)
}

// begin leaves the reading to the process: from then on a write says when nobody reads any more. The
// host sends when it has been told that the process runs, and so the FIFO has a reader, or had one. What
// containerd's task service has begun to open by then is waited for, because that is done beside.
func (i input) begin() error {
	if i.keeper.Close() != nil {
		return nil // it has begun
	}
	for pause := firstLook; !i.hasReader(); pause *= 2 {
		if pause > lastLook {
			return &os.PathError{Op: "write", Path: i.writer.Name(), Err: unix.EPIPE}
		}
		select {
		case <-i.closed:
			return os.ErrClosed
		case <-time.After(pause):
		}
	}
	return nil
}

// hasReader tells whether somebody has the FIFO open for reading. Its writer has an error as long as
// nobody has (poll(2)).
func (i input) hasReader() (has bool) {
	conn, err := i.writer.SyscallConn()
	if err != nil {
		return true // a write will say what is wrong
	}
	_ = conn.Control(func(fd uintptr) { has = poll(fd, 0)&unix.POLLERR == 0 })
	return has
}

// Close implements io.Closer. It is called once.
func (i input) Close() error {
	close(i.closed)
	_ = i.keeper.Close() // it may have begun
	return i.writer.Close()
}

// poll is poll(2) without waiting: what of some events is there, or what is wrong.
func poll(fd uintptr, events int16) int16 {
	fds := []unix.PollFd{{Fd: int32(fd), Events: events}}
	if _, err := unix.Poll(fds, 0); err != nil {
		return 0
	}
	return fds[0].Revents
}
