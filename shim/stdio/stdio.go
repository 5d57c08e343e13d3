// Package stdio carries the standard streams of a process between the guest and
// what containerd's client named for them on the host: FIFOs, a file
// ("file://"), or a logging program ("binary://"), as the runc shim does
// (containerd, docs/runtime-v2.md, "IO").
package stdio

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/containerd/log"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/internal/copying"
	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
)

const (
	// chunk is the size of a copy, in bytes.
	chunk = 64 << 10
	// idle is how long output may at least stand still before a deletion goes on
	// without the rest, and at most twice that: it is looked at this often. The runc
	// shim also gives up on a reader that does not read.
	idle = 2 * time.Second
	// longest bounds the wait for output all the same: a hostile guest may send
	// a byte now and then, for ever.
	longest = 20 * time.Second
	// ClientsTurn is how long a client is waited for that does not open its ends of FIFOs for output.
	// The runc shim waits for ever. A client opens them before it asks for the process, but on another
	// thread (containerd's fifo), which a busy machine may have come late.
	ClientsTurn = 10 * time.Second
	// farewell is how long Close waits for streams whose other end does not take
	// their end.
	farewell = time.Second
)

// buffers are for copies: those of an exec's streams are most of what the shim would have to collect
// after it.
var buffers = copying.NewBuffers(chunk)

// Config names a process's streams on the host, as in a task request. An empty
// one is not there.
type Config struct {
	Stdin, Stdout, Stderr string
	Terminal              bool
	// Mounts is the mount namespace of FIFOs and files.
	Mounts mountns.Namespace
	// OpenedWithin is how long Open waits for the client to open its ends of FIFOs for output. Zero is
	// not at all.
	OpenedWithin time.Duration
}

// A Dialer opens streams to the agent, all in one round trip. After an error none is open.
type Dialer interface {
	DialAll(context.Context, ...*api.StreamHeader) ([]net.Conn, error)
}

// Streams are the open standard streams of one process. When they are connected, all methods
// may be called at the same time.
type Streams struct {
	// Stdin, Stdout and Stderr are the FIFOs in the guest, empty where the
	// configuration was. Until Connect they are only names.
	Stdin, Stdout, Stderr string

	// Set by Open and not changed after it.
	ids     []string
	headers []*api.StreamHeader // for each id
	input   *input              // nil without stdin
	outputs []io.Writer         // for the last of ids
	sinks   []io.Closer

	conns []net.Conn // for each id; set by Connect

	output sync.WaitGroup // copies of output
	unread sync.WaitGroup // what is copied and has no reader yet; added to by copies
	moved  atomic.Int64   // bytes of output so far
	close  sync.Once
}

// Open opens the client's ends of output and names the streams, which are not open in the guest
// before Connect. id names the process for a logging program. The caller closes the streams;
// after an error nothing is open.
func Open(ctx context.Context, id string, config Config) (*Streams, error) {
	sinks, err := openSinks(ctx, id, config)
	if err != nil {
		return nil, err
	}
	s := &Streams{sinks: sinks.closers}
	if config.Stdin != "" {
		s.input = &input{path: config.Stdin, mounts: config.Mounts}
		s.Stdin = s.name(api.StdioStream_INPUT)
	}
	for _, out := range []struct {
		sink io.Writer
		path *string
	}{{sinks.stdout, &s.Stdout}, {sinks.stderr, &s.Stderr}} {
		if out.sink != nil {
			s.outputs = append(s.outputs, out.sink)
			*out.path = s.name(api.StdioStream_OUTPUT)
		}
	}
	return s, nil
}

// name names one more stream, and returns its FIFO in the guest.
func (s *Streams) name(direction api.StdioStream_Direction) string {
	id := rand.Text()
	s.ids = append(s.ids, id)
	s.headers = append(s.headers, &api.StreamHeader{Purpose: &api.StreamHeader_Stdio{
		Stdio: &api.StdioStream{Id: id, Direction: direction},
	}})
	return api.StdioPath(id)
}

// Connect opens the streams in the guest, and copies output from then on; input waits for
// StartInput. It is called once, and not at the same time as anything else.
func (s *Streams) Connect(ctx context.Context, dialer Dialer) error {
	conns, err := dialer.DialAll(ctx, s.headers...)
	if err != nil {
		return err
	}
	s.conns = conns
	if s.input != nil {
		s.input.conn, conns = conns[0], conns[1:]
	}
	for i, conn := range conns {
		s.output.Add(1)
		go s.drain(ctx, s.outputs[i], conn)
	}
	return nil
}

