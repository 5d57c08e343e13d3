package metrics

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/testutil/promlint"

	"github.com/msb-runtime/containerd-shim-msb/ctl/survey"
	"github.com/msb-runtime/containerd-shim-msb/shim/count"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/spare"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
	"github.com/msb-runtime/containerd-shim-msb/vm/krun"
	"github.com/msb-runtime/containerd-shim-msb/vm/qemu"
)

// scraped are the samples of a world, without those that differ each time.
func (w world) scraped() (lines []string) {
	w.t.Helper()
	var out bytes.Buffer
	w.must(Print(&out, New(w.source)))
	for line := range strings.Lines(out.String()) {
		if !strings.HasPrefix(line, "#") && !strings.HasPrefix(line, "msb_scrape_") && !strings.HasPrefix(line, "msb_build_") {
			lines = append(lines, strings.TrimPrefix(strings.TrimSpace(line), "msb_"))
		}
	}
	return lines
}

// expect compares the samples that have a text in them.
func (w world) expect(of, want string) {
	w.t.Helper()
	var got []string
	for _, line := range w.scraped() {
		if strings.Contains(line, of) {
			got = append(got, line)
		}
	}
	if wanted := strings.Split(strings.Trim(want, "\n"), "\n"); !slices.Equal(got, wanted) {
		w.t.Errorf("metrics of %s:\n%s\nwant\n%s", of, strings.Join(got, "\n"), strings.Join(wanted, "\n"))
	}
}

func TestMetrics(t *testing.T) {
	w := newWorld(t)
	// A container under QEMU whose VM was a spare, and a pod under libkrun.
	w.qemu(100)
	one := recorded(101, 100, "qemu")
	one.Spare = "/run/msb/spares/k/1x2-3"
	w.bundle(taskDir, "default", "one", w.shim(), one)
	w.process(200, 1, "containerd-shim", 10, 6000, 16000, 0, 201, 202)
	w.process(201, 200, "msb-krun", 300, 400000, 20000, 0)
	w.process(202, 200, "msb-shield", 3, 1000, 2000, 0)
	pod := w.shim()
	w.bundle(sandboxDir, "k8s.io", "pod", pod, recorded(201, 200, "krun"))
	w.bundle(taskDir, "k8s.io", "app", pod, nil)
	w.bundle(taskDir, "k8s.io", "side", pod, nil)

	w.expect(`id="one"`, `
sandbox_containers{id="one",namespace="default"} 1
sandbox_cpu_seconds_total{id="one",namespace="default",process="file_server"} 0.31
sandbox_cpu_seconds_total{id="one",namespace="default",process="shim"} 0.1
sandbox_cpu_seconds_total{id="one",namespace="default",process="vmm"} 2
sandbox_guest_resident_memory_bytes{id="one",namespace="default"} 2.37568e+08
sandbox_info{driver="qemu",id="one",namespace="default"} 1
sandbox_overhead_memory_bytes{id="one",kind="anonymous",namespace="default"} 1.0971136e+08
sandbox_overhead_memory_bytes{id="one",kind="file",namespace="default"} 6.5536e+07
sandbox_resident_memory_bytes{id="one",namespace="default",process="file_server"} 8.84736e+06
sandbox_resident_memory_bytes{id="one",namespace="default",process="other"} 2.56e+06
sandbox_resident_memory_bytes{id="one",namespace="default",process="shim"} 2.2528e+07
sandbox_resident_memory_bytes{id="one",namespace="default",process="vmm"} 3.7888e+08
sandbox_running_containers{id="one",namespace="default"} 1
sandbox_shim_answers{id="one",namespace="default"} 1
sandbox_spare_used{id="one",namespace="default"} 1
sandbox_start_time_seconds{id="one",namespace="default"} 1.70000001e+09
sandbox_vm_cpus{id="one",namespace="default"} 2
sandbox_vm_memory_bytes{id="one",namespace="default"} 5.36870912e+08
`)
	w.expect(`id="pod"`, `
sandbox_containers{id="pod",namespace="k8s.io"} 2
sandbox_cpu_seconds_total{id="pod",namespace="k8s.io",process="file_server"} 0.03
sandbox_cpu_seconds_total{id="pod",namespace="k8s.io",process="shim"} 0.1
sandbox_cpu_seconds_total{id="pod",namespace="k8s.io",process="vmm"} 3
sandbox_info{driver="krun",id="pod",namespace="k8s.io"} 1
sandbox_resident_memory_bytes{id="pod",namespace="k8s.io",process="file_server"} 3.072e+06
sandbox_resident_memory_bytes{id="pod",namespace="k8s.io",process="shim"} 2.2528e+07
sandbox_resident_memory_bytes{id="pod",namespace="k8s.io",process="vmm"} 4.3008e+08
sandbox_running_containers{id="pod",namespace="k8s.io"} 2
sandbox_shim_answers{id="pod",namespace="k8s.io"} 1
sandbox_spare_used{id="pod",namespace="k8s.io"} 0
sandbox_start_time_seconds{id="pod",namespace="k8s.io"} 1.70000001e+09
sandbox_vm_cpus{id="pod",namespace="k8s.io"} 2
sandbox_vm_memory_bytes{id="pod",namespace="k8s.io"} 5.36870912e+08
`)
	w.expect("sandboxes{", `
sandboxes{state="forgotten"} 0
sandboxes{state="hung"} 0
sandboxes{state="lost"} 0
sandboxes{state="running"} 2
sandboxes{state="starting"} 0
sandboxes{state="stopped"} 0
`)
}

