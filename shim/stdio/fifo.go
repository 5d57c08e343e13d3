package stdio

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
)

// openFIFO opens path and checks, on the descriptor, that it is a FIFO.
func openFIFO(mounts mountns.Namespace, path string, flags int) (*once, error) {
	file, err := mounts.OpenFile(path, flags|unix.O_NONBLOCK, 0)
	if err != nil {
		return nil, err
	}
	info, err := file.Stat()
	if err == nil && info.Mode().Type() != os.ModeNamedPipe {
		err = fmt.Errorf("it is no FIFO: %w", errdefs.ErrInvalidArgument)
	}
	if err != nil {
		file.Close()
		return nil, err
	}
	return &once{File: file}, nil
}

// once is a file that more than one owner may close.
type once struct {
	*os.File
	closing sync.Once
}

func (o *once) Close() (err error) {
	o.closing.Do(func() { err = o.File.Close() })
	return err
}

// reopen opens once more what a descriptor is of, whatever the path of that leads to by now
// (proc_pid_fd(5)). The file may be closed meanwhile.
func reopen(file *os.File, flags int) (opened *os.File, err error) {
	conn, err := file.SyscallConn()
	if err != nil {
		return nil, err
	}
	closed := conn.Control(func(fd uintptr) {
		opened, err = os.OpenFile(fmt.Sprintf("/proc/self/fd/%d", fd), flags, 0)
	})
	return opened, errors.Join(closed, err)
}

// outputFIFO is a client's FIFO for output. It is open for reading too, so that a client that leaves
// does not break the process's output: a detached client may come back.
type outputFIFO struct {
	*once
	ended context.Context // when the streams are closed
	end   context.CancelFunc
}

// openOutput opens a FIFO for output as soon as somebody has it open for reading, or at the latest
// when ctx ends. Until then it cannot be opened for writing alone (fifo(7)). A reader that waits in its
// open goes on with the first writer, who must stay: with none left it would read the end.
func openOutput(ctx context.Context, mounts mountns.Namespace, path string) (*outputFIFO, error) {
	named, err := openFIFO(mounts, path, unix.O_PATH)
	if err != nil {
		return nil, err
	}
	defer named.Close()
	var writer *os.File
	awaitReader(ctx, func() bool {
		writer, err = reopen(named.File, os.O_WRONLY|unix.O_NONBLOCK)
		return !errors.Is(err, unix.ENXIO)
	})
	defer writer.Close()
	if errors.Is(err, unix.ENXIO) && errors.Is(ctx.Err(), context.DeadlineExceeded) {
		log.G(ctx).Warnf("no client has opened %s for reading: the process goes on without one, and its output waits for one", path)
	}
	file, err := reopen(named.File, os.O_RDWR|unix.O_NONBLOCK)
	if err != nil {
		return nil, err
	}
	ended, end := context.WithCancel(context.Background())
	return &outputFIFO{&once{File: file}, ended, end}, nil
}

// Close lets go of the FIFO, read or not.
func (o *outputFIFO) Close() error {
	o.end()
	return o.once.Close()
}

// finish lets go of the FIFO, when all has been written, as soon as somebody has it open for reading
// or Close is called. A client that was not waited for, or left and comes back, may open its end later
// than this: with no writer left it would wait for one, and what was written would be gone. What waits
// for that is one of waiting.
func (o *outputFIFO) finish(waiting *sync.WaitGroup) {
	writer, err := reopen(o.File, os.O_WRONLY|unix.O_NONBLOCK) // it is its own reader: this does not fail with ENXIO
	o.once.Close()
	if err != nil {
		log.L.WithError(err).Debug("an output stream is closed, whether or not somebody reads it")
		return
	}
	if hasReader(writer) {
		writer.Close()
		return
	}
	waiting.Go(func() {
		defer writer.Close()
		awaitReader(o.ended, func() bool { return hasReader(writer) })
	})
}

// How often a FIFO is asked for its reader: soon at first, and seldom in the end, for a client
// that has left may never come back.
const (
	firstLook = 5 * time.Millisecond
	lastLook  = time.Second
)

// awaitReader waits until somebody has a FIFO open for reading, or until ctx ends. An open for writing
// would wait, too, but for each FIFO in a thread (fifo(7)).
func awaitReader(ctx context.Context, read func() bool) {
	for pause := firstLook; !read(); pause = min(2*pause, lastLook) {
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// hasReader tells whether somebody has a FIFO open for reading. Its writer has an error as long as
// nobody has (poll(2)).
func hasReader(writer *os.File) bool {
	conn, err := writer.SyscallConn()
	if err != nil {
		return true // nobody is to wait for what cannot be seen
	}
	reader := true
	_ = conn.Control(func(fd uintptr) {
		polled := []unix.PollFd{{Fd: int32(fd)}}
		if n, err := unix.Poll(polled, 0); err != nil || n > 0 && polled[0].Revents&unix.POLLERR != 0 {
			reader = false
		}
	})
	return reader
}
