package main

import (
	"fmt"
	"os"
	"regexp"
	"slices"
	"text/tabwriter"
	"time"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

var phaseTrace = regexp.MustCompile(`phase=(?:"([A-Za-z ]+)"|([a-z]+)) .*took="?([0-9.a-zµ]+)"?`)

// phases are the times of a container's life in a log, by the shim's trace, and in which order
// they are first there.
type phases struct {
	order []string
	took  map[string][]time.Duration
}

func (p *phases) add(log string) {
	if p.took == nil {
		p.took = make(map[string][]time.Duration)
	}
	for _, match := range phaseTrace.FindAllStringSubmatch(log, -1) {
		took, err := time.ParseDuration(match[3])
		if err != nil {
			continue
		}
		name := match[1] + match[2]
		if p.took[name] == nil {
			p.order = append(p.order, name)
		}
		p.took[name] = append(p.took[name], took)
	}
}

// printPhases tells where the time of a run goes.
func printPhases(host *harness.Host) {
	var p phases
	p.add(host.Log())
	fmt.Println("\nMedian of the phases of a container's life, by the shim's trace:")
	for _, name := range p.order {
		fmt.Printf("  %-20s %8.1f ms\n", name, milliseconds(median(p.took[name])))
	}
}

// A column is the phases of some starts, beside those of others.
type column struct {
	name string
	phases
}

// printColumns prints how long the shim's part of each start took. What is not of these is
// containerd's.
func printColumns(columns []column) {
	w := tabwriter.NewWriter(os.Stdout, 0, 0, 2, ' ', 0)
	fmt.Fprint(w, "PHASE, ms\t")
	var names []string
	for _, c := range columns {
		fmt.Fprintf(w, "%s\t", c.name)
		for _, name := range c.order {
			if !slices.Contains(names, name) {
				names = append(names, name)
			}
		}
	}
	fmt.Fprintln(w)
	for _, name := range names {
		fmt.Fprintf(w, "%s\t", name)
		for _, c := range columns {
			if took := c.took[name]; len(took) > 0 {
				fmt.Fprintf(w, "%.1f\t", milliseconds(median(took)))
			} else {
				fmt.Fprint(w, "\t")
			}
		}
		fmt.Fprintln(w)
	}
	w.Flush()
}

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