// What containerd has forgotten is counted as that, and uses what it uses; of two of one name the metrics
// are those of containerd's.
func TestForgotten(t *testing.T) {
	w := newWorld(t)
	for pid, id := range map[int]string{100: "lost", 200: "web"} {
		w.process(pid, 1, "containerd-shim-msb-v2", 10, 6000, 16000, 0, pid+1)
		w.process(pid+1, pid, "msb-krun", 300, 400000, 20000, 0)
		w.must(os.Symlink(filepath.Join(w.source.State, taskDir, "default", id)+" (deleted)", filepath.Join(w.source.Proc, fmt.Sprint(pid), "cwd")))
	}
	w.process(300, 1, "containerd-shim-msb-v2", 10, 6000, 16000, 0, 301)
	w.process(301, 300, "msb-krun", 700, 400000, 20000, 0)
	w.bundle(taskDir, "default", "web", w.shim(), recorded(301, 300, "krun"))
	w.expect("sandboxes{", `
sandboxes{state="forgotten"} 2
sandboxes{state="hung"} 0
sandboxes{state="lost"} 0
sandboxes{state="running"} 1
sandboxes{state="starting"} 0
sandboxes{state="stopped"} 0
`)
	w.expect(`process="vmm"`, `
sandbox_cpu_seconds_total{id="lost",namespace="default",process="vmm"} 3
sandbox_cpu_seconds_total{id="web",namespace="default",process="vmm"} 7
sandbox_resident_memory_bytes{id="lost",namespace="default",process="vmm"} 4.3008e+08
sandbox_resident_memory_bytes{id="web",namespace="default",process="vmm"} 4.3008e+08
`)
	w.expect("shim_answers", `
sandbox_shim_answers{id="lost",namespace="default"} 0
sandbox_shim_answers{id="web",namespace="default"} 1
`)
}

// nonzero are the samples that have a text in them and are not 0.
func (w world) nonzero(of string) (lines []string) {
	w.t.Helper()
	for _, line := range w.scraped() {
		if strings.Contains(line, of) && !strings.HasSuffix(line, " 0") {
			lines = append(lines, line)
		}
	}
	return lines
}

