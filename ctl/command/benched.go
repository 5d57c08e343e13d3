package command

import (
	"fmt"
	"io"
	"strings"
	"time"

	"github.com/msb-runtime/containerd-shim-msb/ctl/bench"
	"github.com/msb-runtime/containerd-shim-msb/internal/plot"
)

// benched is what was measured. Of each runtime there are the times of the first one as multiples
// of its own.
type benched struct {
	Image    string           `json:"image"`
	Rounds   int              `json:"rounds"`
	Runtimes []benchedRuntime `json:"runtimes"`
	// Files are jobs on files, done FileRounds times; LeftOut says what was not done, and why.
	FileRounds int          `json:"file_rounds,omitempty"`
	Files      []benchedJob `json:"files,omitempty"`
	LeftOut    []string     `json:"left_out,omitempty"`
}

type benchedJob struct {
	Job      string         `json:"job"`
	Place    bench.Place    `json:"place"`
	Runtimes []benchedFiles `json:"runtimes"`
}

type benchedFiles struct {
	Runtime string `json:"runtime"`
	figures
}

type benchedRuntime struct {
	Runtime string  `json:"runtime"`
	Start   figures `json:"start"`
	End     figures `json:"end"`
}

// figures are times in seconds. Times50 and Times95 are how many times as long the first
// runtime's take.
type figures struct {
	P50     float64   `json:"p50_seconds"`
	P95     float64   `json:"p95_seconds"`
	Times50 float64   `json:"ratio_p50"`
	Times95 float64   `json:"ratio_p95"`
	All     []float64 `json:"seconds"`

	times []time.Duration
}

func figuresOf(times, first []time.Duration) figures {
	f := figures{
		P50: bench.Percentile(times, 50).Seconds(), P95: bench.Percentile(times, 95).Seconds(),
		Times50: bench.Ratio(first, times, 50), Times95: bench.Ratio(first, times, 95), times: times,
	}
	for _, one := range times {
		f.All = append(f.All, one.Seconds())
	}
	return f
}

// print prints a table, and below it how the times are spread.
func (b benched) print(out io.Writer) error {
	fmt.Fprintf(out, "%d of each runtime, in turns: %s\n\n", b.Rounds, b.Image)
	what := []struct {
		name string
		of   func(benchedRuntime) figures
	}{
		{"start", func(r benchedRuntime) figures { return r.Start }},
		{"end", func(r benchedRuntime) figures { return r.End }},
	}
	table := columns(out)
	fmt.Fprintln(table, "WHAT\tRUNTIME\tP50\tP95\t× P50\t× P95")
	for _, w := range what {
		for i, r := range b.Runtimes {
			f, ratios := w.of(r), "-\t-"
			if i > 0 {
				ratios = fmt.Sprintf("%.3g\t%.3g", f.Times50, f.Times95)
			}
			fmt.Fprintf(table, "%s\t%s\t%s\t%s\t%s\n", w.name, r.Runtime, milliseconds(f.P50), milliseconds(f.P95), ratios)
		}
	}
	if err := table.Flush(); err != nil {
		return err
	}
	for _, w := range what {
		var all [][]time.Duration
		for _, r := range b.Runtimes {
			all = append(all, w.of(r).times)
		}
		const width = 60
		strip := bench.NewStrip(width, all...)
		low, high := milliseconds(strip.Low.Seconds()), milliseconds(strip.High.Seconds())
		fmt.Fprintf(out, "\n%-22s  %s%*s\n", w.name, low, width-len(low), high)
		for _, r := range b.Runtimes {
			fmt.Fprintf(out, "%-22s  %s\n", r.Runtime, strings.TrimRight(strip.Draw(w.of(r).times), " "))
		}
	}
	return b.printFiles(out)
}

// printFiles prints a line for each job and place: the medians, and their ratio.
func (b benched) printFiles(out io.Writer) error {
	if len(b.Files) > 0 {
		fmt.Fprintf(out, "\nfiles, each job %d times: medians\n\n", b.FileRounds)
		table := columns(out)
		fmt.Fprint(table, "WHAT\tWHERE")
		for i, r := range b.Runtimes {
			fmt.Fprintf(table, "\t%s", r.Runtime)
			if i > 0 {
				fmt.Fprint(table, "\t×")
			}
		}
		fmt.Fprintln(table)
		for _, job := range b.Files {
			fmt.Fprintf(table, "%s\t%s", job.Job, job.Place)
			for i, r := range job.Runtimes {
				fmt.Fprintf(table, "\t%s", milliseconds(r.P50))
				if i > 0 {
					fmt.Fprintf(table, "\t%.3g", r.Times50)
				}
			}
			fmt.Fprintln(table)
		}
		if err := table.Flush(); err != nil {
			return err
		}
	}
	for _, what := range b.LeftOut {
		fmt.Fprintf(out, "left out: %s\n", what)
	}
	return nil
}

// plot draws how many times as long as the second runtime's the first one's take, by the medians.
func (b benched) plot() plot.Bars {
	if len(b.Runtimes) < 2 {
		return plot.Bars{}
	}
	other := b.Runtimes[1]
	bars := plot.Bars{
		Title:  fmt.Sprintf("%s: time as a multiple of %s's, less is better", b.Runtimes[0].Runtime, other.Runtime),
		Series: []string{"files in the " + string(bench.InRoot), "files in a " + string(bench.InMount), "starts and ends"},
	}
	const start = 2
	bars.Rows = append(bars.Rows, plot.Row{Name: "start", Bars: []plot.Bar{{Series: start, Multiple: other.Start.Times50}}}, plot.Row{Name: "end", Bars: []plot.Bar{{Series: start, Multiple: other.End.Times50}}})
	for _, job := range b.Files {
		bar := plot.Bar{Multiple: job.Runtimes[1].Times50}
		if job.Place == bench.InMount {
			bar.Series = 1
		}
		if last := &bars.Rows[len(bars.Rows)-1]; last.Name == job.Job {
			last.Bars = append(last.Bars, bar)
			continue
		}
		bars.Rows = append(bars.Rows, plot.Row{Name: job.Job, Bars: []plot.Bar{bar}})
	}
	return bars
}

func milliseconds(seconds float64) string { return fmt.Sprintf("%.0f ms", 1000*seconds) }
