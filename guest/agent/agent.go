// Package agent is the program that runs as PID 1 of the guest. It serves, over
// ttrpc on the host's control stream, containerd's own task service for runc
// and beside it the service that prepares bundles; another stream from the host
// is one of a process's standard streams, a connection, an archive, an operator's program, or
// for the time.
package agent

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"

	"github.com/containerd/containerd/v2/cmd/containerd-shim-runc-v2/task"
	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/guest/boot"
	"github.com/msb-runtime/containerd-shim-msb/guest/bundle"
	"github.com/msb-runtime/containerd-shim-msb/guest/clock"
	"github.com/msb-runtime/containerd-shim-msb/guest/image"
	"github.com/msb-runtime/containerd-shim-msb/guest/network"
	"github.com/msb-runtime/containerd-shim-msb/guest/pod"
	"github.com/msb-runtime/containerd-shim-msb/guest/resolver"
	"github.com/msb-runtime/containerd-shim-msb/guest/shell"
	"github.com/msb-runtime/containerd-shim-msb/guest/socket"
	"github.com/msb-runtime/containerd-shim-msb/guest/stdio"
	"github.com/msb-runtime/containerd-shim-msb/guest/transfer"
	"github.com/msb-runtime/containerd-shim-msb/guest/transport"
)

// Run is the whole life of the agent. It returns only with an error, or nil
// when the host went away; the machine has no purpose then. Changes are a test's.
func Run(ctx context.Context, changes ...Change) error {
	var c change
	for _, apply := range changes {
		apply(&c)
	}
	if err := boot.Run(); err != nil {
		return fmt.Errorf("preparing the guest: %w", err)
	}
	go boot.Reap(ctx)
	listener, err := transport.Listen(c.connection)
	if err != nil {
		return fmt.Errorf("listening for the host: %w", err)
	}
	boot.Note("ready for the host")
	c.opened(listener)
	if err := bundle.MountPool(); err != nil {
		return err
	}
	sockets := socket.New(listener)
	network, err := network.New(resolver.New(sockets.Open))
	if err != nil {
		return err
	}
	server, err := newServer(ctx, &service{sockets: sockets, network: network}, c)
	if err != nil {
		return err
	}
	return server.serve(ctx, listener)
}

// server joins what a stream may be for.
type server struct {
	rpc     *ttrpc.Server
	streams *stdio.Streams
	roots   *transfer.Roots
	change  change
}

// newServer completes the guest's service and registers it.
func newServer(ctx context.Context, guest *service, c change) (*server, error) {
	ctx, sd := shutdown.WithShutdown(ctx)
	events := make(queue, queueSize)
	tasks, err := task.NewTaskService(namespaces.WithNamespace(ctx, namespaces.Default), events, sd)
	if err != nil {
		return nil, fmt.Errorf("starting the task service: %w", err)
	}
	rpc, err := ttrpc.NewServer(append(c.options, ttrpc.WithChainUnaryServerInterceptor(wordErrors))...)
	if err != nil {
		return nil, err
	}
	s := &server{rpc: rpc, streams: stdio.New(), roots: transfer.New(), change: c}
	taskapi.RegisterTTRPCTaskService(rpc, keeper{tasks, s.roots})
	guest.events, guest.streams, guest.roots, guest.life, guest.change = events, s.streams, s.roots, ctx, c
	api.RegisterGuestService(rpc, guest)
	return s, nil
}

// serve accepts the host's streams until the host is gone.
func (s *server) serve(ctx context.Context, listener net.Listener) error {
	control := newHandover(listener.Addr())
	go func() {
		if err := s.rpc.Serve(ctx, control); err != nil && !errors.Is(err, net.ErrClosed) {
			log.G(ctx).WithError(err).Error("serving the host")
		}
	}()
	for {
		conn, err := listener.Accept()
		if err != nil {
			return nil
		}
		go s.accept(ctx, conn, control)
	}
}

