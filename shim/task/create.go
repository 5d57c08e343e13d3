package task

import (
	"context"
	"errors"
	"fmt"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/typeurl/v2"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/config"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
	"github.com/msb-runtime/containerd-shim-msb/shim/stdio"
	"github.com/msb-runtime/containerd-shim-msb/shim/trace"
)

// undo is what takes back the steps done so far, the last first.
type undo []func() error

func (u *undo) add(step func() error) { *u = append(*u, step) }

func (u undo) run() (err error) {
	for i := len(u) - 1; i >= 0; i-- {
		err = errors.Join(err, u[i]())
	}
	return err
}

// Create implements the Task API: plan, share, boot, hand over. After an error
// everything is as before.
func (s *Service) Create(ctx context.Context, r *taskapi.CreateTaskRequest) (_ *taskapi.CreateTaskResponse, err error) {
	s.traceStart(ctx)
	if r.Checkpoint != "" || r.ParentCheckpoint != "" {
		return nil, fmt.Errorf("task %s: msb cannot restore a checkpoint: %w", r.ID, errdefs.ErrNotImplemented)
	}
	if err := api.CheckName("container id", r.ID); err != nil {
		return nil, err
	}
	var undo undo
	defer func() {
		if err != nil {
			if undoErr := undo.run(); undoErr != nil {
				log.G(ctx).WithError(undoErr).Warn("undoing a failed create")
			}
		}
	}()
	c, err := s.reserve(r)
	if err != nil {
		return nil, err
	}
	undo.add(func() error { return s.shutdownIfAbandoned(c) })
	undo.add(func() error { s.stopHooks(context.WithoutCancel(ctx), c); return nil })
	undo.add(s.closeIfIdle)
	undo.add(func() error { s.forget(c); return nil })

	configuration, err := config.Load(r.Options)
	if err != nil {
		return nil, err
	}
	if c.plan, err = spec.Load(r.Bundle); err != nil {
		return nil, err
	}
	c.pod = c.plan.Pod()
	sb, err := s.sandboxFor(c, configuration)
	if err != nil {
		return nil, err
	}
	if c.joined, err = s.joined(sb, c.plan); err != nil {
		return nil, err
	}
	undo.add(func() error { return s.unshare(sb, c) })
	if err := s.share(ctx, sb, c, mount.FromProto(r.Rootfs)); err != nil {
		return nil, err
	}
	if err := s.boot(ctx, sb, c, configuration); err != nil {
		return nil, err
	}
	if err := s.handOver(ctx, sb, c, r, &undo); err != nil {
		return nil, err
	}
	return &taskapi.CreateTaskResponse{Pid: c.pid.Load()}, nil
}

// traceStart tells how long it took from containerd's start of the shim to its
// first call.
func (s *Service) traceStart(ctx context.Context) {
	s.firstCreate.Do(func() { trace.Since(ctx, "shim start", s.began) })
}

// reserve takes the id, so that a second Create of it fails and disturbs nothing.
func (s *Service) reserve(r *taskapi.CreateTaskRequest) (*container, error) {
	config := stdio.Config{Stdin: r.Stdin, Stdout: r.Stdout, Stderr: r.Stderr, Terminal: r.Terminal}
	c := &container{
		id: r.ID, bundle: r.Bundle, rootfs: r.Rootfs,
		processes: map[string]*process{"": newProcess("", config)},
		deleted:   make(chan struct{}),
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.containers[r.ID] != nil {
		return nil, fmt.Errorf("task %s: %w", r.ID, errdefs.ErrAlreadyExists)
	}
	s.containers[r.ID] = c
	return c, nil
}

func (s *Service) forget(c *container) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.containers[c.id] == c {
		delete(s.containers, c.id)
	}
}

// shutdownIfAbandoned ends the shim when it was asked to while a create was under
// way that has failed since: nobody will ask again.
func (s *Service) shutdownIfAbandoned(c *container) error {
	s.mu.Lock()
	end := c.abandoned && len(s.containers) == 0
	s.mu.Unlock()
	if end {
		s.shutdown.Shutdown()
	}
	return nil
}

