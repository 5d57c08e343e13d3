package metrics

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/msb-runtime/containerd-shim-msb/shim/count"
)

// tellCounts tells what all shims of the host have counted. All labels are from tables of count's.
func (s Source) tellCounts(out chan<- prometheus.Metric) error {
	counts, err := count.Read(s.Counts)
	if err != nil {
		return fmt.Errorf("what the shims have counted: %w", err)
	}
	for _, p := range counts.Phases {
		out <- prometheus.MustNewConstHistogram(phases.desc, p.Count, p.Sum.Seconds(), p.Buckets, p.Name, p.Driver)
	}
	overrun, violation := count.Counter{Count: counts.Overruns}, count.Counter{Count: counts.Violations}
	for _, told := range []struct {
		metric
		counters []count.Counter
	}{
		{starts, counts.Starts},
		{refusals, counts.Refusals},
		{exits, counts.Exits},
		{streams, counts.Streams},
		{overruns, []count.Counter{overrun}},
		{violations, []count.Counter{violation}},
	} {
		for _, c := range told.counters {
			out <- prometheus.MustNewConstMetric(told.desc, told.kind, float64(c.Count), c.Labels...)
		}
	}
	return nil
}
