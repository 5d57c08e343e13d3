package metrics

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/msb-runtime/containerd-shim-msb/ctl/survey"
	"github.com/msb-runtime/containerd-shim-msb/shim/count"
)

// The labels are from tables of ours, whatever a shim answers.

var resultNames = map[count.Result]string{count.Result_SUCCESS: "success", count.Result_FAILURE: "failure", count.Result_LOST: "lost"}

// tellPhases tells how often there was each phase, and how long all of them took.
func tellPhases(s survey.Sandbox, out chan<- prometheus.Metric) {
	for name, phase := range s.Counts.GetPhases() {
		if count.IsPhase(name) {
			seconds := float64(phase.GetNanoseconds()) / float64(time.Second)
			out <- prometheus.MustNewConstSummary(phases.desc, phase.GetCount(), seconds, nil, s.Namespace, s.ID, name)
		}
	}
}

// tellCounts tells the other counters.
func tellCounts(counts *count.Counts, tell func(metric, float64, ...string)) {
	if counts == nil {
		return
	}
	tell(overruns, float64(counts.GetOverruns()))
	type kind struct{ process, result string }
	ends := map[kind]uint64{} // one for each, or all metrics would be an error
	for _, e := range counts.GetExits() {
		k := kind{"container", resultNames[e.GetResult()]}
		if e.GetExec() {
			k.process = "exec"
		}
		if k.result != "" {
			ends[k] += e.GetCount()
		}
	}
	for k, n := range ends {
		tell(exits, float64(n), k.process, k.result)
	}
}