// What all shims have counted is told, also of those that are gone.
func TestCounts(t *testing.T) {
	w := newWorld(t)
	counted := []string{"phase_", "starts_total", "refusals", "exits", "streams", "guest_overruns", "violations"}
	for _, of := range counted {
		if lines := w.nonzero(of); len(lines) != 0 {
			t.Errorf("before there is a shim: %q", lines)
		}
	}
	if text := strings.Join(w.scraped(), "\n"); !strings.Contains(text, `starts_total{driver="qemu",result="failure",vm="joined"} 0`) || !strings.Contains(text, "guest_overruns_total 0") {
		t.Errorf("a counter is not told before it counts:\n%s", text)
	}
	w.must(count.Open(w.source.Counts))
	for _, driver := range []string{krun.Name, qemu.Name} {
		count.SetDriver(driver)
		count.AddStart(count.Spare, true)
	}
	count.AddPhase("guest boot", 1500*time.Millisecond)
	count.AddPhase("guest boot", 500*time.Millisecond)
	count.AddRefusal(errdefs.ErrInvalidArgument)
	count.AddExit(true, count.Success)
	count.AddExit(false, count.Lost)
	count.AddStreamRefused(errors.New("any"))
	count.AddOverrun()
	count.AddViolation()
	for of, want := range map[string]string{
		"phase_": `
phase_duration_seconds_bucket{driver="qemu",phase="guest boot",le="0.5"} 1
phase_duration_seconds_bucket{driver="qemu",phase="guest boot",le="1"} 1
phase_duration_seconds_bucket{driver="qemu",phase="guest boot",le="2"} 2
phase_duration_seconds_bucket{driver="qemu",phase="guest boot",le="5"} 2
phase_duration_seconds_bucket{driver="qemu",phase="guest boot",le="15"} 2
phase_duration_seconds_bucket{driver="qemu",phase="guest boot",le="60"} 2
phase_duration_seconds_bucket{driver="qemu",phase="guest boot",le="+Inf"} 2
phase_duration_seconds_sum{driver="qemu",phase="guest boot"} 2
phase_duration_seconds_count{driver="qemu",phase="guest boot"} 2`,
		"starts_total": `
starts_total{driver="krun",result="success",vm="spare"} 1
starts_total{driver="qemu",result="success",vm="spare"} 1`,
		"refusals":       `start_refusals_total{class="invalid argument"} 1`,
		"exits":          "exits_total{process=\"container\",result=\"lost\"} 1\nexits_total{process=\"exec\",result=\"success\"} 1",
		"streams":        `streams_refused_total{class="other"} 1`,
		"guest_overruns": `guest_overruns_total 1`,
		"violations":     `guest_violations_total 1`,
	} {
		if got := strings.Join(w.nonzero(of), "\n"); got != strings.TrimSpace(want) {
			t.Errorf("counted of %s:\n%s\nwant\n%s", of, got, want)
		}
	}
}

// A file that shims do not count in is told, with what to do.
func TestCountsBroken(t *testing.T) {
	w := newWorld(t)
	w.must(count.Open(w.source.Counts))
	files, err := filepath.Glob(w.source.Counts + "/*")
	if err != nil || len(files) != 1 {
		t.Fatal(files, err)
	}
	w.must(os.Truncate(files[0], 1))
	if err := Print(new(bytes.Buffer), New(w.source)); !strings.Contains(fmt.Sprint(err), "remove it, and the next shim makes another") {
		t.Errorf("a broken file: %v", err)
	}
	w.must(os.Remove(files[0]))
	if lines := w.nonzero("overruns"); len(lines) != 0 {
		t.Errorf("without it: %q", lines)
	}
}

