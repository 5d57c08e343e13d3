// Package metrics tells what the sandboxes of this host are and use, in Prometheus' form
// (prometheus.io/docs/practices/naming). All of it is read when it is asked for: from
// containerd's bundles, the shims' records in them, and /proc (package survey), and from the file
// that all shims count in (package count). No guest is asked, and of the shims only whether they
// answer, and how many containers run.
//
//	metrics.go   the metrics, and a collector of them
//	process.go   what processes use
//	counts.go    what all shims have counted
//	spares.go    VMs that wait
//	serve.go     HTTP, on a unix socket or a loopback address
package metrics

import (
	"context"
	"io"
	"strconv"
	"sync"
	"time"

	"github.com/containerd/containerd/v2/pkg/identifiers"
	"github.com/containerd/containerd/v2/version"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/common/expfmt"

	"github.com/msb-runtime/containerd-shim-msb/ctl/survey"
	"github.com/msb-runtime/containerd-shim-msb/shim/spare"
	"github.com/msb-runtime/containerd-shim-msb/vm/krun"
	"github.com/msb-runtime/containerd-shim-msb/vm/qemu"
)

// A metric is one that this package has, with its labels.
type metric struct {
	name string
	desc *prometheus.Desc
	kind prometheus.ValueType // 0 of a histogram
}

// all are the metrics.
var all []metric

func define(kind prometheus.ValueType, name, help string, labels ...string) metric {
	m := metric{name, prometheus.NewDesc(name, help, labels, nil), kind}
	all = append(all, m)
	return m
}

func gauge(name, help string, labels ...string) metric {
	return define(prometheus.GaugeValue, name, help, labels...)
}

func counter(name, help string, labels ...string) metric {
	return define(prometheus.CounterValue, name, help, labels...)
}

// ofSandbox is a gauge of each sandbox.
func ofSandbox(name, help string, labels ...string) metric {
	return gauge(name, help, append([]string{"namespace", "id"}, labels...)...)
}

var (
	buildInfo    = gauge("msb_build_info", "The version of msbctl, which tells these metrics.", "version")
	scrape       = gauge("msb_scrape_duration_seconds", "How long these metrics took to read.")
	sandboxes    = gauge("msb_sandboxes", "How many sandboxes are in a state: starting, running, stopped, hung (the shim does not answer), lost (there is no shim) or forgotten (containerd does not know it any more).", "state")
	spares       = gauge("msb_spares", "How many VMs wait to be used, by size.", "cpus", "memory_bytes")
	sparesMemory = gauge("msb_spares_resident_memory_bytes", "The host's memory that the waiting VMs have, by size.", "cpus", "memory_bytes")

	info       = ofSandbox("msb_sandbox_info", "A sandbox, which is a VM with its containers: always 1.", "driver")
	started    = ofSandbox("msb_sandbox_start_time_seconds", "When the sandbox's VMM was started, in seconds since the epoch.")
	answers    = ofSandbox("msb_sandbox_shim_answers", "Whether the sandbox's shim answers in time: 1 or 0.")
	spareUsed  = ofSandbox("msb_sandbox_spare_used", "Whether the sandbox's VM had booted before it was needed: 1 or 0.")
	containers = ofSandbox("msb_sandbox_containers", "How many containers the sandbox has, whether they run or not.")
	running    = ofSandbox("msb_sandbox_running_containers", "How many containers run or are paused, as the shim answers.")
	cpus       = ofSandbox("msb_sandbox_vm_cpus", "How many processors the VM has.")
	memory     = ofSandbox("msb_sandbox_vm_memory_bytes", "How much memory the VM has, for the guest.")
	resident   = ofSandbox("msb_sandbox_resident_memory_bytes", "The host's memory that a kind of the sandbox's processes has. The guest's memory is the VMM's.", "process")
	guestsRAM  = ofSandbox("msb_sandbox_guest_resident_memory_bytes", "The host's memory that is the guest's, a part of the VMM's. Only where the driver keeps it apart.")
	overhead   = ofSandbox("msb_sandbox_overhead_memory_bytes", "The host's memory that the sandbox's processes have beside the guest's: anonymous, or files, which are the programs' code that all sandboxes share. Only where the driver keeps it apart.", "kind")
	cpuSeconds = define(prometheus.CounterValue, "msb_sandbox_cpu_seconds_total", "The processor time that a kind of the sandbox's processes has used.", "namespace", "id", "process")

	phases     = define(0, "msb_phase_duration_seconds", "How long the phases of containers' lives took, by driver: none before there is a VMM.", "phase", "driver")
	starts     = counter("msb_starts_total", "Starts of containers, and of sandboxes of the Sandbox API, by how they came to their VM: cold (it boots), spare (it had booted before), missed (it boots: of the spares none fits), or joined (it is the pod's).", "driver", "vm", "result")
	refusals   = counter("msb_start_refusals_total", "Starts that were refused before there was a VM for them, by the class of the error.", "class")
	exits      = counter("msb_exits_total", "Processes that have ended: containers or execs, with success (status 0), failure, or lost with their VM.", "process", "result")
	streams    = counter("msb_streams_refused_total", "Streams of guests, to a socket or a resolver of the host, that were refused, by the class of the error.", "class")
	overruns   = counter("msb_guest_overruns_total", "Calls that a guest has not answered in time. It loses its VM.")
	violations = counter("msb_guest_violations_total", "Guests that have sent what no agent does, as more streams than there may be. They lose their VM.")
)