// drain copies one output stream, after which the reader of a FIFO sees its end. Other sinks
// are both streams', and closed with them.
func (s *Streams) drain(ctx context.Context, sink io.Writer, conn net.Conn) {
	defer s.output.Done()
	if fifo, ok := sink.(*outputFIFO); ok {
		defer fifo.finish(&s.unread)
	}
	if err := buffers.Copy(counter{sink, &s.moved}, conn); err != nil {
		log.G(ctx).WithError(err).Debug("an output stream broke off")
	}
}

// counter counts what was written through it.
type counter struct {
	io.Writer
	n *atomic.Int64
}

func (c counter) Write(p []byte) (int, error) {
	n, err := c.Writer.Write(p)
	c.n.Add(int64(n))
	return n, err
}

// StartInput opens the client's end of stdin, if there is one. It is called when
// the guest's task service has opened its end: a client that is at the end of its
// input says so by CloseIO as soon as somebody reads, and that must not come too
// early. A second call does nothing; one after Close is ErrFailedPrecondition.
func (s *Streams) StartInput() error {
	if s.input == nil {
		return nil
	}
	return s.input.start()
}

// IDs are the ids of the streams in the guest.
func (s *Streams) IDs() []string { return s.ids }

// CloseStdin lets the process see the end of its input once the client has
// closed it too: it is the shim's own writer that keeps it open until then. It
// may come before StartInput, and holds from that on.
func (s *Streams) CloseStdin() {
	if s.input != nil {
		s.input.release()
	}
}

// Drain waits until all output has been handed over. It gives up when nothing
// moves for a while: the reader is gone, or a process that outlives its parent
// keeps the stream open.
func (s *Streams) Drain(ctx context.Context) {
	done := s.handedOver()
	ctx, cancel := context.WithTimeout(ctx, longest)
	defer cancel()
	tick := time.NewTicker(idle)
	defer tick.Stop()
	for last := int64(-1); ; {
		select {
		case <-done:
			return
		case <-ctx.Done():
			return
		case <-tick.C:
			moved := s.moved.Load()
			if moved == last {
				log.G(ctx).Warn("giving up on output that nobody reads or ends")
				return
			}
			last = moved
		}
	}
}

// Await waits until all output has been handed over, however long its reader takes, or until ctx
// ends.
func (s *Streams) Await(ctx context.Context) {
	select {
	case <-s.handedOver():
	case <-ctx.Done():
	}
}

// handedOver is closed when all output has been handed over.
func (s *Streams) handedOver() <-chan struct{} {
	done := make(chan struct{})
	go func() {
		s.output.Wait()
		close(done)
	}()
	return done
}

// Close ends every stream. When it returns, the client's files are closed and no
// byte is handed over to them any more. It waits about a second for a guest that
// does not let go of its ends; what then still waits for the guest, a goroutine
// or two for each stream, ends with the machine.
func (s *Streams) Close() {
	s.close.Do(func() {
		if s.input != nil {
			s.input.close()
		}
		var errs []error
		for _, conn := range s.conns {
			errs = append(errs, conn.SetDeadline(time.Unix(1, 0)))
		}
		for _, sink := range s.sinks {
			errs = append(errs, sink.Close())
		}
		if err := errors.Join(errs...); err != nil {
			log.L.WithError(err).Debug("closing stdio streams")
		}
		s.leave()
	})
}

// leave closes the streams to the guest, whose deadlines have passed, and waits
// for the copies. No deadline holds for what a stream says of itself (its end,
// its window): that waits for as long as the guest does not read at all.
func (s *Streams) leave() {
	left := make(chan struct{})
	go func() {
		defer close(left)
		var closing sync.WaitGroup
		for _, conn := range s.conns {
			closing.Go(func() { _ = conn.Close() })
		}
		closing.Wait()
		s.output.Wait()
		s.unread.Wait()
		if s.input != nil {
			s.input.copies.Wait()
		}
	}()
	select {
	case <-left:
	case <-time.After(farewell):
		log.L.Debug("the guest does not take the end of stdio streams")
	}
}

func wrap(stream, path string, err error) error {
	return fmt.Errorf("opening %s %s: %w", stream, path, err)
}
