package main

import (
	"fmt"
	"regexp"
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

func milliseconds(d time.Duration) float64 { return float64(d.Microseconds()) / 1000 }