// Names are those of all metrics.
func Names() (names []string) {
	for _, m := range all {
		names = append(names, m.name)
	}
	return names
}

// forgotten is what sandboxes count as that containerd has forgotten, whatever they are in.
const forgotten survey.State = "forgotten"

// A Source is where all this is read.
type Source struct {
	survey.Host
	// Spares are the VMs that have booted before they are needed (spare.List).
	Spares func() ([]spare.Listed, error)
	// Counts is the directory of the file that all shims count in (count.Dir).
	Counts string
}

// New returns what gathers the metrics of a source.
func New(source Source) prometheus.Gatherer {
	registry := prometheus.NewRegistry()
	registry.MustRegister(&collector{source: source})
	return registry
}

// Print writes the metrics once, as text.
func Print(out io.Writer, gatherer prometheus.Gatherer) error {
	families, err := gatherer.Gather()
	if err != nil {
		return err
	}
	for _, family := range families {
		if _, err := expfmt.MetricFamilyToText(out, family); err != nil {
			return err
		}
	}
	return nil
}

// askAgain is how long a shim that hangs is not asked again. A connection that it does not
// accept stays in its socket's queue, though its other end is closed (listen(2)).
const askAgain = time.Minute

// A collector reads the metrics whenever they are asked for (prometheus.Collector).
type collector struct {
	source Source

	mu   sync.Mutex
	hung map[string]time.Time // when a shim was found to hang, by its address; guarded by mu
}

// Describe implements prometheus.Collector.
func (c *collector) Describe(descs chan<- *prometheus.Desc) {
	for _, m := range all {
		descs <- m.desc
	}
}

// find is the sandboxes. Those whose shims hang are remembered.
func (c *collector) find() ([]survey.Sandbox, error) {
	now := time.Now()
	c.mu.Lock()
	before := c.hung
	c.mu.Unlock()
	host := c.source.Host
	host.Hung = func(address string) bool {
		since, known := before[address]
		return known && now.Sub(since) < askAgain
	}
	found, err := host.Find(context.Background())
	hung := map[string]time.Time{}
	for _, s := range found {
		if s.State == survey.Hung {
			hung[s.Address] = now
			if host.Hung(s.Address) {
				hung[s.Address] = before[s.Address]
			}
		}
	}
	c.mu.Lock()
	c.hung = hung
	c.mu.Unlock()
	return found, err
}

