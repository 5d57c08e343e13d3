package main

import (
	"os"
	"time"

	"github.com/msb-runtime/containerd-shim-msb/internal/plot"
)

// drawn are the places whose times are drawn.
var drawn = []struct{ place, name string }{{"erofs", "erofs, in the guest"}, {"overlayfs", "overlayfs, over virtio-fs"}}

// writePlot draws how often the guest's tmpfs's time each job takes, by the medians, into a file.
func writePlot(path string, times map[string]map[string][]time.Duration) error {
	bars := plot.Bars{Title: "Time as a multiple of the guest's tmpfs: less is better"}
	for _, d := range drawn {
		bars.Series = append(bars.Series, d.name)
	}
	for _, job := range jobs {
		row := plot.Row{Name: job.name}
		for i, d := range drawn {
			multiple := float64(median(times[d.place][job.work])) / float64(median(times["tmpfs"][job.work]))
			row.Bars = append(row.Bars, plot.Bar{Series: i, Multiple: multiple})
		}
		bars.Rows = append(bars.Rows, row)
	}
	return os.WriteFile(path, []byte(bars.SVG()), 0o644)
}
