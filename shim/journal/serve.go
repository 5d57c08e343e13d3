package journal

import (
	"context"
	"fmt"

	"github.com/containerd/errdefs"
	"github.com/containerd/ttrpc"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/msb-runtime/containerd-shim-msb/shim/journal/api"
)

// maxReaders is how many may read at the same time. Each costs a connection.
const maxReaders = 8

// A Service serves the last lines to those who may connect to the shim's socket, which is root.
type Service struct {
	tails map[api.Source]*Tail
	slots chan struct{} // one for each reader
}

// NewService serves Log and Console.
func NewService() *Service { return newService(Log, Console) }

func newService(log, console *Tail) *Service {
	return &Service{map[api.Source]*Tail{api.Source_LOG: log, api.Source_CONSOLE: console}, make(chan struct{}, maxReaders)}
}

// Read implements the Journal service. A client that does not take what it is sent holds up
// its own call alone.
func (s *Service) Read(ctx context.Context, server ttrpc.StreamServer) error {
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		return fmt.Errorf("%d read the shim's lines already, which is the most: %w", maxReaders, errdefs.ErrResourceExhausted)
	}
	request := new(api.ReadRequest)
	if err := server.RecvMsg(request); err != nil {
		return err
	}
	tail := s.tails[request.GetSource()]
	if tail == nil {
		return fmt.Errorf("there is no source %d of lines: %w", request.GetSource(), errdefs.ErrInvalidArgument)
	}
	return follow(ctx, tail, request.GetFollow(), func(b *api.Batch) error { return server.SendMsg(b) })
}

// follow sends what a tail keeps, and what comes until ctx ends.
func follow(ctx context.Context, tail *Tail, goOn bool, send func(*api.Batch) error) error {
	var next uint64
	for first := true; ; first = false {
		lines, lost, changed := tail.From(next)
		if len(lines) > 0 || first {
			if err := send(batch(lines, lost)); err != nil {
				return err
			}
			next += lost + uint64(len(lines))
		}
		if !goOn {
			return nil
		}
		if changed == nil {
			continue
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return nil
		}
	}
}

func batch(lines []Line, lost uint64) *api.Batch {
	b := &api.Batch{Lost: lost}
	for _, line := range lines {
		b.Lines = append(b.Lines, &api.Line{Time: timestamppb.New(line.Time), Text: []byte(line.Text)})
	}
	return b
}
