package main

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	"github.com/msb-runtime/containerd-shim-msb/ctl/bench"
	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// spareBound is what a start with a spare may take of one without.
const spareBound = 0.4

// A way is one to start a container, by ctr's options.
type way struct {
	name    string
	options []string
	times   []time.Duration
	phases  phases
}

// ways are those of a runtime with spares, without, and runc's.
func ways(host *harness.Host, count int) (with, without, native *way, err error) {
	config, err := spareConfig(host, count)
	ours := []string{"--runtime", harness.Runtime, "--runtime-config-path"}
	return &way{name: "with a spare", options: append(ours, config)},
		&way{name: "without", options: append(ours[:3:3], host.Config)},
		&way{name: "runc", options: []string{"--runtime", runc}}, err
}

// spareConfig is a configuration with a number of spares.
func spareConfig(host *harness.Host, count int) (file string, err error) {
	config, err := os.ReadFile(host.Config)
	if err != nil {
		return "", err
	}
	file = filepath.Join(host.Dir, fmt.Sprintf("spares%d.toml", count))
	return file, os.WriteFile(file, fmt.Appendf(config, "[spare]\ncount = %d\nmax = %[1]d\n", count), 0o600)
}

// awaitSpares waits until so many spares wait. No more are made then.
func awaitSpares(host *harness.Host, count int) error {
	if !harness.Eventually(func() bool { return len(host.Spares()) == count }) {
		return fmt.Errorf("%d spares wait, and not %d; with those that boot there are %d", len(host.Spares()), count, len(host.AllSpares()))
	}
	return nil
}

// spareStarts compares starts with and without a spare, which waits before each of either, and
// runc's.
func spareStarts(host *harness.Host) (_ []result, err error) {
	with, without, native, err := ways(host, 1)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, host.EndSpares()) }()
	// The first has nothing to take.
	if _, err := runTrue(host, "first", with.options...); err != nil {
		return nil, err
	}
	before := sparesTaken(host)
	if err := inTurns([]*way{with, without, native}, func(w *way, round int) (time.Duration, error) {
		if err := awaitSpares(host, 1); err != nil {
			return 0, err
		}
		before := len(host.Log())
		took, err := runTrue(host, fmt.Sprintf("start%d", round), w.options...)
		w.phases.add(host.Log()[before:])
		return took, err
	}); err != nil {
		return nil, err
	}
	if taken := sparesTaken(host) - before; taken != *startRounds {
		return nil, fmt.Errorf("%d of %d starts had a spare", taken, *startRounds)
	}
	printPercentiles(fmt.Sprintf("ctr run --rm … true, %d of each, in turns", *startRounds), with, without, native)
	printColumns([]column{{with.name, with.phases}, {without.name, without.phases}})
	return []result{with.against(without, "ctr run --rm … true", spareBound)}, nil
}

// sparesTaken is how many starts had a spare until now.
func sparesTaken(host *harness.Host) int { return strings.Count(host.Log(), "phase=spare ") }

// against compares the medians of two ways of doing something.
func (w *way) against(other *way, what string, bound float64) result {
	return result{
		name: what + " " + w.name + ", against " + other.name, ours: show(median(w.times)), theirs: show(median(other.times)),
		figure: float64(median(w.times)) / float64(median(other.times)), bound: bound, atMost: true, unit: " ×",
	}
}

func printPercentiles(what string, all ...*way) {
	fmt.Printf("\n%s:\n", what)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "P50\tP95\tP99\t  ")
	for _, way := range all {
		fmt.Fprintf(w, "%s\t%s\t%s\t  %s\n", show(bench.Percentile(way.times, 50)), show(bench.Percentile(way.times, 95)), show(bench.Percentile(way.times, 99)), way.name)
	}
	w.Flush()
}

// burstSpares is how many spares wait for a burst.
const burstSpares = 5

// burst starts many containers at once, with fewer spares that wait, and without. Each has to
// end well.
func burst(host *harness.Host) (_ []result, err error) {
	spares := harness.FewEmulated(2, burstSpares)
	with, without, _, err := ways(host, spares)
	if err != nil {
		return nil, err
	}
	with.name = fmt.Sprintf("with %d spares", spares)
	remove, err := filled(host, with, spares)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, remove(), host.EndSpares()) }()
	before := sparesTaken(host)
	for _, w := range []*way{with, without} {
		if err := w.burst(host); err != nil {
			return nil, err
		}
		// What is made again does not boot beside the others.
		if err := awaitSpares(host, spares); err != nil {
			return nil, err
		}
	}
	what := fmt.Sprintf("ctr run --rm … true, %d at once", *burstSize)
	printPercentiles(fmt.Sprintf("%s, of which %d had a spare", what, sparesTaken(host)-before), with, without)
	return []result{with.against(without, what, 0)}, nil
}