func (s *server) accept(ctx context.Context, conn net.Conn, control *handover) {
	header, err := api.AcceptStream(conn)
	if err != nil {
		log.G(ctx).WithError(err).Error("accepting a stream")
		conn.Close()
		return
	}
	switch purpose := header.Purpose.(type) {
	case *api.StreamHeader_Control:
		if err := api.ReplyStream(conn, nil); err != nil {
			conn.Close()
			return
		}
		control.give(s.change.control(conn))
	case *api.StreamHeader_Stdio:
		s.streams.Join(ctx, conn, purpose.Stdio)
	case *api.StreamHeader_Port:
		network.ServePort(conn, purpose.Port.Port)
	case *api.StreamHeader_Clock:
		if err := api.ReplyStream(conn, nil); err != nil {
			conn.Close()
			return
		}
		clock.Keep(ctx, conn)
	case *api.StreamHeader_Transfer:
		s.roots.Serve(ctx, conn, purpose.Transfer)
	case *api.StreamHeader_Shell:
		shell.Serve(ctx, conn, purpose.Shell)
	default:
		_ = api.ReplyStream(conn, fmt.Errorf("a stream for %T: %w", purpose, errdefs.ErrNotImplemented))
		conn.Close()
	}
}

// keeper is the task service, which keeps the file systems of the containers that it creates, and
// unmounts the places that their files were taken from.
type keeper struct {
	taskapi.TTRPCTaskService
	roots *transfer.Roots
}

// Create implements the Task API.
func (k keeper) Create(ctx context.Context, r *taskapi.CreateTaskRequest) (*taskapi.CreateTaskResponse, error) {
	response, err := k.TTRPCTaskService.Create(ctx, r)
	if err != nil {
		return nil, err
	}
	if err := k.roots.Keep(r.ID, response.Pid); err != nil {
		log.G(ctx).WithError(err).Error("keeping the file system of a container")
	}
	if err := bundle.ReleaseFiles(r.ID); err != nil {
		_, deleteErr := k.Delete(context.WithoutCancel(ctx), &taskapi.DeleteRequest{ID: r.ID})
		return nil, errgrpc.ToGRPC(errors.Join(classify(err), deleteErr))
	}
	return response, nil
}

// handover is a net.Listener for connections that were accepted elsewhere.
type handover struct {
	addr  net.Addr
	conns chan net.Conn
	done  chan struct{}
}

func newHandover(addr net.Addr) *handover {
	return &handover{addr: addr, conns: make(chan net.Conn), done: make(chan struct{})}
}

func (h *handover) give(conn net.Conn) { h.conns <- conn }

func (h *handover) Accept() (net.Conn, error) {
	select {
	case conn := <-h.conns:
		return conn, nil
	case <-h.done:
		return nil, net.ErrClosed
	}
}

func (h *handover) Addr() net.Addr { return h.addr }

func (h *handover) Close() error {
	close(h.done)
	return nil
}

// service implements the Guest service. Errors become gRPC codes here, at the
// edge, and nowhere else.
type service struct {
	events  queue
	streams *stdio.Streams
	roots   *transfer.Roots
	sockets *socket.Sockets
	network *network.Network
	pod     pod.Pod
	images  image.Images
	life    context.Context // the agent's
	change  change
}

var _ api.GuestService = (*service)(nil)

func (s *service) Start(_ context.Context, request *api.StartRequest) (*api.StartResponse, error) {
	if err := boot.SetClock(request.Now.AsTime()); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	if err := boot.Seed(request.Seed); err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	if request.Users == nil {
		return &api.StartResponse{}, nil
	}
	namespace, err := s.pod.Isolate(request.Users)
	if err == nil {
		err = s.network.Replace(namespace)
	}
	if err != nil {
		return nil, errgrpc.ToGRPC(classify(fmt.Errorf("making the containers' user namespace: %w", err)))
	}
	return &api.StartResponse{}, nil
}