// sandboxFor is the sandbox of a container: that of its pod, or a new one.
func (s *Service) sandboxFor(c *container, config config.Config) (*sandbox.Sandbox, error) {
	if c.pod.ID != "" && !c.pod.Sandbox {
		return s.sandboxOfPod(c.pod.ID)
	}
	host, err := sandbox.HostSize()
	if err != nil {
		return nil, err
	}
	size, err := c.plan.Size(spec.Size{CPUs: config.VM.CPUs, Memory: int64(config.VM.Memory)}, host)
	if err != nil {
		return nil, err
	}
	return s.openSandbox(c.pod.ID, c.bundle, config.Kit, sandbox.Host{
		Size:        size,
		CgroupsPath: c.plan.CgroupsPath(), Resources: c.plan.Resources(),
		OOMScoreAdj: c.plan.OOMScoreAdj(), Network: c.plan.Network(), Users: c.plan.Users(), Pod: c.pod.ID != "",
	})
}

// openSandbox makes the shim's sandbox, which for a pod others join.
func (s *Service) openSandbox(pod, bundle, kit string, host sandbox.Host) (*sandbox.Sandbox, error) {
	s.lifecycle.Lock()
	defer s.lifecycle.Unlock()
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.sandbox != nil {
		return nil, fmt.Errorf("this shim runs a microVM already, which only containers of its pod can join: %w", errdefs.ErrFailedPrecondition)
	}
	sb, err := sandbox.New(bundle, kit, host)
	if err != nil {
		return nil, err
	}
	s.sandbox, s.podID = sb, pod
	return sb, nil
}

// closeIfIdle takes the sandbox away when its last container is gone. One of the
// Sandbox API waits for StopSandbox.
func (s *Service) closeIfIdle() error {
	s.mu.Lock()
	busy := len(s.containers) > 0 || s.pod != nil
	s.mu.Unlock()
	if busy {
		return nil
	}
	return s.closeSandbox()
}

// boot starts the VM for its first container; the others join it. What is the
// container's on the host is done meanwhile.
func (s *Service) boot(ctx context.Context, sb *sandbox.Sandbox, c *container, config config.Config) error {
	s.lifecycle.Lock()
	defer s.lifecycle.Unlock()
	onHost := func() error {
		if err := s.startAnchor(sb, c); err != nil {
			return err
		}
		return s.createHooks(ctx, c)
	}
	if sb.Running() {
		return onHost()
	}
	if err := sb.Boot(ctx, config, onHost); err != nil {
		return err
	}
	go s.watch(sb)
	if !c.pod.Sandbox {
		return nil
	}
	return s.createPod(ctx, sb, c.plan)
}

// handOver gives the container to the guest.
func (s *Service) handOver(ctx context.Context, sb *sandbox.Sandbox, c *container, r *taskapi.CreateTaskRequest, undo *undo) error {
	defer trace.Phase(ctx, "hand over")()
	detached := context.WithoutCancel(ctx)
	init := c.processes[""]
	streams, err := stdio.Open(detached, sb, c.id, init.config)
	if err != nil {
		return err
	}
	init.streams.Store(streams)
	undo.add(func() error { s.closeStdio(detached, init); return nil })

	request, err := c.bundleRequest(sb, s.podPlaces(c))
	if err != nil {
		return err
	}
	if len(request.Sockets) > 0 {
		sb.ServeSockets(ctx)
	}
	bundle, err := sb.Guest.CreateBundle(ctx, request)
	if err != nil {
		return s.native(sb, err)
	}
	undo.add(func() error { return s.removeBundle(detached, sb, c) })

	uid, gid := c.plan.IOOwner()
	runcOptions, err := typeurl.MarshalAnyToProto(&options.Options{BinaryName: api.Runc, IoUid: uid, IoGid: gid})
	if err != nil {
		return err
	}
	response, err := sb.Tasks.Create(ctx, &taskapi.CreateTaskRequest{
		ID: c.id, Bundle: bundle.Path, Terminal: r.Terminal,
		Stdin: streams.Stdin, Stdout: streams.Stdout, Stderr: streams.Stderr,
		Options: &anypb.Any{TypeUrl: runcOptions.GetTypeUrl(), Value: runcOptions.GetValue()},
	})
	if err != nil {
		return s.native(sb, err)
	}
	undo.add(func() error {
		_, err := sb.Tasks.Delete(detached, &taskapi.DeleteRequest{ID: c.id})
		return err
	})
	if _, err := sb.Guest.ReleaseFiles(ctx, &api.ReleaseFilesRequest{Container: c.id}); err != nil {
		return s.native(sb, err)
	}
	s.mu.Lock()
	c.guestPid, c.created = response.Pid, true
	s.mu.Unlock()
	return streams.StartInput()
}