// filled has a container's shim make spares, and returns when they wait.
func filled(host *harness.Host, w *way, spares int) (remove func() error, err error) {
	const id = "filler"
	options := append([]string{"run", "-d"}, w.options...)
	if _, stderr, code := host.Ctr(append(append(options, harness.Image, id), harness.Sleeper...)...); code != 0 {
		return nil, errors.New(stderr)
	}
	remove = func() error {
		_, stderr, code := host.Ctr("task", "rm", "--force", id)
		if code == 0 {
			_, stderr, code = host.Ctr("container", "rm", id)
		}
		if code != 0 {
			return errors.New(stderr)
		}
		return nil
	}
	if err := awaitSpares(host, spares); err != nil {
		return nil, errors.Join(err, remove(), host.EndSpares())
	}
	return remove, nil
}

// burst starts containers at once.
func (w *way) burst(host *harness.Host) error {
	type end struct {
		took time.Duration
		err  error
	}
	ends := make(chan end)
	for i := range *burstSize {
		go func() {
			took, err := runTrue(host, fmt.Sprintf("burst%d", i), w.options...)
			ends <- end{took, err}
		}()
	}
	var errs []error
	for range *burstSize {
		end := <-ends
		w.times, errs = append(w.times, end.took), append(errs, end.err)
	}
	return errors.Join(errs...)
}

// idleFor is how long idle VMs are watched.
const idleFor = time.Minute

// idle tells what VMs that do nothing take of the host: of its memory, and of its processors.
func idle(host *harness.Host) (_ []result, err error) {
	count := harness.FewEmulated(2, 10)
	with, _, _, err := ways(host, count)
	if err != nil {
		return nil, err
	}
	remove, err := filled(host, with, count)
	if err != nil {
		return nil, err
	}
	defer func() { err = errors.Join(err, host.EndSpares()) }()
	if err := remove(); err != nil {
		return nil, err
	}
	all := make(map[int]string)
	for _, pid := range host.Spares() {
		for pid, name := range below(pid) {
			all[pid] = name
		}
	}
	processors, slept := processorTime(all), waits(all)
	time.Sleep(idleFor)
	processors, slept = processorTime(all)-processors, waits(all)-slept
	vms := float64(count)
	shared, private := printMemory(all, vms)
	fmt.Printf("memory of 100, by calculation: %.0f MiB, as what they share is there once\n", 100*private/vms+shared)
	return []result{
		{name: fmt.Sprintf("processor time of an idle VM in a minute, of %d", count), ours: fmt.Sprintf("%.2f s", processors/vms), theirs: fmt.Sprintf("(woken up %.0f times a second)", slept/vms/idleFor.Seconds()), figure: 100 * processors / vms / idleFor.Seconds(), unit: " % of one"},
		{name: "memory of a spare (PSS)", ours: fmt.Sprintf("%.0f MiB", (shared+private)/vms), figure: (shared + private) / vms, unit: " MiB"},
	}, nil
}

// printMemory prints what the processes of some VMs have of the host's memory, for each VM, and
// returns what they share among each other and what they have alone, all of them.
func printMemory(processes map[int]string, vms float64) (shared, private float64) {
	type part struct{ shared, private float64 }
	parts := make(map[string]part)
	for pid, name := range processes {
		p := parts[name]
		s, a := proportion(pid)
		parts[name] = part{p.shared + s, p.private + a}
		shared, private = shared+s, private+a
	}
	fmt.Printf("\na spare that waits, one of %.0f: its part of the host's memory (PSS), in MiB\n", vms)
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintln(w, "ALL\tALONE\t  ")
	for _, name := range slices.Sorted(maps.Keys(parts)) {
		fmt.Fprintf(w, "%.1f\t%.1f\t  %s\n", (parts[name].shared+parts[name].private)/vms, parts[name].private/vms, name)
	}
	fmt.Fprintf(w, "%.1f\t%.1f\t  all\n", (shared+private)/vms, private/vms)
	w.Flush()
	return shared, private
}
