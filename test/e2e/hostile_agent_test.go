package e2e

import (
	"context"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// Whoever owns the agent of a guest can neither hold a container, nor grow its shim or
// containerd's log, nor keep containerd from telling of others. MSB_LONG tries all
// guests, MSB_HOSTILE_ONLY some: parts of their names, with | between them.
func TestHostileAgent(t *testing.T) {
	nothingLeft(t)
	var results []hostileResult
	if !harness.Emulated() {
		second, err := harness.Start()
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := second.Stop(); err != nil {
				t.Error(err)
			}
		})
		second.NothingLeft(t)
		quiet, noisy := newHostileHost(t, host), newHostileHost(t, second)
		quiet.try(alone, 1)
		var all sync.WaitGroup
		all.Go(func() { quiet.try(silent, 6) })
		all.Go(func() { quiet.try(greedy, 1) })
		all.Go(func() { noisy.try(loud, 1) })
		all.Wait()
		results = append(quiet.end(), noisy.end()...)
	} else {
		// The emulated host has one processor, and a VM takes long to start there: one boots at a time.
		// While the shim waits for a silent one, the others have the processor.
		h := newHostileHost(t, host)
		h.try(alone, 1)
		var waiting sync.WaitGroup
		waiting.Go(func() { h.try(silent, 1) })
		h.try(slices.Concat(greedy, loud), 1)
		waiting.Wait()
		results = h.end()
	}
	report(t, results)
}

// hostileHost tries hostile guests beside a good one, on a containerd.
type hostileHost struct {
	t       *testing.T
	host    *harness.Host
	good    *victim
	metrics *metricsWatch // of good
	boots   chan struct{} // bounds how many VMs boot at one time, which takes processors

	mu      sync.Mutex
	results []hostileResult // guarded by mu
}

// hostileBoots bounds how many VMs of the whole test boot at one time.
var hostileBoots = make(chan struct{}, harness.FewEmulated(1, 2))

func newHostileHost(t *testing.T, on *harness.Host) *hostileHost {
	t.Helper()
	h := &hostileHost{t: t, host: on, boots: hostileBoots}
	h.good = h.newVictim(hostileRow{name: "a good guest"})
	if err := h.good.begin(); err != nil || h.good.result.start != nil {
		t.Fatalf("a good guest: %v, %v", err, h.good.result.start)
	}
	h.good.calls()
	h.metrics = watchMetrics(on, h.good.id)
	return h
}

// callLimit is when a client gives up, which is longer than anything may take.
const callLimit = endLimit + 20*time.Second

// hostileContext is for one thing that a client does.
func hostileContext(limit time.Duration) (context.Context, context.CancelFunc) {
	return context.WithTimeout(namespaces.WithNamespace(context.Background(), harness.Namespace), limit)
}

// end ends the good guest, and tells what all cost.
func (h *hostileHost) end() []hostileResult {
	h.metrics.stop()
	h.good.end()
	h.good.conclude()
	h.good.result.calls = 0
	return append([]hostileResult{h.good.result}, h.results...)
}

// try tries guests, some at a time.
func (h *hostileHost) try(rows []hostileRow, atOnce int) {
	next := make(chan hostileRow)
	var all sync.WaitGroup
	for range atOnce {
		all.Go(func() {
			for row := range next {
				result := h.newVictim(row).live()
				h.t.Logf("%s: kill %v, delete %v; %s", row.name, result.kill.Round(time.Millisecond), result.deletion.Round(time.Millisecond), strings.Join(result.faults(), "; "))
				h.mu.Lock()
				h.results = append(h.results, result)
				h.mu.Unlock()
			}
		})
	}
	for _, row := range rows {
		if wanted(row) {
			next <- row
		}
	}
	close(next)
	all.Wait()
}

func wanted(row hostileRow) bool {
	if only := os.Getenv("MSB_HOSTILE_ONLY"); only != "" {
		return slices.ContainsFunc(strings.Split(only, "|"), func(part string) bool { return strings.Contains(row.name, part) })
	}
	switch {
	case host.Driver != "qemu":
		return row.when == everywhere
	case row.when == onRequest:
		return os.Getenv("MSB_LONG") != ""
	}
	return true
}
