package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"text/tabwriter"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/mount"
	"github.com/containerd/containerd/v2/core/snapshots"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/image-spec/identity"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// A job is one of the probe's works, and what it may take of what it takes elsewhere.
type job struct {
	work, name string
	bound      float64
	// onShare compares with the root file system over virtio-fs; otherwise it is the guest's
	// tmpfs that the job is compared with.
	onShare bool
	// after is the work that undoes it; it is not measured.
	after string
}

var jobs = []job{
	{work: "exec-small", name: "40 runs of a program of 2 MiB", bound: 1.3},
	{work: "exec-large", name: "3 runs of a program of 55 MiB", bound: 1.3},
	{work: "find", name: "find", bound: 1.3},
	{work: "read", name: "reading small files", bound: 1.3},
	{work: "modules", name: "importing 200 modules", bound: 1.3},
	{work: "create", name: "creating small files", bound: 3},
	{work: "delete", name: "deleting them", bound: 3},
	{work: "untar", name: "tar x", bound: 3, after: "delete"},
	{work: "write", name: "writing 256 MiB, and fsync", bound: 1.2, onShare: true},
	{work: "read-back", name: "reading 256 MiB back", bound: 1.3},
	{work: "fsync", name: "100 writes of 4 KiB, each with fdatasync", bound: 1.2, onShare: true, after: "remove-file"},
}

// A place is where the jobs are done, in a container.
type place struct {
	name, runtime, snapshotter, dir string
}

// furniture is where a layer of an image has what the jobs are done to.
const furniture = "/furniture"

var places = []place{
	{"tmpfs", harness.Runtime, harness.Erofs, "/ram"},
	{"erofs", harness.Runtime, harness.Erofs, furniture},
	{"overlayfs", harness.Runtime, "overlayfs", furniture},
	{"runc", runc, "overlayfs", furniture},
}

// imageRounds is how often each job is done in each place; the median counts. The first round
// reads what nobody has read before.
const imageRounds = 5

// writableSize is that of the writable layers of the erofs snapshotter.
const writableSize = "2GiB"

// images compares root file systems by what programs do to files: of the erofs snapshotter, with
// a writable layer in a file, and of overlayfs, beside the guest's own tmpfs and runc on
// the host.
func images(host *harness.Host, files int) (err error) {
	ctx, cancel := host.Context()
	defer cancel()
	containers := make(map[string]*running)
	for _, p := range places {
		key := p.runtime + " " + p.snapshotter
		if containers[key] != nil {
			continue
		}
		layer, err := furnished(ctx, host, p.snapshotter, files)
		if err != nil {
			return fmt.Errorf("making a layer of %s: %w", p.snapshotter, err)
		}
		c, err := inLayer(ctx, host, layer, p)
		if err != nil {
			return fmt.Errorf("a container of %s in %s: %w", p.runtime, p.snapshotter, err)
		}
		defer func() { err = errors.Join(err, c.remove(ctx)) }()
		containers[key] = c
	}
	times := make(map[string]map[string][]time.Duration)
	for _, p := range places {
		times[p.name] = make(map[string][]time.Duration)
	}
	for range imageRounds {
		for _, job := range jobs {
			for _, p := range places {
				took, err := job.do(ctx, containers[p.runtime+" "+p.snapshotter], p.dir)
				if err != nil {
					return fmt.Errorf("%s in %s: %w", job.name, p.name, err)
				}
				times[p.name][job.work] = append(times[p.name][job.work], took)
			}
		}
	}
	printImages(files, times)
	return nil
}

// do does a job in a directory of a container, and undoes it.
func (j job) do(ctx context.Context, c *running, dir string) (time.Duration, error) {
	printed, err := probe(ctx, c, "work", j.work, dir)
	if err != nil {
		return 0, err
	}
	took, err := time.ParseDuration(printed)
	if err != nil {
		return 0, errors.New(printed)
	}
	if j.after != "" {
		if printed, err = probe(ctx, c, "work", j.after, dir); err == nil {
			if _, err = time.ParseDuration(printed); err != nil {
				err = errors.New(printed)
			}
		}
	}
	return took, err
}

// printImages prints a line for each job: the median of its times, and how often those of the
// guest's tmpfs that is.
func printImages(files int, times map[string]map[string][]time.Duration) {
	fmt.Printf("%d small files of 1 to 8 KiB; medians of %d rounds, and × the guest's tmpfs\n", files, imageRounds)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "WHAT\tTMPFS\tEROFS\t\tOVERLAYFS\t\tRUNC, OVERLAYFS\tGOAL OF EROFS\t")
	for _, job := range jobs {
		median := func(place string) time.Duration { return median(times[place][job.work]) }
		times := func(place string) float64 { return float64(median(place)) / float64(median("tmpfs")) }
		figure, of := times("erofs"), ""
		if job.onShare {
			figure, of = float64(median("erofs"))/float64(median("overlayfs")), " overlayfs's"
		}
		verdict := "missed"
		if figure <= job.bound {
			verdict = "ok"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%.2f ×\t%s\t%.2f ×\t%s\tat most %.4g ×%s\t%s\n", job.name, show(median("tmpfs")), show(median("erofs")), times("erofs"),
			show(median("overlayfs")), times("overlayfs"), show(median("runc")), job.bound, of, verdict)
	}
	w.Flush()
}

