package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// layerCounts are the numbers of layers of the images that are started. An image has at most 253.
var layerCounts = []int{1, 12, 100}

// shareBound is what the start of an image of one layer may take of what one over virtio-fs takes.
const shareBound = 1.1

// starts are those of the containers of one image in one snapshotter.
type starts struct {
	snapshotter, layer string
	layers             int
	times              []time.Duration
	processors         []float64 // seconds
	phases             phases
}

// layerStarts compares how long containers take to their first instruction: of images of
// several numbers of layers, whose layers the guest mounts, and in a root file system over
// virtio-fs.
func layerStarts(host *harness.Host) error {
	ctx, cancel := host.Context()
	defer cancel()
	var all []*starts
	for _, snapshotter := range []string{harness.Erofs, "overlayfs"} {
		image, err := imageSnapshot(ctx, host, snapshotter)
		if err != nil {
			return err
		}
		for _, layers := range layerCounts {
			layer, err := layered(ctx, host, snapshotter, image, layers-1)
			if err != nil {
				return fmt.Errorf("making an image of %d layers of %s: %w", layers, snapshotter, err)
			}
			all = append(all, &starts{snapshotter: snapshotter, layer: layer, layers: layers})
		}
	}
	// The first round is to warm up: programs and layers are read for the first time.
	for round := range 1 + *imageRounds {
		for _, s := range all {
			if round == 1 {
				s.forget()
			}
			if err := s.start(ctx, host, round); err != nil {
				return fmt.Errorf("starting a container of %d layers of %s: %w", s.layers, s.snapshotter, err)
			}
		}
	}
	printStarts(all)
	return nil
}

// start starts one container and measures it from containerd's making of the task to the first
// byte that the container prints; and what its shim, VMM and file servers took of the
// processors until its end, which the machine's other users change less. The snapshot is there before.
func (s *starts) start(ctx context.Context, host *harness.Host, round int) error {
	id := fmt.Sprintf("start-%s-%d-%d", s.snapshotter, s.layers, round)
	container, err := above(ctx, host, id, harness.Runtime, s.snapshotter, s.layer, []oci.SpecOpts{oci.WithProcessArgs("echo", "started")})
	if err != nil {
		return err
	}
	var m meter
	before, begin := len(host.Log()), time.Now()
	r, err := startTask(ctx, container, cio.NewCreator(cio.WithStreams(nil, &m, io.Discard)))
	if err != nil {
		return err
	}
	<-r.exit
	processes, err := processesOf(host, id)
	processors := processorTime(processes)
	if err != nil {
		return errors.Join(err, r.remove(ctx))
	}
	if err := r.remove(ctx); err != nil {
		return err
	}
	s.phases.add(host.Log()[before:])
	if m.bytes == 0 {
		return errors.New("it printed nothing")
	}
	s.times, s.processors = append(s.times, m.first.Sub(begin)), append(s.processors, processors)
	return nil
}

// forget forgets what was measured.
func (s *starts) forget() { s.times, s.processors, s.phases = nil, nil, phases{} }

// printStarts prints a line for each number of layers, what each layer takes, and where the
// time goes.
func printStarts(all []*starts) {
	of := func(snapshotter string, layers int) *starts {
		return all[slices.IndexFunc(all, func(s *starts) bool { return s.snapshotter == snapshotter && s.layers == layers })]
	}
	share := of("overlayfs", 1)
	fmt.Printf("\nfrom the task's creation to the container's first byte; medians of %d rounds, and × overlayfs with one layer\n", *imageRounds)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "LAYERS\tTIME\t\tPROCESSORS\t\tGOAL OF EROFS\t")
	for _, s := range all {
		figure := float64(median(s.times)) / float64(median(share.times))
		goal := "\t"
		if s == of(harness.Erofs, 1) {
			goal = fmt.Sprintf("at most %.4g ×\t%s", shareBound, verdict(figure <= shareBound))
		}
		fmt.Fprintf(w, "%d, %s\t%s\t%.2f ×\t%.2f s\t%.2f ×\t%s\n", s.layers, s.snapshotter, show(median(s.times)), figure,
			middle(s.processors), middle(s.processors)/middle(share.processors), goal)
	}
	w.Flush()
	for _, snapshotter := range []string{harness.Erofs, "overlayfs"} {
		for i, layers := range layerCounts[1:] {
			less, more := of(snapshotter, layerCounts[i]), of(snapshotter, layers)
			each := 1000 / float64(more.layers-less.layers)
			fmt.Printf("each layer of %s from %d to %d: %.1f ms, %.1f ms of processors\n", snapshotter, less.layers, more.layers,
				each*(median(more.times)-median(less.times)).Seconds(), each*(middle(more.processors)-middle(less.processors)))
		}
	}
	var columns []column
	for _, s := range all {
		columns = append(columns, column{fmt.Sprintf("%s, %d", s.snapshotter, s.layers), s.phases})
	}
	printColumns(columns)
}
