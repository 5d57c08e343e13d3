// Package bench measures, on this host, how long containers of an image take to start and to end,
// and what programs in them do to files, under several runtimes in turns: what counts are the
// ratios, in which the machine's own speed and its other users cancel out.
//
//	Bench.Starts   starts and ends (bench.go)
//	Bench.Files    work on files (files.go), told to a shell in each container (shell.go)
//	Percentile …   what is told of times (times.go)
package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/leases"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/containerd/errdefs"
)

// A Way is how containers are run.
type Way struct {
	Runtime string
	// Config names a file of the runtime's settings; empty is its own.
	Config string
}

// A Load is what is run.
type Load struct {
	Image       string
	Snapshotter string // empty is containerd's own
	// Command is run in place of the image's, if there is one.
	Command []string
}

// A Bench measures a load in ways. What it makes it has removed when a method returns, also when
// the context has ended.
type Bench struct {
	client *client.Client
	image  client.Image
	load   Load
	ways   []Way
}

// New unpacks the image, if it is not yet. The context has containerd's namespace, whose name is
// for the error.
func New(ctx context.Context, c *client.Client, namespace string, load Load, ways []Way) (_ *Bench, err error) {
	image, err := c.GetImage(ctx, load.Image)
	switch {
	case errdefs.IsNotFound(err):
		return nil, fmt.Errorf("image %s is not in containerd's namespace %s: pull it (ctr -n %s image pull), or name the namespace that has it", load.Image, namespace, namespace)
	case err != nil:
		return nil, err
	}
	unpacked, err := image.IsUnpacked(ctx, load.Snapshotter)
	if err == nil && !unpacked {
		err = unpack(ctx, c, image, load.Snapshotter)
	}
	if err != nil {
		return nil, err
	}
	return &Bench{c, image, load, ways}, nil
}

// unpack holds what it makes by a lease of its own, which it can give back when the context has
// ended: that of the client's would stay for a day.
func unpack(ctx context.Context, c *client.Client, image client.Image, snapshotter string) error {
	manager := c.LeasesService()
	step, cancel := unbroken(ctx)
	defer cancel()
	lease, err := manager.Create(step, leases.WithRandomID(), leases.WithExpiration(24*time.Hour))
	if err != nil {
		return err
	}
	err = image.Unpack(leases.WithLease(ctx, lease.ID), snapshotter)
	step, cancel = unbroken(ctx)
	defer cancel()
	return errors.Join(err, manager.Delete(step, lease, leases.SynchronousDelete))
}

// stepLimit is how long a step may take.
const stepLimit = 5 * time.Minute

// unbroken is for a step that goes on when ctx ends: what containerd has begun would go on, too,
// and what comes of it would be left.
func unbroken(ctx context.Context) (context.Context, context.CancelFunc) {
	return context.WithTimeout(context.WithoutCancel(ctx), stepLimit)
}

// Times are those of the containers of one way, in the order in which they ran. Start is from
// the creation of the task until its process runs, End from its SIGKILL until it is deleted.
type Times struct{ Start, End []time.Duration }

// Starts starts and ends so many containers of each way, in turns. Before them there is one of
// each that does not count: what comes first on a host reads files that later ones find in memory.
func (b *Bench) Starts(ctx context.Context, rounds int) ([]Times, error) {
	all := make([]Times, len(b.ways))
	return all, inTurns(ctx, len(b.ways), rounds, func(way, round int) error {
		start, end, err := b.start(ctx, fmt.Sprintf("%d-%d", round, way), b.ways[way])
		if err == nil && round > 0 {
			all[way].Start = append(all[way].Start, start)
			all[way].End = append(all[way].End, end)
		}
		return b.explain(way, err)
	})
}

// inTurns calls one for each way in each round, every other round in the opposite order: who
// comes after whom is then as often this way as that way. Round 0 does not count.
func inTurns(ctx context.Context, ways, rounds int, one func(way, round int) error) error {
	for round := range rounds + 1 {
		for i := range ways {
			way := i
			if round%2 == 1 {
				way = ways - 1 - i
			}
			if err := ctx.Err(); err != nil {
				return err
			}
			if err := one(way, round); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *Bench) explain(way int, err error) error {
	if err == nil {
		return nil
	}
	return fmt.Errorf("a container of %s: %w", b.ways[way].Runtime, err)
}

// start starts and ends a container, and leaves nothing of it.
func (b *Bench) start(ctx context.Context, name string, way Way) (start, end time.Duration, err error) {
	container, err := b.create(ctx, name, way, oci.WithImageConfigArgs(b.image, b.load.Command), withCommand(b.load.Command))
	if err != nil {
		return 0, 0, err
	}
	defer func() { err = errors.Join(err, remove(ctx, container)) }()
	begun := time.Now()
	task, err := run(ctx, container, cio.NullIO)
	if err != nil {
		return 0, 0, err
	}
	runs := time.Now()
	err = kill(ctx, task)
	return runs.Sub(begun), time.Since(runs), err
}

// create makes a container of the image. The caller removes it.
func (b *Bench) create(ctx context.Context, name string, way Way, options ...oci.SpecOpts) (client.Container, error) {
	var settings any
	if way.Config != "" {
		settings = &runtimeoptions.Options{ConfigPath: way.Config}
	}
	id := fmt.Sprintf("msbctl-bench-%d-%s", os.Getpid(), name)
	ctx, cancel := unbroken(ctx)
	defer cancel()
	return b.client.NewContainer(ctx, id,
		client.WithSnapshotter(b.load.Snapshotter), client.WithNewSnapshot(id, b.image),
		client.WithNewSpec(options...), client.WithRuntime(way.Runtime, settings))
}

// run starts a container's task. The caller ends it.
func run(ctx context.Context, container client.Container, streams cio.Creator) (client.Task, error) {
	step, cancel := unbroken(ctx)
	defer cancel()
	task, err := container.NewTask(step, streams)
	if err != nil {
		return nil, err
	}
	if err := task.Start(step); err != nil {
		return nil, errors.Join(err, kill(ctx, task))
	}
	return task, nil
}

// kill kills a task, and deletes it with its streams.
func kill(ctx context.Context, task client.Task) error {
	ctx, cancel := unbroken(ctx)
	defer cancel()
	_, err := task.Delete(ctx, client.WithProcessKill)
	return err
}

// remove removes a container, and its task if that could not be ended.
func remove(ctx context.Context, container client.Container) (err error) {
	ctx, cancel := unbroken(ctx)
	defer cancel()
	if task, taskErr := container.Task(ctx, nil); taskErr == nil {
		_, err = task.Delete(ctx, client.WithProcessKill)
	}
	return errors.Join(err, container.Delete(ctx, client.WithSnapshotCleanup))
}

// withCommand replaces the whole command, the image's entry point included.
func withCommand(command []string) oci.SpecOpts {
	if len(command) == 0 {
		return oci.Compose()
	}
	return oci.WithProcessArgs(command...)
}