func (s *service) CreateBundle(_ context.Context, request *api.CreateBundleRequest) (*api.CreateBundleResponse, error) {
	path, err := s.createBundle(request)
	if err != nil {
		return nil, errgrpc.ToGRPC(classify(err))
	}
	return &api.CreateBundleResponse{Path: path}, nil
}

func (s *service) createBundle(request *api.CreateBundleRequest) (path string, err error) {
	if path, err = bundle.Create(request); err != nil {
		return "", err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, bundle.Remove(request.Container, nil))
		}
	}()
	if err := s.sockets.Listen(s.life, request.Container, request.Sockets); err != nil {
		return "", err
	}
	if err := s.images.Prepare(request); err != nil {
		s.sockets.Close(request.Container)
		return "", err
	}
	return path, nil
}

func (s *service) SetSockets(_ context.Context, request *api.SetSocketsRequest) (*api.SetSocketsResponse, error) {
	in, done, err := s.roots.Enter(request.Container)
	if err != nil {
		return nil, errgrpc.ToGRPC(err)
	}
	defer done()
	if err := s.sockets.Set(s.life, request.Container, in, request.Sockets); err != nil {
		return nil, errgrpc.ToGRPC(classify(err))
	}
	return &api.SetSocketsResponse{}, nil
}

func (s *service) RemoveBundle(_ context.Context, request *api.RemoveBundleRequest) (*api.RemoveBundleResponse, error) {
	s.roots.Drop(request.Container)
	s.sockets.Close(request.Container)
	err := s.images.Release(request.Container, request.Images)
	if err := errors.Join(err, bundle.Remove(request.Container, request.Shares)); err != nil {
		return nil, errgrpc.ToGRPC(classify(err))
	}
	return &api.RemoveBundleResponse{AgentResident: resident()}, nil
}

// resident is the agent's resident memory in bytes, 0 if it cannot be told: the
// second field of /proc/self/statm, in pages (proc_pid_statm(5)).
func resident() int64 {
	var size, pages int64
	data, err := os.ReadFile("/proc/self/statm")
	if err != nil {
		return 0
	}
	if _, err := fmt.Sscan(string(data), &size, &pages); err != nil {
		return 0
	}
	return pages * int64(os.Getpagesize())
}

func (s *service) SetNetwork(_ context.Context, request *api.SetNetworkRequest) (*api.SetNetworkResponse, error) {
	response, err := s.network.Set(request)
	if err != nil {
		return nil, errgrpc.ToGRPC(classify(err))
	}
	return response, nil
}

func (s *service) CreatePod(_ context.Context, request *api.CreatePodRequest) (*api.CreatePodResponse, error) {
	pid, err := s.pod.Create(request)
	if err != nil {
		return nil, errgrpc.ToGRPC(classify(err))
	}
	return &api.CreatePodResponse{Pid: uint32(pid)}, nil
}

func (s *service) CloseStdio(_ context.Context, request *api.CloseStdioRequest) (*api.CloseStdioResponse, error) {
	for _, id := range request.Ids {
		s.streams.Close(id)
	}
	return &api.CloseStdioResponse{}, nil
}

func (s *service) Events(ctx context.Context, _ *api.EventsRequest, stream api.Guest_EventsServer) error {
	return s.events.send(ctx, s.change.send(stream.Send))
}

// classify gives an error of the kernel the class that the host may act upon.
func classify(err error) error {
	switch {
	case errors.Is(err, os.ErrNotExist):
		return fmt.Errorf("%w (%w)", err, errdefs.ErrNotFound)
	case errors.Is(err, os.ErrExist):
		return fmt.Errorf("%w (%w)", err, errdefs.ErrAlreadyExists)
	case errors.Is(err, os.ErrPermission):
		return fmt.Errorf("%w (%w)", err, errdefs.ErrPermissionDenied)
	case errors.Is(err, unix.ENOSPC), errors.Is(err, unix.EMFILE), errors.Is(err, unix.ENFILE), errors.Is(err, unix.ENOMEM):
		return fmt.Errorf("%w (%w)", err, errdefs.ErrResourceExhausted)
	}
	return err
}
