package transfer

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	streamingapi "github.com/containerd/containerd/api/services/streaming/v1"
	types "github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/emptypb"
)

const (
	// Window is how many bytes a client may send on a stream before it is told to go on, as
	// with containerd (core/transfer/streaming).
	Window = 64 << 10
	// maxData is the most of an archive in a message to a client, in bytes; it is containerd's.
	maxData = 32 << 10
	// maxID is the length of the longest id of a stream, in bytes.
	maxID = 256
)

// streams are the open streams of clients.
type streams struct {
	slots chan struct{} // one for each, named or not

	mu    sync.Mutex
	named map[string]*stream // by id; guarded by mu
}

func newStreams() *streams {
	return &streams{slots: make(chan struct{}, MaxStreams), named: make(map[string]*stream)}
}

// A stream is one of a client. Its own call (Stream) is the only one that sends; others hand
// it what is to be sent, so that a client that reads nothing holds up that call alone.
type stream struct {
	id       string
	sends    chan proto.Message
	finished chan struct{} // closed when the transfer is over, or the stream has been claimed by none
	gone     chan struct{} // closed when its call has ended

	mu       sync.Mutex
	claimed  bool          // guarded by mu
	err      error         // that it finished with; guarded by mu
	received []byte        // of the client, and not read; guarded by mu
	granted  int           // bytes that the client may send; guarded by mu
	credit   int64         // bytes that the client takes; guarded by mu
	ended    error         // of what the client sends, io.EOF or why not; guarded by mu
	changed  chan struct{} // has room for one
}

// Stream implements the Streaming service: the client's first message names the stream, and
// the stream ends when the transfer is over that takes it.
func (s *Service) Stream(ctx context.Context, server ttrpc.StreamServer) error {
	select {
	case s.streams.slots <- struct{}{}:
		defer func() { <-s.streams.slots }()
	default:
		return fmt.Errorf("%d streams are open, which is the most: %w", MaxStreams, errdefs.ErrResourceExhausted)
	}
	unclaimed := time.NewTimer(Unclaimed)
	defer unclaimed.Stop()
	id, err := readID(ctx, server, unclaimed.C)
	if err != nil {
		return err
	}
	stream, err := s.streams.add(id)
	if err != nil {
		return err
	}
	defer s.streams.remove(stream)
	if err := server.SendMsg(wrap(&emptypb.Empty{})); err != nil {
		return err
	}
	go stream.receive(server) // until this call has ended
	return stream.serve(ctx, server, unclaimed.C)
}

// readID reads the first message of a stream.
func readID(ctx context.Context, server ttrpc.StreamServer, late <-chan time.Time) (string, error) {
	type read struct {
		id  string
		err error
	}
	first := make(chan read, 1)
	go func() {
		var message anypb.Any
		var start streamingapi.StreamInit
		err := server.RecvMsg(&message)
		if err == nil {
			if err = typeurl.UnmarshalTo(&message, &start); err != nil {
				err = fmt.Errorf("the first message of a stream has to be a StreamInit: %v: %w", err, errdefs.ErrInvalidArgument)
			}
		}
		first <- read{start.ID, err}
	}()
	select {
	case r := <-first:
		return r.id, r.err
	case <-late:
		return "", fmt.Errorf("a stream had no first message for %v: %w", Unclaimed, context.DeadlineExceeded)
	case <-ctx.Done():
		return "", context.Cause(ctx)
	}
}

func (s *streams) add(id string) (*stream, error) {
	if id == "" || len(id) > maxID {
		return nil, fmt.Errorf("the id of a stream has %d bytes: it has to have 1 to %d: %w", len(id), maxID, errdefs.ErrInvalidArgument)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.named[id] != nil {
		return nil, fmt.Errorf("stream %q is open: take another id: %w", id, errdefs.ErrAlreadyExists)
	}
	added := &stream{
		id: id, sends: make(chan proto.Message), finished: make(chan struct{}), gone: make(chan struct{}),
		changed: make(chan struct{}, 1),
	}
	s.named[id] = added
	return added, nil
}

func (s *streams) remove(stream *stream) {
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.named, stream.id)
	close(stream.gone)
}

// claim takes a stream for a transfer, which calls finish.
func (s *streams) claim(id string) (*stream, error) {
	s.mu.Lock()
	stream := s.named[id]
	s.mu.Unlock()
	if stream == nil {
		return nil, fmt.Errorf("stream %.*q: open it before the transfer: %w", maxID, id, errdefs.ErrNotFound)
	}
	if !stream.take() {
		return nil, fmt.Errorf("stream %q is that of another transfer: %w", id, errdefs.ErrFailedPrecondition)
	}
	return stream, nil
}

// take claims a stream, once.
func (s *stream) take() bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.claimed {
		return false
	}
	s.claimed = true
	return true
}

// finish ends a stream that has been claimed, once all has been sent. The client gets the error.
func (s *stream) finish(err error) {
	s.mu.Lock()
	s.err = err
	s.mu.Unlock()
	close(s.finished)
}

