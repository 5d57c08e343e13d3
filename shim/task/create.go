package task

import (
	"cmp"
	"context"
	"fmt"

	eventsapi "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/containerd/api/types/runc/options"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/containerd/typeurl/v2"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/config"
	"github.com/msb-runtime/containerd-shim-msb/shim/count"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
	"github.com/msb-runtime/containerd-shim-msb/shim/stdio"
	"github.com/msb-runtime/containerd-shim-msb/shim/trace"
	"github.com/msb-runtime/containerd-shim-msb/shim/undo"
)

// Create implements the Task API: plan, attach, boot or join, hand over. After an error
// everything is as before. It is given up when its client's time is over, and when the
// container is deleted meanwhile or its shim is to end.
func (s *Service) Create(ctx context.Context, r *taskapi.CreateTaskRequest) (_ *taskapi.CreateTaskResponse, err error) {
	s.traceStart(ctx)
	var c *container
	defer func() {
		if err != nil {
			c.countFailed(err)
		}
	}()
	if r.Checkpoint != "" || r.ParentCheckpoint != "" {
		return nil, fmt.Errorf("task %s: msb cannot restore a checkpoint: %w", r.ID, errdefs.ErrNotImplemented)
	}
	if err := api.CheckName("container id", r.ID); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	c = newContainer(s, r, cancel)
	if err := s.pod.Add(r.ID, c); err != nil {
		return nil, err
	}
	s.unbury(r.ID)
	defer close(c.settled)
	detached := context.WithoutCancel(ctx)
	var undo undo.Stack
	stop := func() {}
	defer func() {
		if err == nil {
			return
		}
		stop = s.boundUndo(detached, c.id)
		if undoErr := undo.Run(); undoErr != nil {
			log.G(ctx).WithError(undoErr).Warn("undoing a failed create")
		}
	}()
	undo.Add(func() error { c.stopHooks(detached); return nil })
	undo.Add(func() error { c.left.Store(true); return s.pod.Leave(detached, c.id) })
	undo.Add(func() error { stop(); return nil }) // what follows is the host's, and may take its time
	if err := s.create(ctx, c, r, &undo); err != nil {
		return nil, err
	}
	return &taskapi.CreateTaskResponse{Pid: c.pid()}, nil
}

// boundUndo ends the VM if the guest has not undone a creation in the time of a deletion. The
// caller stops that when it is undone.
func (s *Service) boundUndo(ctx context.Context, id string) (stop func()) {
	bounded, cancel := s.boundDeletion(ctx, 0)
	watch := context.AfterFunc(bounded, func() { s.endHeldUp("the end of the creation of container " + id) })
	return func() {
		watch()
		cancel()
	}
}

// create creates a container that has its id.
func (s *Service) create(ctx context.Context, c *container, r *taskapi.CreateTaskRequest, undo *undo.Stack) error {
	configuration, err := config.Load(r.Options)
	if err != nil {
		return err
	}
	if c.plan, err = spec.LoadMember(r.Bundle, s.pod.HeldBy()); err != nil {
		return err
	}
	c.of = c.plan.Pod()
	c.warnMissed(ctx, c.plan.Missed())
	place, err := s.placeFor(c, configuration)
	if err != nil {
		return err
	}
	if c.attached.joined, err = s.joined(place, c.plan); err != nil {
		return err
	}
	undo.Add(func() error { return c.detach(place) })
	if err := c.attach(ctx, place, mount.FromProto(r.Rootfs)); err != nil {
		return err
	}
	c.vm = count.Joined
	if !c.joins() {
		c.vm = place.Origin(configuration.Spare)
	}
	sb, err := s.boot(ctx, c)
	if err != nil {
		return err
	}
	return c.handOver(ctx, sb, r, undo)
}

// countFailed counts a creation that has failed: of a container that has not come to a VM, which may
// be nil, it was refused.
func (c *container) countFailed(err error) {
	if c == nil || c.vm == count.NoVM {
		count.AddRefusal(err)
		return
	}
	count.AddStart(c.vm, false)
}

// placeFor is the place on the host of a container's VM: that of its pod, or a new one.
func (s *Service) placeFor(c *container, config config.Config) (*sandbox.Prepared, error) {
	if c.joins() {
		sb, err := s.pod.Join(c.of.ID)
		if err != nil {
			return nil, err
		}
		return sb.Prepared, nil
	}
	size, err := sandbox.SizeOf(config.VM, c.plan.Size)
	if err != nil {
		return nil, err
	}
	return s.pod.Prepare(c.of.ID, c.id, func() (*sandbox.Prepared, error) {
		return sandbox.Prepare(c.bundle, s.Platform(config), sandbox.Config{
			Size:        size,
			CgroupsPath: c.plan.CgroupsPath(), Resources: c.plan.Resources(),
			OOMScoreAdj: c.plan.OOMScoreAdj(), Network: c.plan.Network(), Users: c.plan.Users(), Pod: c.of.ID != "",
			VMForHost: config.Compat.VMForHost(), GuestImages: config.Images.InGuest(),
		})
	})
}

