package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"text/tabwriter"
	"time"

	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
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

var places = []place{
	{"tmpfs", harness.Runtime, harness.Erofs, "/ram"},
	{"erofs", harness.Runtime, harness.Erofs, furniture},
	{"overlayfs", harness.Runtime, "overlayfs", furniture},
	{"runc", runc, "overlayfs", furniture},
}

// writableSize is that of the writable layers of the erofs snapshotter.
const writableSize = "2GiB"

// jobTimes compares root file systems by what programs do to files: of the erofs snapshotter,
// with a writable layer in a file, and of overlayfs, beside the guest's own tmpfs and runc on the
// host. The first round reads what nobody has read before.
func jobTimes(host *harness.Host) (err error) {
	ctx, cancel := host.Context()
	defer cancel()
	containers := make(map[string]*running)
	for _, p := range places {
		key := p.runtime + " " + p.snapshotter
		if containers[key] != nil {
			continue
		}
		layer, err := furnished(ctx, host, p.snapshotter, *smallFiles)
		if err != nil {
			return fmt.Errorf("making a layer of %s: %w", p.snapshotter, err)
		}
		c, err := inPlace(ctx, host, layer, p)
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
	for range *imageRounds {
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
	printJobs(times)
	if *plotFile != "" {
		return writePlot(*plotFile, times)
	}
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

// printJobs prints a line for each job: the median of its times, and how often those of the
// guest's tmpfs that is.
func printJobs(times map[string]map[string][]time.Duration) {
	fmt.Printf("%d small files of 1 to 8 KiB; medians of %d rounds, and × the guest's tmpfs\n", *smallFiles, *imageRounds)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "WHAT\tTMPFS\tEROFS\t\tOVERLAYFS\t\tRUNC, OVERLAYFS\tGOAL OF EROFS\t")
	for _, job := range jobs {
		median := func(place string) time.Duration { return median(times[place][job.work]) }
		times := func(place string) float64 { return float64(median(place)) / float64(median("tmpfs")) }
		figure, of := times("erofs"), ""
		if job.onShare {
			figure, of = float64(median("erofs"))/float64(median("overlayfs")), " overlayfs's"
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%.2f ×\t%s\t%.2f ×\t%s\tat most %.4g ×%s\t%s\n", job.name, show(median("tmpfs")), show(median("erofs")), times("erofs"),
			show(median("overlayfs")), times("overlayfs"), show(median("runc")), job.bound, of, verdict(figure <= job.bound))
	}
	w.Flush()
}

// inPlace starts a container for the jobs above a committed snapshot. In the first place that is
// asked for, its tmpfs is furnished, too.
func inPlace(ctx context.Context, host *harness.Host, layer string, p place) (*running, error) {
	id := "images-" + p.name
	container, err := above(ctx, host, id, p.runtime, p.snapshotter, layer, []oci.SpecOpts{
		oci.WithProcessArgs(harness.Sleeper...),
		oci.WithAnnotations(map[string]string{"io.containerd.msb.vm.memory": "2GiB"}),
		oci.WithMounts([]specs.Mount{
			{Type: "bind", Source: filepath.Join(host.Output, "tools"), Destination: "/tools", Options: []string{"rbind", "ro"}},
			{Type: "tmpfs", Source: "tmpfs", Destination: "/ram", Options: []string{"size=1g"}},
		}),
	})
	if err != nil {
		return nil, err
	}
	r, err := startTask(ctx, container, cio.NullIO)
	if err != nil || p.dir == furniture {
		return r, err
	}
	_, stderr, code := host.Ctr("task", "exec", "--exec-id", "copy", id, "cp", "-a", furniture+"/.", p.dir)
	if code != 0 {
		return nil, errors.Join(fmt.Errorf("copying to %s: %s", p.dir, stderr), r.remove(ctx))
	}
	return r, nil
}
