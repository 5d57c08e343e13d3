// Package transfer serves containerd's Transfer and Streaming services for the file systems
// of a shim's containers: an archive goes from a client to the guest, or from the guest to a
// client. The host passes bytes on. It opens no file and follows no path for them: that is
// done in the guest, by a process that sees what the container sees (guest/transfer).
//
// The messages are those that containerd has for it (api/types/transfer): a ContainerPath
// goes to a WriteStream, and a ReadStream to a ContainerPath.
package transfer

import (
	"context"
	"errors"
	"fmt"
	"net"
	"strings"
	"sync/atomic"
	"time"

	transferapi "github.com/containerd/containerd/api/services/transfer/v1"
	types "github.com/containerd/containerd/api/types/transfer"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/emptypb"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
)

const (
	// MediaType is that of the archives.
	MediaType = "application/x-tar"
	// MaxTransfers is how many there are at a time.
	MaxTransfers = 8
	// MaxStreams is how many streams of clients are open at a time, a transfer's or not.
	MaxStreams = 32
	// Unclaimed is how long a stream waits for its transfer.
	Unclaimed = 30 * time.Second
	// Idle is how long a transfer may stand still, whoever it waits for.
	Idle = 2 * time.Minute
	// maxPath is the length of the longest path, in bytes. A kernel's has 4096, and the guest
	// takes a message of that size.
	maxPath = 3 << 10
)

// A Guest is where the containers are.
type Guest interface {
	// OpenTransfer opens a stream to the guest for a container's file system. The caller
	// closes it, and gives up when life ends: then the container is being deleted.
	OpenTransfer(ctx context.Context, header *api.TransferStream) (stream net.Conn, life context.Context, err error)
}

// A Service is both services of one shim.
type Service struct {
	guest     Guest
	streams   *streams
	transfers chan struct{} // a slot for each
}

// New returns the services for the containers of a guest.
func New(guest Guest) *Service {
	return &Service{guest: guest, streams: newStreams(), transfers: make(chan struct{}, MaxTransfers)}
}

// A plan is what a request asks for.
type plan struct {
	header *api.TransferStream
	stream string // the client's
	report string // the client's stream for progress; empty if it wants none
}

// newPlan reads a request, and refuses what is not supported.
func newPlan(r *transferapi.TransferRequest) (*plan, error) {
	source, sourceErr := typeurl.UnmarshalAny(r.Source)
	destination, destinationErr := typeurl.UnmarshalAny(r.Destination)
	p := &plan{report: r.Options.GetProgressStream()}
	var place *types.ContainerPath
	var media string
	switch from := source.(type) {
	case *types.ContainerPath:
		if to, ok := destination.(*types.WriteStream); ok {
			place, p.stream, media = from, to.Stream, to.MediaType
			p.header = &api.TransferStream{Direction: api.TransferStream_EXPORT, NoWalk: from.NoWalk}
		}
	case *types.ReadStream:
		if to, ok := destination.(*types.ContainerPath); ok {
			place, p.stream, media = to, from.Stream, from.MediaType
			p.header = &api.TransferStream{Direction: api.TransferStream_IMPORT, PreserveOwnership: to.PreserveOwnership}
		}
	}
	if p.header == nil {
		if err := errors.Join(sourceErr, destinationErr); err != nil && !errors.Is(err, typeurl.ErrNotFound) {
			return nil, fmt.Errorf("the source or the destination of the transfer cannot be read: %v: %w", err, errdefs.ErrInvalidArgument)
		}
		return nil, fmt.Errorf("a transfer from %.100q to %.100q: msb has those from a ContainerPath to a WriteStream, and from a ReadStream to a ContainerPath: %w",
			r.Source.GetTypeUrl(), r.Destination.GetTypeUrl(), errdefs.ErrNotImplemented)
	}
	p.header.Container, p.header.Path = place.ContainerID, place.Path
	return p, p.check(media)
}

func (p *plan) check(media string) error {
	path := p.header.Path
	switch {
	case media != MediaType:
		return fmt.Errorf("a transfer of type %.100q: it has to be %s: %w", media, MediaType, errdefs.ErrNotImplemented)
	case path == "":
		return fmt.Errorf("the path in container %s is empty: the root is /: %w", p.header.Container, errdefs.ErrInvalidArgument)
	case len(path) > maxPath:
		return fmt.Errorf("the path in container %s has %d bytes, and %d is the most: %w", p.header.Container, len(path), maxPath, errdefs.ErrInvalidArgument)
	case strings.ContainsRune(path, 0):
		return fmt.Errorf("the path %q in container %s has a zero byte: %w", path, p.header.Container, errdefs.ErrInvalidArgument)
	}
	return nil
}

// Transfer implements the Transfer service. It answers when the transfer is over, with its
// error; the client's streams have ended then.
func (s *Service) Transfer(ctx context.Context, r *transferapi.TransferRequest) (*emptypb.Empty, error) {
	err := s.transfer(ctx, r)
	if err != nil {
		return nil, err
	}
	return &emptypb.Empty{}, nil
}

func (s *Service) transfer(ctx context.Context, r *transferapi.TransferRequest) (err error) {
	select {
	case s.transfers <- struct{}{}:
		defer func() { <-s.transfers }()
	default:
		return fmt.Errorf("%d transfers are under way, which is the most: try again: %w", MaxTransfers, errdefs.ErrResourceExhausted)
	}
	p, planErr := newPlan(r)
	if p == nil {
		return planErr
	}
	stream, err := s.streams.claim(p.stream)
	if err != nil {
		return errors.Join(planErr, err)
	}
	defer func() { stream.finish(err) }()
	if planErr != nil {
		return planErr
	}
	if p.report == "" {
		_, err = s.relay(ctx, p.header, stream)
		return err
	}
	report, err := s.streams.claim(p.report)
	if err != nil {
		return err
	}
	defer func() { report.finish(err) }()
	return s.reported(ctx, p.header, stream, report)
}

// reported is relay, of which a client learns the beginning and the end.
func (s *Service) reported(ctx context.Context, header *api.TransferStream, stream, report *stream) error {
	if err := report.send(ctx, &types.Progress{Event: "transferring", Name: header.Path}); err != nil {
		return err
	}
	moved, err := s.relay(ctx, header, stream)
	if err != nil {
		return err
	}
	return report.send(ctx, &types.Progress{Event: "complete", Name: header.Path, Progress: moved, Total: moved})
}

// relay joins the client's stream with one of the guest's, until the guest has told the
// result. It returns how many bytes of the archive have passed.
func (s *Service) relay(ctx context.Context, header *api.TransferStream, client *stream) (int64, error) {
	conn, life, err := s.guest.OpenTransfer(ctx, header)
	if err != nil {
		return 0, err
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	defer context.AfterFunc(life, func() { cancel(context.Cause(life)) })()
	// The guest sees an error, and not the end of an archive.
	defer reset(conn)
	defer context.AfterFunc(ctx, func() { reset(conn) })()
	way := &relay{guest: conn, client: client}
	if header.Direction == api.TransferStream_IMPORT {
		err = way.toGuest(ctx)
	} else {
		err = way.toClient(ctx)
	}
	if err != nil && ctx.Err() != nil {
		err = context.Cause(ctx)
	}
	return way.moved.Load(), err
}

// A relay is one transfer.
type relay struct {
	guest  net.Conn
	client *stream
	moved  atomic.Int64 // bytes of the archive
}

func reset(conn net.Conn) {
	if conn, ok := conn.(interface{ Reset() error }); ok {
		_ = conn.Reset()
	}
	conn.Close()
}