// joins tells whether the container joins the VM of its pod.
func (c *container) joins() bool { return c.of.ID != "" && !c.of.Sandbox }

// boot starts the VM for its first container; the others join it. What is the
// container's on the host is done meanwhile.
func (s *Service) boot(ctx context.Context, c *container) (*sandbox.Sandbox, error) {
	onHost := func(placeholders sandbox.Placeholders) error {
		if err := c.startPlaceholder(placeholders); err != nil {
			return err
		}
		return c.createHooks(ctx)
	}
	if c.joins() {
		sb, err := s.pod.Join(c.of.ID)
		if err != nil {
			return nil, err
		}
		return sb, onHost(sb.Placeholders)
	}
	return s.pod.Boot(ctx, func(ctx context.Context, place *sandbox.Prepared) (*sandbox.Sandbox, error) {
		sb, err := place.Boot(ctx, onHost)
		if err != nil || !c.of.Sandbox && len(c.attached.joined.ofVM) == 0 {
			return sb, err
		}
		return sb, s.createPod(ctx, sb, c)
	})
}

// handOver gives the container to the guest.
func (c *container) handOver(ctx context.Context, sb *sandbox.Sandbox, r *taskapi.CreateTaskRequest, undo *undo.Stack) (err error) {
	ctx, phase := trace.Begin(ctx, "hand over")
	defer phase.End(&err)
	detached := context.WithoutCancel(ctx)
	init := c.init()
	request, err := c.bundleRequest(sb.Prepared, c.service.podPlaces(c))
	if err != nil {
		return err
	}
	streams, err := stdio.Open(ctx, c.id, init.config) // for a client that is there
	if err != nil {
		return err
	}
	undo.Add(func() error { c.closeStdio(detached, init); return nil })
	undo.Add(func() error { c.removeBundle(detached, sb); return nil })
	stop := c.giveUp(ctx, sb)
	defer stop()
	var bundle string
	refused, err := init.connect(detached, sb, streams, func() (err error) {
		bundle, err = sb.Guest.CreateBundle(detached, request)
		return err
	})
	if err := cmp.Or(err, refused); err != nil {
		return err
	}
	return c.createInGuest(ctx, sb, r, bundle, undo)
}

// giveUp ends the VM, if it is this container's, as soon as its creation is given up. In a
// pod, which is others' too, the guest first does what it was asked to do.
func (c *container) giveUp(ctx context.Context, sb *sandbox.Sandbox) (stop func() bool) {
	if c.joins() {
		return func() bool { return true }
	}
	return context.AfterFunc(ctx, func() {
		sb.End(fmt.Errorf("the creation of container %s was given up: %w", c.id, errdefs.ErrUnavailable))
	})
}

// createInGuest has the guest's task service make the container from its bundle. The guest
// is waited for even if the client has left: it must be known what there is to undo.
func (c *container) createInGuest(ctx context.Context, sb *sandbox.Sandbox, r *taskapi.CreateTaskRequest, bundle string, undo *undo.Stack) error {
	detached := context.WithoutCancel(ctx)
	uid, gid := c.plan.IOOwner()
	runcOptions, err := typeurl.MarshalAnyToProto(&options.Options{BinaryName: api.Crun, IoUid: uid, IoGid: gid})
	if err != nil {
		return err
	}
	streams := c.init().streams.Load()
	guestPid, err := sb.Guest.Create(detached, &taskapi.CreateTaskRequest{
		ID: c.id, Bundle: bundle, Terminal: r.Terminal,
		Stdin: streams.Stdin, Stdout: streams.Stdout, Stderr: streams.Stderr,
		Options: runcOptions,
	})
	if err != nil {
		return err
	}
	undo.Add(func() error {
		_, err := sb.Guest.Delete(detached, &taskapi.DeleteRequest{ID: c.id})
		return err
	})
	c.awaitSockets(ctx)
	if err := streams.StartInput(); err != nil {
		return err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("the creation of task %s was given up: %w", c.id, context.Cause(ctx))
	}
	return c.markCreated(sb, guestPid)
}

// markCreated is the point from which on the task is there. What the guest has told of its
// end meanwhile counts now.
func (c *container) markCreated(sb *sandbox.Sandbox, guestPid uint32) error {
	c.mu.Lock()
	if c.lost {
		c.mu.Unlock()
		return cmp.Or(sb.Guest.Alive(), fmt.Errorf("the VM is gone: %w", errdefs.ErrUnavailable))
	}
	init := c.processes[""]
	c.guestPid, c.created = guestPid, true
	early := c.takeEarly(init)
	c.service.Events.Publish(&eventsapi.TaskCreate{
		ContainerID: c.id, Bundle: c.bundle, Rootfs: c.rootfs, Pid: c.taskPid,
		IO: &eventsapi.TaskIO{Stdin: init.config.Stdin, Stdout: init.config.Stdout, Stderr: init.config.Stderr, Terminal: init.config.Terminal},
	})
	c.mu.Unlock()
	if early != nil {
		c.record(init, early.status)
	}
	return nil
}
