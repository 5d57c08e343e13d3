// Package shell runs programs for the host's operator in the guest, outside of its containers, if
// the configuration allows it. The guest is given a directory with the program, read-only and as
// long as it runs; what the program reads and prints goes the way of an exec's.
package shell

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	guestapi "github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/pod"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/shell/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/stdio"
)

const (
	// maxPrograms is how many may run at the same time.
	maxPrograms = 4
	// maxArgs is how long the arguments may be, in bytes: the header of a stream has them.
	maxArgs = 3 << 10
	// argOverhead is how much longer each makes the header: its tag, and the number of its bytes.
	argOverhead = 3
	// deathNotice is how long to wait, after a stream broke, for the machine to be known dead.
	deathNotice = time.Second
)

// A Service runs programs in the VM of a pod.
type Service struct {
	pod   *pod.Pod
	slots chan struct{} // one for each program
}

// New is the service of a pod.
func New(pod *pod.Pod) *Service { return &Service{pod, make(chan struct{}, maxPrograms)} }

// Run implements the Shell service. The caller is who may connect to the shim's socket: ttrpc
// takes none but this process's user, which is root.
func (s *Service) Run(ctx context.Context, r *api.RunRequest) (*api.RunResponse, error) {
	return s.serve(ctx, r, nil)
}

// serve runs a program, in a terminal if there is one.
func (s *Service) serve(ctx context.Context, r *api.RunRequest, t *terminal) (*api.RunResponse, error) {
	sb, err := s.pod.Sandbox()
	if err != nil {
		return nil, err
	}
	size := 0
	for _, arg := range r.GetArgs() {
		size += len(arg) + argOverhead
	}
	switch {
	case !sb.AllowsShell():
		return nil, fmt.Errorf("the configuration lets nobody run programs in the guest: set [debug] shell = true before the container is made: %w", errdefs.ErrPermissionDenied)
	case size == 0 || size > maxArgs:
		return nil, fmt.Errorf("the arguments have %d bytes: they may have 1 to %d: %w", size, maxArgs, errdefs.ErrInvalidArgument)
	}
	select {
	case s.slots <- struct{}{}:
		defer func() { <-s.slots }()
	default:
		return nil, fmt.Errorf("%d programs run in the guest, which is the most: %w", maxPrograms, errdefs.ErrResourceExhausted)
	}
	id := rand.Text()
	logger := log.G(ctx).WithField("shell", id)
	logger.Warnf("root's process %d runs a program in the guest, outside of all containers: %q of %s", r.GetPid(), r.GetArgs(), r.GetTools())
	status, err := run(ctx, sb, id, r, t)
	if err != nil {
		logger.WithError(err).Warn("the program in the guest has failed")
		return nil, err
	}
	logger.Warnf("the program in the guest has ended with status %d", status)
	return &api.RunResponse{Status: status}, nil
}

// run runs a program, with a share of its own if no container has the same.
func run(ctx context.Context, sb *sandbox.Sandbox, id string, r *api.RunRequest, t *terminal) (status uint32, err error) {
	shared, err := add(sb, r.GetTools())
	if err != nil {
		return 0, err
	}
	ending := context.WithoutCancel(ctx) // what was begun is undone when the caller has gone, too
	defer func() { err = errors.Join(err, remove(ending, sb, id, shared)) }()
	streams, err := stdio.Open(ctx, id, stdio.Config{
		Stdin: r.GetStdin(), Stdout: r.GetStdout(), Stderr: r.GetStderr(), Terminal: t != nil, Mounts: sb.HostMounts(),
	})
	if err != nil {
		return 0, err
	}
	if err := streams.Connect(ctx, sb.Guest); err != nil {
		streams.Close()
		return 0, err
	}
	defer func() {
		streams.Close()
		if closeErr := sb.Guest.CloseStdio(ending, streams.IDs()); closeErr != nil {
			log.G(ctx).WithError(closeErr).Debug("closing a program's streams in the guest")
		}
	}()
	header := &guestapi.ShellStream{
		Share: shared.Tag, Args: r.GetArgs(), Stdin: name(streams.Stdin), Stdout: name(streams.Stdout), Stderr: name(streams.Stderr),
	}
	if t != nil {
		header.Terminal = t.Terminal
	}
	conn, err := sb.Guest.Dial(ctx, &guestapi.StreamHeader{Purpose: &guestapi.StreamHeader_Shell{Shell: header}})
	if err != nil {
		return 0, err
	}
	defer leave(conn)
	if t != nil {
		forwarding, stop := context.WithCancel(ctx)
		defer stop()
		go t.forward(forwarding, conn)
	}
	if err := streams.StartInput(); err != nil {
		return 0, err
	}
	// Nobody but the caller closes its end of stdin; when it does, the program sees that.
	streams.CloseStdin()
	status, err = await(ctx, conn)
	if err == nil {
		awaitOutput(ctx, sb, streams)
	} else if ctx.Err() == nil {
		err = explain(sb, err)
	}
	return status, err
}

// awaitOutput waits until the caller has all output. The caller reads as fast as it likes, or goes
// away; when the VM has ended, there is a moment more.
func awaitOutput(ctx context.Context, sb *sandbox.Sandbox, streams *stdio.Streams) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	go func() {
		select {
		case <-sb.Done():
			time.AfterFunc(farewell, cancel)
		case <-ctx.Done():
		}
	}()
	streams.Await(ctx)
}

// explain is what became of the VM, if that is why a stream broke.
func explain(sb *sandbox.Sandbox, err error) error {
	select {
	case <-sb.Done():
	case <-time.After(deathNotice):
	}
	if gone := sb.Guest.Alive(); gone != nil {
		return gone
	}
	return err
}

// await waits for what the guest says of the program's end, or for the caller's end.
func await(ctx context.Context, conn net.Conn) (uint32, error) {
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	defer stop()
	status, err := guestapi.ReceiveExit(conn)
	if ctx.Err() != nil {
		return 0, context.Cause(ctx)
	}
	if err != nil {
		return 0, fmt.Errorf("the guest does not tell how the program has ended: %v: %w", err, errdefs.ErrUnavailable)
	}
	return min(status, 0xff), nil // containerd's word for unknown
}

// farewell is how long what ends waits for who may never take the last of it.
const farewell = time.Second

// leave closes a stream, and waits for a guest that does not take its end.
func leave(conn net.Conn) {
	left := make(chan struct{})
	go func() {
		defer close(left)
		_ = conn.Close()
	}()
	select {
	case <-left:
	case <-time.After(farewell):
	}
}
