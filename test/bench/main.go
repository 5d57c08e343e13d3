// bench measures the runtime on this machine and prints a table. Every figure
// that is judged is a ratio of two measurements of this run, taken in turns: the
// machine's own speed and its other users cancel out.
//
//	bench [MICROSANDBOX]
//
// With the directory of microsandbox's package, whole runs are compared with its
// own, and not with a bare boot. -only images measures root file systems that are made
// of images instead, -only instructions what a start costs the guest, and -only trace
// draws a trace of one. -kit DIR measures this build's kit against another, and -build DIR
// this build against another: starts and execs, or with -only exec those alone.
package main

import (
	"flag"
	"fmt"
	"os"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/containerd/log"

	"github.com/msb-runtime/containerd-shim-msb/ctl/bench"
	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// rounds is how often each pair is measured; the median counts.
const rounds = 7

func main() {
	if err := run(); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
}

// result is one line of the table.
type result struct {
	name          string
	ours, theirs  string
	figure, bound float64 // bound 0: the figure is for comparison
	atMost        bool    // else at least
	unit          string  // of the figure
}

var (
	only = flag.String("only", "", "measure this alone: boot, exec, output, memory, network, files, starts, burst or idle; "+
		"what is measured no other way: instructions, trace, or images, which are jobs, layers and eleventh")
	smallFiles  = flag.Int("files", 5000, "how many small files the image of jobs has")
	imageRounds = flag.Int("rounds", 5, "how often each of jobs and layers is measured; the median counts")
	startRounds = flag.Int("starts", 30, "how often a start, and an exec, of each way is measured")
	burstSize   = flag.Int("burst", 20, "how many containers start at once")
	otherKit    = flag.String("kit", "", "measure starts and execs with this build's kit and with the one in this directory, in turns, and nothing else; empty is none")
	otherBuild  = flag.String("build", "", "the same with this build, its shim and its kit, and the one whose output is in this directory, such as an older commit's; empty is none")
	plotFile    = flag.String("plot", "", "the file that jobs, or a trace, are drawn into, as SVG; empty is none")
)

// imageMeasures are those of root file systems that are made of images.
var imageMeasures = []struct {
	name string
	run  func(*harness.Host) error
}{{"jobs", jobTimes}, {"layers", layerStarts}, {"eleventh", eleventh}}

func run() error {
	flag.Parse()
	if err := log.SetLevel("error"); err != nil {
		return err
	}
	if *only == "trace" {
		if err := collectTraces(); err != nil {
			return err
		}
	}
	host, err := harness.Start(harness.ErofsSize(writableSize))
	if err != nil {
		return err
	}
	defer func() {
		if err := host.Stop(); err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
		}
	}()
	measures := []struct {
		name string
		run  func(*harness.Host) ([]result, error)
	}{{"boot", boot}, {"exec", execs}, {"output", output}, {"memory", memory}, {"network", network}, {"files", files}, {"starts", spareStarts}, {"burst", burst}, {"idle", idle}}
	if flag.NArg() > 0 {
		// The peer's directory: under KVM, the machine is compared with its.
		measures[0].run = func(host *harness.Host) ([]result, error) { return peer(host, flag.Arg(0)) }
	}
	if *only == "instructions" {
		results, err := instructions(host)
		if err == nil {
			print(results)
		}
		return err
	}
	if *only == "trace" {
		return oneTrace(host)
	}
	if *otherKit != "" || *otherBuild != "" {
		results, err := compare(host)
		if err == nil {
			print(results)
		}
		return err
	}
	measured := false
	for _, measure := range imageMeasures {
		if *only != "images" && *only != measure.name {
			continue
		}
		if err := measure.run(host); err != nil {
			return fmt.Errorf("%s: %w", measure.name, err)
		}
		measured = true
	}
	if measured {
		return nil
	}
	var results []result
	for _, measure := range measures {
		if *only != "" && *only != measure.name {
			continue
		}
		more, err := measure.run(host)
		if err != nil {
			return err
		}
		results = append(results, more...)
	}
	print(results)
	printPhases(host)
	return nil
}

func print(results []result) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "WHAT\tOURS\tBASELINE\tFIGURE\tGOAL\t")
	for _, r := range results {
		word, holds := "at least", r.figure >= r.bound
		if r.atMost {
			word, holds = "at most", r.figure <= r.bound
		}
		if r.bound == 0 {
			fmt.Fprintf(w, "%s\t%s\t%s\t%.2f%s\t\t\n", r.name, r.ours, r.theirs, r.figure, r.unit)
			continue
		}
		fmt.Fprintf(w, "%s\t%s\t%s\t%.2f%s\t%s %.4g%s\t%s\n", r.name, r.ours, r.theirs, r.figure, r.unit, word, r.bound, r.unit, verdict(holds))
	}
	w.Flush()
}

// verdict is what a table says of a goal.
func verdict(reached bool) string {
	if reached {
		return "ok"
	}
	return "missed"
}

func median(times []time.Duration) time.Duration { return bench.Percentile(times, 50) }

func middle(values []float64) float64 {
	sorted := slices.Sorted(slices.Values(values))
	return sorted[len(sorted)/2]
}

func show(d time.Duration) string { return d.Round(time.Millisecond).String() }
