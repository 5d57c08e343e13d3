// Package stdio joins the standard streams of processes in the guest, which
// containerd's task service reads from and writes to FIFOs, with the byte
// streams from the host. A stream has one direction; closing it ends it.
package stdio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/internal/copying"
)

// chunk is the most that one read takes, in bytes: every wake-up costs the
// same, so each should move much.
const chunk = 256 << 10

// buffers are for copies. Each exec has three streams, whose buffers are most of what the agent
// would have to collect after it.
var buffers = copying.NewBuffers(chunk)

// Streams are the standard streams that are open.
type Streams struct {
	mu   sync.Mutex
	open map[string]end // FIFO by stream id; guarded by mu
}

// New returns an empty set of streams.
func New() *Streams { return &Streams{open: make(map[string]end)} }

// Join makes the FIFO of a stream, tells the host that it is there, and copies
// until one side ends; the FIFO goes then. It owns conn.
func (s *Streams) Join(ctx context.Context, conn net.Conn, stream *api.StdioStream) {
	defer conn.Close()
	pipe, err := s.add(stream)
	if replyErr := api.ReplyStream(conn, err); err != nil || replyErr != nil {
		log.G(ctx).WithError(errors.Join(err, replyErr)).Error("opening a stdio stream")
		if err == nil {
			s.Close(stream.Id)
		}
		return
	}
	defer s.Close(stream.Id)
	if stream.Direction != api.StdioStream_INPUT {
		// The host never sends on an output stream: what ends the read is that
		// it gave the stream up.
		go func() {
			_, _ = io.Copy(io.Discard, conn)
			s.Close(stream.Id)
		}()
	}
	if err := pipe.copy(conn); err != nil && !errors.Is(err, os.ErrClosed) {
		log.G(ctx).WithError(err).Debug("a stdio stream broke off")
	}
}

func (s *Streams) add(stream *api.StdioStream) (end, error) {
	if err := api.CheckName("stream id", stream.Id); err != nil {
		return nil, err
	}
	path := api.StdioPath(stream.Id)
	if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
		return nil, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, exists := s.open[stream.Id]; exists {
		return nil, fmt.Errorf("stream %s is open: %w", stream.Id, errdefs.ErrAlreadyExists)
	}
	pipe, err := open(path, stream.Direction == api.StdioStream_INPUT)
	if err != nil {
		return nil, err
	}
	s.open[stream.Id] = pipe
	return pipe, nil
}

// Close ends a stream and removes its FIFO. One that is not open is passed over.
func (s *Streams) Close(id string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pipe, open := s.open[id]
	if !open {
		return
	}
	delete(s.open, id)
	_ = pipe.Close()
	_ = os.Remove(api.StdioPath(id))
}