// furnished is a committed snapshot with what the jobs are done to, above the image.
func furnished(ctx context.Context, host *harness.Host, snapshotter string, files int) (name string, err error) {
	const key = "furnishing"
	name = "furnished"
	kept := snapshots.WithLabels(map[string]string{"containerd.io/gc.root": time.Now().UTC().Format(time.RFC3339)})
	service := host.Client.SnapshotService(snapshotter)
	if _, err := service.Stat(ctx, name); err == nil {
		return name, nil // made for another place
	}
	image, err := host.Client.GetImage(ctx, harness.Image)
	if err != nil {
		return "", err
	}
	if err := image.Unpack(ctx, snapshotter); err != nil {
		return "", err
	}
	layers, err := image.RootFS(ctx)
	if err != nil {
		return "", err
	}
	mounts, err := service.Prepare(ctx, key, identity.ChainID(layers).String(), kept)
	if err != nil {
		return "", err
	}
	if err := mounted(ctx, host, mounts, func(dir string) error { return furnish(host, filepath.Join(dir, furniture), files) }); err != nil {
		return "", err
	}
	return name, service.Commit(ctx, name, key, kept)
}

// mounted does something where a snapshot is mounted.
func mounted(ctx context.Context, host *harness.Host, mounts []mount.Mount, do func(dir string) error) (err error) {
	// What is mounted would be garbage without a lease.
	ctx, release, err := host.Client.WithLease(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, release(ctx)) }()
	manager := host.Client.MountManager()
	active, err := manager.Activate(ctx, "furnishing", mounts)
	if err == nil {
		defer func() { err = errors.Join(err, manager.Deactivate(ctx, active.Name)) }()
		mounts = active.System
	}
	dir, err := os.MkdirTemp(host.Dir, "furnishing-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.Remove(dir)) }()
	if err := mount.All(mounts, dir); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, mount.UnmountAll(dir, 0)) }()
	return do(dir)
}

// furnish has the probe make what the jobs are done to.
func furnish(host *harness.Host, dir string, files int) error {
	busybox, err := exec.LookPath("busybox")
	if err != nil {
		return err
	}
	tools := filepath.Join(host.Output, "tools")
	output, err := exec.Command(filepath.Join(tools, "probe"), "furnish", dir, strconv.Itoa(files), busybox, filepath.Join(tools, "containerd")).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%w: %s", err, output)
	}
	return nil
}

// inLayer starts a container above a committed snapshot. In the first place that is asked for,
// its tmpfs is furnished, too.
func inLayer(ctx context.Context, host *harness.Host, layer string, p place) (_ *running, err error) {
	id := "images-" + p.name
	if _, err := host.Client.SnapshotService(p.snapshotter).Prepare(ctx, id, layer); err != nil {
		return nil, err
	}
	spec := []oci.SpecOpts{
		oci.WithProcessArgs(harness.Sleeper...), oci.WithEnv([]string{"PATH=/bin"}),
		oci.WithAnnotations(map[string]string{"io.containerd.msb.vm.memory": "2GiB"}),
		oci.WithMounts([]specs.Mount{
			{Type: "bind", Source: filepath.Join(host.Output, "tools"), Destination: "/tools", Options: []string{"rbind", "ro"}},
			{Type: "tmpfs", Source: "tmpfs", Destination: "/ram", Options: []string{"size=1g"}},
		}),
	}
	container, err := host.Client.NewContainer(ctx, id, client.WithSnapshotter(p.snapshotter), client.WithSnapshot(id), client.WithNewSpec(spec...), withRuntime(host, p.runtime))
	if err != nil {
		return nil, err
	}
	r := &running{container: container}
	defer func() {
		if err != nil {
			err = errors.Join(err, r.remove(ctx))
		}
	}()
	if r.Task, err = container.NewTask(ctx, cio.NullIO); err != nil {
		return nil, err
	}
	if r.exit, err = r.Wait(ctx); err != nil {
		return nil, err
	}
	if err := r.Start(ctx); err != nil {
		return nil, err
	}
	if p.dir == furniture {
		return r, nil
	}
	_, stderr, code := host.Ctr("task", "exec", "--exec-id", "copy", id, "cp", "-a", furniture+"/.", p.dir)
	if code != 0 {
		return nil, fmt.Errorf("copying to %s: %s", p.dir, stderr)
	}
	return r, nil
}