// Collect implements prometheus.Collector.
func (c *collector) Collect(out chan<- prometheus.Metric) {
	began := time.Now()
	tell := func(m metric, value float64, labels ...string) {
		out <- prometheus.MustNewConstMetric(m.desc, m.kind, value, labels...)
	}
	found, err := c.find()
	if err != nil {
		out <- prometheus.NewInvalidMetric(sandboxes.desc, err)
		return
	}
	states := map[survey.State]int{}
	for _, s := range found {
		if s.Forgotten { // also where there is another of its name
			states[forgotten]++
		}
	}
	for _, s := range valid(found) {
		if !s.Forgotten {
			states[s.State]++
		}
		c.source.sandbox(s, func(m metric, value float64, labels ...string) {
			tell(m, value, append([]string{s.Namespace, s.ID}, labels...)...)
		})
	}
	for _, state := range []survey.State{survey.Starting, survey.Running, survey.Stopped, survey.Hung, survey.Lost, forgotten} {
		tell(sandboxes, float64(states[state]), string(state))
	}
	if err := c.source.tellCounts(out); err != nil {
		out <- prometheus.NewInvalidMetric(starts.desc, err)
		return
	}
	waits, err := c.source.waiting()
	if err != nil {
		out <- prometheus.NewInvalidMetric(spares.desc, err)
		return
	}
	for size, waiting := range waits {
		labels := []string{strconv.Itoa(size.CPUs), strconv.FormatInt(size.Memory, 10)}
		tell(spares, float64(waiting.count), labels...)
		tell(sparesMemory, float64(waiting.memory), labels...)
	}
	tell(buildInfo, 1, version.Version)
	tell(scrape, time.Since(began).Seconds())
}

// valid are the sandboxes with names as containerd gives them, one for each: metrics whose
// labels are the same, or are no text, would be an error for all of them.
func valid(found []survey.Sandbox) (sandboxes []survey.Sandbox) {
	seen := map[[2]string]bool{}
	for _, s := range found {
		key := [2]string{s.Namespace, s.ID}
		if seen[key] || identifiers.Validate(s.Namespace) != nil || identifiers.Validate(s.ID) != nil {
			continue
		}
		seen[key] = true
		sandboxes = append(sandboxes, s)
	}
	return sandboxes
}

// sandbox tells the metrics of one.
func (s Source) sandbox(b survey.Sandbox, tell func(metric, float64, ...string)) {
	tell(info, 1, driver(b))
	answered := b.State != survey.Hung && b.State != survey.Lost
	tell(answers, number(answered))
	tell(containers, float64(len(b.Containers)))
	if answered {
		tell(running, float64(b.Living()))
	}
	if b.CPUs > 0 {
		tell(cpus, float64(b.CPUs))
		tell(memory, float64(b.Memory))
		tell(spareUsed, number(b.Spare != ""))
	}
	if b.Started != nil {
		tell(started, float64(b.Started.UnixMilli())/float64(time.Second/time.Millisecond))
	}
	uses := s.uses(b)
	for kind, use := range uses {
		tell(resident, float64(use.resident()), string(kind))
		if kind != other {
			tell(cpuSeconds, use.cpu.Seconds(), string(kind))
		}
	}
	// With QEMU the guest's memory is shared with the file servers: the kernel counts it
	// apart. With libkrun it is anonymous memory as the VMM's own.
	if machine, found := uses[vmm]; found && b.Driver == qemu.Name {
		var sum use
		for _, u := range uses {
			sum = sum.plus(u)
		}
		tell(guestsRAM, float64(machine.shared))
		tell(overhead, float64(sum.anonymous), "anonymous")
		tell(overhead, float64(sum.file), "file")
	}
}

// driver is the name of a sandbox's driver. It is one of ours, whatever is in a record.
func driver(b survey.Sandbox) string {
	if b.Driver == qemu.Name || b.Driver == krun.Name {
		return b.Driver
	}
	return "unknown"
}

func number(yes bool) float64 {
	if yes {
		return 1
	}
	return 0
}