// serve sends what is handed to it, until the transfer is over.
func (s *stream) serve(ctx context.Context, server ttrpc.StreamServer, late <-chan time.Time) error {
	for {
		select {
		case message := <-s.sends:
			if err := server.SendMsg(wrap(message)); err != nil {
				return err
			}
		case <-s.finished:
			s.mu.Lock()
			defer s.mu.Unlock()
			return s.err
		case <-late:
			if s.take() {
				return fmt.Errorf("no transfer took stream %q for %v: %w", s.id, Unclaimed, context.DeadlineExceeded)
			}
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// receive takes what the client sends, until it ends that or breaks a rule.
func (s *stream) receive(server ttrpc.StreamServer) {
	for {
		var message anypb.Any
		err := server.RecvMsg(&message)
		if err == nil {
			err = s.accept(&message)
		}
		if err != nil {
			s.mu.Lock()
			s.ended = err
			s.mu.Unlock()
			s.tell()
			return
		}
		s.tell()
	}
}

// accept takes a message.
func (s *stream) accept(message *anypb.Any) error {
	value, err := typeurl.UnmarshalAny(message)
	if err != nil {
		return fmt.Errorf("a message on stream %q cannot be read: %v: %w", s.id, err, errdefs.ErrInvalidArgument)
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	switch value := value.(type) {
	case *types.Data:
		if len(value.Data) > s.granted {
			return fmt.Errorf("stream %q got %d bytes where it takes %d: wait for a WindowUpdate: %w", s.id, len(value.Data), s.granted, errdefs.ErrResourceExhausted)
		}
		s.granted -= len(value.Data)
		s.received = append(s.received, value.Data...)
	case *types.WindowUpdate:
		if value.Update < 0 {
			return fmt.Errorf("stream %q got a WindowUpdate of %d bytes: %w", s.id, value.Update, errdefs.ErrInvalidArgument)
		}
		s.credit += int64(value.Update)
	default:
		return fmt.Errorf("stream %q got a %.100q: it takes Data and WindowUpdate: %w", s.id, message.TypeUrl, errdefs.ErrInvalidArgument)
	}
	return nil
}

func (s *stream) tell() {
	select {
	case s.changed <- struct{}{}:
	default:
	}
}

// errLeft is that a client has ended a stream.
func (s *stream) errLeft() error {
	return fmt.Errorf("the client has left stream %q: %w", s.id, context.Canceled)
}

// send hands the stream's call a message, and waits until it takes it.
func (s *stream) send(ctx context.Context, message proto.Message) error {
	idle := time.NewTimer(Idle)
	defer idle.Stop()
	select {
	case s.sends <- message:
		return nil
	case <-s.gone:
		return s.errLeft()
	case <-idle.C:
		return s.errIdle("read")
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

func (s *stream) errIdle(what string) error {
	return fmt.Errorf("the client did not %s stream %q for %v: %w", what, s.id, Idle, context.DeadlineExceeded)
}

// await waits until something holds that a message of the client may change. have is called
// with mu held.
func (s *stream) await(ctx context.Context, what string, have func() bool) error {
	idle := time.NewTimer(Idle)
	defer idle.Stop()
	for {
		s.mu.Lock()
		ok, ended := have(), s.ended
		s.mu.Unlock()
		switch {
		case ok:
			return nil
		case ended != nil:
			return ended
		}
		select {
		case <-s.changed:
		case <-s.gone:
			return s.errLeft()
		case <-idle.C:
			return s.errIdle(what)
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

// write sends the client a piece of an archive, as fast as it takes it.
func (s *stream) write(ctx context.Context, data []byte) error {
	for len(data) > 0 {
		var n int
		err := s.await(ctx, "read", func() bool {
			n = min(len(data), maxData, int(min(s.credit, maxData)))
			s.credit -= int64(n)
			return n > 0
		})
		if errors.Is(err, io.EOF) {
			return s.errLeft()
		}
		if err != nil {
			return err
		}
		if err := s.send(ctx, &types.Data{Data: data[:n]}); err != nil {
			return err
		}
		data = data[n:]
	}
	return nil
}

// read takes the next piece of an archive from the client; io.EOF is its end.
func (s *stream) read(ctx context.Context) ([]byte, error) {
	s.mu.Lock()
	more := Window - s.granted - len(s.received)
	grant := more >= Window/2 && s.ended == nil
	if grant {
		s.granted += more
	}
	s.mu.Unlock()
	if grant {
		if err := s.send(ctx, &types.WindowUpdate{Update: int32(more)}); err != nil {
			return nil, err
		}
	}
	var data []byte
	err := s.await(ctx, "write to", func() bool {
		data, s.received = s.received, nil
		return len(data) > 0
	})
	return data, err
}

// wrap makes a message what goes over a stream.
func wrap(message proto.Message) *anypb.Any {
	value, err := typeurl.MarshalAnyToProto(message)
	if err != nil {
		panic(err) // no message of this package
	}
	return value
}