// What is not as it should be is told as far as it is known, and keeps nothing else from it.
func TestOdd(t *testing.T) {
	w := newWorld(t)
	w.source.Patience = 100 * time.Millisecond
	address, _ := w.hung()
	w.qemu(100)
	w.bundle(taskDir, "default", "hung", address, recorded(101, 100, "qemu"))
	// The shim and the VMM have ended: others have their numbers. An older shim's record. A
	// damaged one. One that names a driver that is none of ours.
	w.process(300, 1, "another", 5, 1, 1, 0)
	lost := recorded(300, 300, "qemu")
	lost.Start = "1"
	w.bundle(taskDir, "default", "lost", "unix:///no/such/socket", lost)
	w.bundle(taskDir, "default", "older", w.shim(), &sandbox.Record{Pid: 101, Start: fmt.Sprint(startTicks)})
	damaged := w.bundle(taskDir, "default", "damaged", w.shim(), nil)
	w.write(filepath.Join(damaged, "sandbox.json"), "{")
	odd := recorded(1, 1, "a\xffb\n")
	w.bundle(taskDir, "default", "odd", w.shim(), odd)
	// The same name twice, and names that containerd does not give.
	w.bundle(taskDir, "default", "twice", w.shim(), odd)
	w.bundle(sandboxDir, "default", "twice", w.shim(), odd)
	w.bundle(taskDir, "default", "a\xff\"\n", w.shim(), odd)
	w.bundle(taskDir, "\xff", "a", w.shim(), odd)

	w.expect("sandbox_info", `
sandbox_info{driver="qemu",id="hung",namespace="default"} 1
sandbox_info{driver="qemu",id="lost",namespace="default"} 1
sandbox_info{driver="unknown",id="damaged",namespace="default"} 1
sandbox_info{driver="unknown",id="odd",namespace="default"} 1
sandbox_info{driver="unknown",id="older",namespace="default"} 1
sandbox_info{driver="unknown",id="twice",namespace="default"} 1
`)
	w.expect("shim_answers", `
sandbox_shim_answers{id="damaged",namespace="default"} 1
sandbox_shim_answers{id="hung",namespace="default"} 0
sandbox_shim_answers{id="lost",namespace="default"} 0
sandbox_shim_answers{id="odd",namespace="default"} 1
sandbox_shim_answers{id="older",namespace="default"} 1
sandbox_shim_answers{id="twice",namespace="default"} 1
`)
	w.expect("overhead", `
sandbox_overhead_memory_bytes{id="hung",kind="anonymous",namespace="default"} 1.0971136e+08
sandbox_overhead_memory_bytes{id="hung",kind="file",namespace="default"} 6.5536e+07
`)
	w.expect(`id="lost"`, `
sandbox_containers{id="lost",namespace="default"} 1
sandbox_info{driver="qemu",id="lost",namespace="default"} 1
sandbox_shim_answers{id="lost",namespace="default"} 0
sandbox_spare_used{id="lost",namespace="default"} 0
sandbox_vm_cpus{id="lost",namespace="default"} 2
sandbox_vm_memory_bytes{id="lost",namespace="default"} 5.36870912e+08
`)
}

func TestSpares(t *testing.T) {
	w := newWorld(t)
	for _, pid := range []int{100, 200, 300, 400} {
		w.qemu(pid)
	}
	small, large := spec.Size{CPUs: 1, Memory: 1024}, spec.Size{CPUs: 4, Memory: 2048}
	w.source.Spares = func() ([]spare.Listed, error) {
		return []spare.Listed{
			{Size: small, Pid: 100, State: spare.Waiting},
			{Size: small, Pid: 200, State: spare.Waiting},
			{Size: large, Pid: 300, State: spare.Waiting},
			{Size: large, Pid: 400, State: spare.Booting},
			{Size: large, Pid: 401, State: spare.Ending},
			{Size: large, Pid: 402, State: spare.Dead},
		}, nil
	}
	w.expect("spares", `
spares{cpus="1",memory_bytes="1024"} 2
spares{cpus="4",memory_bytes="2048"} 1
spares_resident_memory_bytes{cpus="1",memory_bytes="1024"} 8.2563072e+08
spares_resident_memory_bytes{cpus="4",memory_bytes="2048"} 4.1281536e+08
`)
	broken := errors.New("broken")
	w.source.Spares = func() ([]spare.Listed, error) { return nil, broken }
	if err := Print(new(bytes.Buffer), New(w.source)); !strings.Contains(fmt.Sprint(err), "broken") {
		t.Errorf("spares that cannot be listed: %v", err)
	}
}

// Names, units and help are as Prometheus wants them, and each metric is there in a world that
// has everything.
func TestLint(t *testing.T) {
	w := newWorld(t)
	w.many(1)
	w.must(count.Open(w.source.Counts))
	count.SetDriver("qemu")
	count.AddPhase("start", time.Second)
	w.source.Spares = func() ([]spare.Listed, error) { return []spare.Listed{{Pid: 1000, State: spare.Waiting}}, nil }
	registry := prometheus.NewPedanticRegistry()
	registry.MustRegister(&collector{source: w.source})
	families, err := registry.Gather()
	if err != nil {
		t.Fatal(err)
	}
	problems, err := promlint.NewWithMetricFamilies(families).Lint()
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range problems {
		t.Errorf("%s: %s", p.Metric, p.Text)
	}
	var told []string
	for _, family := range families {
		told = append(told, family.GetName())
	}
	want := Names()
	slices.Sort(want)
	if !slices.Equal(told, want) {
		t.Errorf("told are %q, of %q", told, want)
	}
}

