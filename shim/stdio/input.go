package stdio

import (
	"fmt"
	"net"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
)

// input is a process's stdin on the host. It is waiting until start opens the
// client's FIFO, then open, and closed for good by close.
type input struct {
	path   string // the client's FIFO
	mounts mountns.Namespace
	conn   net.Conn // to the guest; set by Connect, and owned by Streams

	copies sync.WaitGroup // added to under mu, while open

	mu       sync.Mutex
	state    inputState // guarded by mu
	released bool       // there is no keeper any more, or will be none; guarded by mu
	reader   *once      // nil while waiting; guarded by mu
	// keeper is a writer of the shim's own, so that the input does not end before
	// CloseStdin. nil while waiting; guarded by mu.
	keeper *once
}

type inputState int

const (
	inputWaiting inputState = iota
	inputOpen
	inputClosed
)

// start opens the FIFO and begins to copy.
func (i *input) start() error {
	i.mu.Lock()
	defer i.mu.Unlock()
	switch i.state {
	case inputOpen:
		return nil
	case inputClosed:
		return fmt.Errorf("opening stdin %s: the streams of the process were closed: %w", i.path, errdefs.ErrFailedPrecondition)
	}
	reader, err := openFIFO(i.mounts, i.path, unix.O_RDONLY)
	if err != nil {
		return wrap("stdin", i.path, err)
	}
	keeper, err := openFIFO(i.mounts, i.path, unix.O_WRONLY)
	if err != nil {
		reader.Close()
		return wrap("stdin", i.path, err)
	}
	if i.released {
		keeper.Close()
	}
	i.reader, i.keeper, i.state = reader, keeper, inputOpen
	i.copies.Go(func() { i.copy(reader, keeper) })
	i.copies.Go(func() { i.watch(reader, keeper) })
	return nil
}

// copy sends the input and its end. Nobody reads the FIFO then, which its writers
// see.
func (i *input) copy(reader, keeper *once) {
	if err := buffers.Copy(i.conn, reader); err != nil {
		log.L.WithError(err).Debug("an input stream broke off")
	}
	api.CloseWrite(i.conn)
	reader.Close()
	keeper.Close()
}

// watch waits until the guest ends the stream, as it does when the process has
// closed its stdin: the client's writes fail from then on. The guest sends nothing
// on this stream, so one read is enough.
func (i *input) watch(reader, keeper *once) {
	_, _ = i.conn.Read(make([]byte, 1))
	reader.Close()
	keeper.Close()
}

// release closes the shim's own writer, now or as soon as there is one.
func (i *input) release() {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.released = true
	if i.state == inputOpen {
		i.keeper.Close()
	}
}

// close closes the FIFO for good. The copies end when the stream does.
func (i *input) close() {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.state == inputOpen {
		i.reader.Close()
		i.keeper.Close()
	}
	i.state = inputClosed
}
