// Package bench measures how long containers of an image take to start and to end on this host,
// under several runtimes in turns: what counts are the ratios, in which the machine's own speed
// and its other users cancel out.
package bench

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/v2/client"
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

// Times are those of the containers of one way, in the order in which they ran. Start is from
// the creation of the task until its process runs, End from its SIGKILL until it is deleted.
type Times struct{ Start, End []time.Duration }

// Run starts and ends so many containers of each way, in turns. Before them there is one of
// each that does not count: what comes first on a host reads files that later ones find in memory.
func Run(ctx context.Context, c *client.Client, namespace string, load Load, ways []Way, rounds int) ([]Times, error) {
	image, err := c.GetImage(ctx, load.Image)
	switch {
	case errdefs.IsNotFound(err):
		return nil, fmt.Errorf("image %s is not in containerd's namespace %s: pull it (ctr -n %s image pull), or name the namespace that has it", load.Image, namespace, namespace)
	case err != nil:
		return nil, err
	}
	unpacked, err := image.IsUnpacked(ctx, load.Snapshotter)
	if err == nil && !unpacked {
		err = image.Unpack(ctx, load.Snapshotter)
	}
	if err != nil {
		return nil, err
	}
	return inTurns(len(ways), rounds, func(way, round int) (start, end time.Duration, err error) {
		id := fmt.Sprintf("msbctl-bench-%d-%d-%d", os.Getpid(), round, way)
		start, end, err = one(ctx, c, id, image, load, ways[way])
		if err != nil {
			err = fmt.Errorf("a container of %s: %w", ways[way].Runtime, err)
		}
		return start, end, err
	})
}

// inTurns calls one for each way in each round, every other round in the opposite order: who
// comes after whom is then as often this way as that way. Round 0 does not count.
func inTurns(ways, rounds int, one func(way, round int) (start, end time.Duration, err error)) ([]Times, error) {
	all := make([]Times, ways)
	for round := range rounds + 1 {
		for i := range ways {
			way := i
			if round%2 == 1 {
				way = ways - 1 - i
			}
			start, end, err := one(way, round)
			if err != nil {
				return nil, err
			}
			if round > 0 {
				all[way].Start = append(all[way].Start, start)
				all[way].End = append(all[way].End, end)
			}
		}
	}
	return all, nil
}

// removal is how long the removal of a container may take, also of one that was given up.
const removal = time.Minute

// one starts and ends a container, and leaves nothing of it.
func one(ctx context.Context, c *client.Client, id string, image client.Image, load Load, way Way) (start, end time.Duration, err error) {
	var options any
	if way.Config != "" {
		options = &runtimeoptions.Options{ConfigPath: way.Config}
	}
	container, err := c.NewContainer(ctx, id,
		client.WithSnapshotter(load.Snapshotter), client.WithNewSnapshot(id, image),
		client.WithNewSpec(oci.WithImageConfigArgs(image, load.Command), withCommand(load.Command)), client.WithRuntime(way.Runtime, options))
	if err != nil {
		return 0, 0, err
	}
	defer func() {
		ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), removal)
		defer cancel()
		if task, taskErr := container.Task(ctx, nil); taskErr == nil { // it was given up meanwhile
			_, taskErr = task.Delete(ctx, client.WithProcessKill)
			err = errors.Join(err, taskErr)
		}
		err = errors.Join(err, container.Delete(ctx, client.WithSnapshotCleanup))
	}()
	begun := time.Now()
	task, err := container.NewTask(ctx, cio.NullIO)
	if err == nil {
		err = task.Start(ctx)
	}
	if err != nil {
		return 0, 0, err
	}
	runs := time.Now()
	_, err = task.Delete(ctx, client.WithProcessKill)
	return runs.Sub(begun), time.Since(runs), err
}

// withCommand replaces the whole command, the image's entry point included.
func withCommand(command []string) oci.SpecOpts {
	if len(command) == 0 {
		return oci.Compose()
	}
	return oci.WithProcessArgs(command...)
}