// A shim that hangs is told at once once it is known: what it does not accept would fill its
// socket's queue.
func TestHungIsAskedOnce(t *testing.T) {
	w := newWorld(t)
	w.source.Patience = 50 * time.Millisecond
	address, came := w.hung()
	w.bundle(taskDir, "default", "hung", address, nil)
	gatherer := New(w.source)
	for range 100 {
		families, err := gatherer.Gather()
		if err != nil {
			t.Fatal(err)
		}
		for _, family := range families {
			if value := family.GetMetric()[0].GetGauge().GetValue(); family.GetName() == "msb_sandbox_shim_answers" && value != 0 {
				t.Fatalf("it answers: %v", value)
			}
		}
	}
	if n := came.Load(); n != 1 {
		t.Errorf("it was asked %d times", n)
	}
}

// Sandboxes come and go while they are read.
func TestBurst(t *testing.T) {
	w := newWorld(t)
	w.source.Proc = "/proc"
	address := w.shim()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for i := 0; ; i++ {
			select {
			case <-stop:
				return
			default:
			}
			var dirs []string
			for j := range 5 {
				dirs = append(dirs, w.bundle(taskDir, "default", fmt.Sprintf("b%d-%d", i, j), address, recorded(os.Getpid(), os.Getpid(), "qemu")))
			}
			for _, dir := range dirs {
				if err := os.RemoveAll(dir); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	gatherer := New(w.source)
	seen := 0
	for range 200 {
		families, err := gatherer.Gather()
		if err != nil {
			t.Error(err)
		}
		if len(families) > 4 {
			seen++
		}
	}
	close(stop)
	<-stopped
	t.Logf("sandboxes were seen in %d of 200 scrapes", seen)
}

func TestNoState(t *testing.T) {
	w := newWorld(t)
	w.source.State = filepath.Join(w.source.State, "none")
	if err := Print(new(bytes.Buffer), New(w.source)); err == nil || !strings.Contains(err.Error(), "state directory") {
		t.Errorf("no state directory: %v", err)
	}
}

// The dashboard, the alerts and the documents name no metric that is not there, and the
// document of all metrics names each.
func TestNamesElsewhere(t *testing.T) {
	name := regexp.MustCompile(`\bmsb_[a-z_]+`)
	documented := map[string]bool{}
	for _, pattern := range []string{"../../deploy/metrics/*", "../../docs/*.md"} {
		files, err := filepath.Glob(pattern)
		if err != nil || len(files) == 0 {
			t.Fatal(pattern, err)
		}
		for _, file := range files {
			data, err := os.ReadFile(file)
			if err != nil {
				t.Fatal(err)
			}
			found := name.FindAllString(string(data), -1)
			if strings.Contains(pattern, "deploy") && len(found) == 0 {
				t.Errorf("%s names no metric", file)
			}
			for _, metric := range found {
				for _, of := range []string{"_sum", "_count", "_bucket"} { // of a histogram
					metric = strings.TrimSuffix(metric, of)
				}
				if !slices.Contains(Names(), metric) {
					t.Errorf("%s names %s, which is no metric", file, metric)
				}
				if filepath.Base(file) == "operations.md" {
					documented[metric] = true
				}
			}
		}
	}
	for _, metric := range Names() {
		if !documented[metric] {
			t.Errorf("docs/operations.md does not name %s", metric)
		}
	}
}

// The goal is 100 ms, and 5 ms for each VM.
func BenchmarkScrape20(b *testing.B) {
	w := newWorld(b)
	w.many(20)
	gatherer := New(w.source)
	for b.Loop() {
		if _, err := gatherer.Gather(); err != nil {
			b.Fatal(err)
		}
	}
}

// What msbctl ls reads, for comparison.
func BenchmarkList20(b *testing.B) {
	w := newWorld(b)
	w.many(20)
	for b.Loop() {
		if found, err := w.source.Find(b.Context()); err != nil || len(found) != 20 || found[0].State != survey.Running {
			b.Fatal(found, err)
		}
	}
}
