package e2e

import (
	"fmt"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"
)

// What a guest may cost the host, whoever owns it. Where a slow machine makes a figure
// larger, the test fails only far beyond the bound; its table has the figures.
const (
	// endBound is how long kill and delete may take together.
	endBound, endLimit = 35 * time.Second, 70 * time.Second
	// metricsBound is how long containerd may take for the metrics of another container.
	metricsBound, metricsLimit = 2 * time.Second, 10 * time.Second
	// memoryBound is how much more memory the shim may have than that of a good guest, in
	// bytes.
	memoryBound = 32 << 20
	// logBound is how much may get into containerd's log in a minute, in bytes.
	logBound = 1 << 20
)

// A hostileResult is what a guest cost.
type hostileResult struct {
	row            hostileRow
	began          time.Time
	took           time.Duration
	start          error // of create and start
	kill, deletion time.Duration
	calls          time.Duration // the longest of row.client
	memory         int64         // of the shim, beyond that of a good guest's, in bytes
	logged         int           // by all who live at the same time, in bytes
	metrics        metricsSample
	left           []string
	failed         []string // what else is not as it should be
}

// faults says what is beyond a bound.
func (r hostileResult) faults() []string {
	faults := slices.Clone(r.failed)
	check := func(bad bool, format string, arguments ...any) {
		if bad {
			faults = append(faults, cut(fmt.Sprintf(format, arguments...)))
		}
	}
	check(r.start != nil, "it did not start: %v", r.start)
	check(r.kill+r.deletion > endLimit, "kill and delete took %v", r.kill+r.deletion)
	check(r.calls > endLimit && !r.row.lengthy, "a call took %v", r.calls)
	check(r.row.words != "" && r.memory > memoryBound, "its shim had %d MiB more than that of a good guest", r.memory>>20)
	minutes := 1 + int(r.took/time.Minute)
	check(r.row.words != "" && r.logged > minutes*logBound, "%d KiB were logged in %v", r.logged>>10, r.took)
	check(r.metrics.err != nil, "metrics of another: %v", r.metrics.err)
	check(r.metrics.took > metricsLimit, "metrics of another took %v", r.metrics.took)
	check(len(r.left) > 0, "left behind: %s", strings.Join(r.left, ", "))
	return faults
}

// cut is a text that may be a guest's, in one line that is not long.
func cut(text string) string {
	text = strings.Join(strings.Fields(text), " ")
	if len(text) > 200 {
		return text[:200] + "…"
	}
	return text
}

// report writes the table, and fails for what is beyond a bound.
func report(t *testing.T, results []hostileResult) {
	t.Helper()
	table := new(strings.Builder)
	w := tabwriter.NewWriter(table, 0, 0, 2, ' ', 0)
	fmt.Fprintln(w, "GUEST\tKILL s\tDELETE s\tCALLS s\tMEMORY MiB\tLOG KiB\tIN s\tMETRICS s\tLEFT")
	for _, r := range results {
		left := "nothing"
		if len(r.left) > 0 {
			left = strings.Join(r.left, ", ")
		}
		fmt.Fprintf(w, "%s\t%.1f\t%.1f\t%.1f\t%.1f\t%.1f\t%.0f\t%.1f\t%s\n", r.row.name, r.kill.Seconds(), r.deletion.Seconds(), r.calls.Seconds(),
			float64(r.memory)/(1<<20), float64(r.logged)/(1<<10), r.took.Seconds(), r.metrics.took.Seconds(), left)
		if faults := r.faults(); len(faults) > 0 {
			t.Errorf("%s (%s): %s", r.row.name, r.row.words, strings.Join(faults, "; "))
		}
	}
	w.Flush()
	t.Logf("what guests cost the host; bounds: kill and delete %v, memory %d MiB, log %d KiB a minute, metrics of another %v\n%s",
		endBound, memoryBound>>20, logBound>>10, metricsBound, table)
}

// memoryWatch keeps the most memory that the shim of a container had.
type memoryWatch struct {
	done chan struct{}

	ended sync.WaitGroup

	mu   sync.Mutex
	peak int64 // guarded by mu
}

func watchMemory(id string) *memoryWatch {
	w := &memoryWatch{done: make(chan struct{})}
	w.ended.Go(func() {
		shim := 0
		for {
			if shim == 0 {
				shim = findShim(id)
			}
			w.note(peakMemory(shim))
			select {
			case <-w.done:
				return
			case <-time.After(100 * time.Millisecond):
			}
		}
	})
	return w
}

func (w *memoryWatch) note(peak int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.peak = max(w.peak, peak)
}

func (w *memoryWatch) now() int64 {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.peak
}

func (w *memoryWatch) stop() int64 {
	close(w.done)
	w.ended.Wait()
	return w.now()
}

// peakMemory is the most memory that a process has had resident, in bytes; 0 if there is
// no such process.
func peakMemory(pid int) int64 { return memoryOf(pid, "VmHWM") }

// residentMemory is how much a process has now, as peakMemory tells it.
func residentMemory(pid int) int64 { return memoryOf(pid, "VmRSS") }

// memoryOf reads a field of proc_pid_status(5), in bytes.
func memoryOf(pid int, field string) (kib int64) {
	status, _ := os.ReadFile(fmt.Sprintf("/proc/%d/status", pid))
	_, rest, _ := strings.Cut(string(status), "\n"+field+":")
	_, _ = fmt.Sscan(rest, &kib)
	return kib << 10
}
