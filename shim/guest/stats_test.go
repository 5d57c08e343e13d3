package guest_test

import (
	"bytes"
	"errors"
	"fmt"
	"math"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/cgroups/v3/cgroup2/stats"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/msb-runtime/containerd-shim-msb/test/fake"
)

// maxStats is how many requests for metrics may be under way.
const maxStats = 16

// muteFor is how long a guest that did not answer is not asked again.
const muteFor = 5 * time.Second

// A guest that has no metrics in time keeps its VM, and holds nobody up for longer: not for
// each of its containers, either, which are asked for one after the other.
func TestStats(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := boot(t)
		h.agent.On("Stats", fake.Hang)
		for range 2 * maxStats {
			began := time.Now()
			_, err := h.client.Stats(t.Context(), "c")
			if took := time.Since(began); took != budgets.Stats || !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "no metrics within 1s") {
				t.Fatalf("after %v: %v", took, err)
			}
			for range 100 {
				if _, err := h.client.Stats(t.Context(), "another"); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "just not answered") {
					t.Fatalf("another container's: %v", err)
				}
			}
			if took := time.Since(began); took != budgets.Stats {
				t.Errorf("others waited for %v", took)
			}
			time.Sleep(muteFor)
		}
		h.agent.On("Stats", fake.Honest)
		if _, err := h.client.Stats(t.Context(), "c"); errdefs.IsNotFound(err) && strings.Contains(err.Error(), "just not answered") {
			t.Errorf("it is not asked again: %v", err)
		}
		h.wantAlive()
	})
}

// A caller that leaves before gets its own error, which is not that the guest has none.
func TestStatsLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := boot(t)
		h.agent.On("Stats", fake.Hang)
		if _, err := h.client.Stats(leave(t, time.Millisecond), "c"); !errors.Is(err, errLeft) || errdefs.IsNotFound(err) {
			t.Errorf("Stats = %v", err)
		}
		h.wantAlive()
	})
}

// A guest that does not read cannot collect requests: of those beyond the most that may be
// under way each is refused at once.
func TestStatsWithoutReader(t *testing.T) {
	p := connect(t)
	var requests sync.WaitGroup
	for range maxStats {
		requests.Go(func() {
			began := time.Now()
			if _, err := p.client.Stats(t.Context(), "c"); !errdefs.IsNotFound(err) || time.Since(began) < budgets.Stats {
				t.Errorf("after %v: %v", time.Since(began), err)
			}
		})
	}
	time.Sleep(budgets.Stats / 2) // they are under way, and not over
	for range 100 {
		if _, err := p.client.Stats(t.Context(), "c"); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "has not answered 16 earlier requests") {
			t.Fatal(err)
		}
	}
	requests.Wait()
	if err := p.Err(); err != nil {
		t.Errorf("the VM was ended: %v", err)
	}
}

// What the guest answers has containerd's type for metrics, or is none. Errors keep their
// class.
func TestStatsAnswers(t *testing.T) {
	h := boot(t)
	for name, behaviour := range map[string]fake.Behaviour{
		"a long type": fake.Answer(&taskapi.StatsResponse{Stats: &anypb.Any{TypeUrl: strings.Repeat("\x1b", 40<<10)}}),
		"another":     fake.Answer(&taskapi.StatsResponse{Stats: &anypb.Any{TypeUrl: "io.containerd.cgroups.v1.Metrics"}}),
		"none":        fake.Pretend,
	} {
		h.agent.On("Stats", behaviour)
		if metrics, err := h.client.Stats(t.Context(), "c"); metrics != nil || !errdefs.IsNotFound(err) || len(err.Error()) > 1<<10 || strings.Contains(err.Error(), "\x1b") {
			t.Errorf("%s: %v, %v", name, metrics, err)
		}
	}
	h.agent.On("Stats", fake.Fail(errdefs.ErrPermissionDenied))
	if _, err := h.client.Stats(t.Context(), "c"); !errdefs.IsPermissionDenied(err) {
		t.Errorf("an error: %v", err)
	}
	h.wantAlive()
}

// metricsFor are what the host makes of a guest's metrics.
func metricsFor(t *testing.T, told []byte) (*stats.Metrics, error) {
	t.Helper()
	h := boot(t)
	h.agent.On("Stats", fake.Answer(&taskapi.StatsResponse{Stats: &anypb.Any{TypeUrl: "io.containerd.cgroups.v2.Metrics", Value: told}}))
	answer, err := h.client.Stats(t.Context(), "c")
	if err != nil {
		h.wantAlive()
		return nil, err
	}
	metrics := new(stats.Metrics)
	if err := proto.Unmarshal(answer.Value, metrics); err != nil {
		t.Fatal(err)
	}
	return metrics, nil
}

func encode(t *testing.T, metrics *stats.Metrics) []byte {
	t.Helper()
	data, err := proto.Marshal(metrics)
	if err != nil {
		t.Fatal(err)
	}
	return data
}

// An honest guest's metrics come as they are.
func TestMetricsAsTheyAre(t *testing.T) {
	pressure := &stats.PSIStats{Some: &stats.PSIData{Avg10: 99.5, Total: 7}, Full: &stats.PSIData{Avg300: 0.25}}
	want := &stats.Metrics{
		Pids: &stats.PidsStat{Current: 3, Limit: math.MaxUint64}, CPU: &stats.CPUStat{UsageUsec: 17, PSI: pressure},
		Memory: &stats.MemoryStat{Usage: 1 << 40, PSI: pressure}, MemoryEvents: &stats.MemoryEvents{OomKill: 2},
		Io:      &stats.IOStat{Usage: []*stats.IOEntry{{Major: 7, Minor: 0, Rbytes: 9}, {Major: 7, Minor: 1}}, PSI: pressure},
		Hugetlb: []*stats.HugeTlbStat{{Pagesize: "2MB", Max: 5}, {Pagesize: "1GB"}, {Pagesize: "64KB"}},
	}
	if got, err := metricsFor(t, encode(t, want)); err != nil || !proto.Equal(got, want) {
		t.Errorf("%v, %v", got, err)
	}
}

// Of metrics of one name, containerd's page of metrics has an error instead of those of all
// containers of the host (prometheus' registry); of a number that is none, kubelet's. And names that
// the guest makes up would be a new series each, every time.
func TestHostileMetrics(t *testing.T) {
	var told stats.Metrics
	told.Io = &stats.IOStat{PSI: &stats.PSIStats{
		Some: &stats.PSIData{Avg10: math.NaN(), Avg60: math.Inf(1), Avg300: math.Inf(-1)},
		Full: &stats.PSIData{Avg10: -1, Avg60: 1e300},
	}}
	told.CPU, told.Memory = &stats.CPUStat{PSI: told.Io.PSI}, &stats.MemoryStat{PSI: told.Io.PSI}
	for i := range uint64(100) {
		told.Io.Usage = append(told.Io.Usage, &stats.IOEntry{Major: i / 2, Minor: i % 2, Rbytes: 1}, &stats.IOEntry{Major: i / 2, Minor: i % 2, Rbytes: 2})
		told.Hugetlb = append(told.Hugetlb, &stats.HugeTlbStat{Pagesize: "2MB"}, &stats.HugeTlbStat{Pagesize: fmt.Sprintf("%d\x1b[2J\n", i)}, &stats.HugeTlbStat{Pagesize: fmt.Sprintf("%dKB", i+1)})
		told.Network = append(told.Network, &stats.NetworkStat{Name: "eth0\n"})
	}
	told.Rdma = &stats.RdmaStat{Current: []*stats.RdmaEntry{{Device: "\x1b"}}}
	unknown := protowire.AppendBytes(protowire.AppendTag(nil, 77, protowire.BytesType), []byte("of a containerd to come"))
	got, err := metricsFor(t, append(encode(t, &told), unknown...))
	if err != nil {
		t.Fatal(err)
	}
	devices, sizes := map[string]bool{}, map[string]bool{}
	for _, e := range got.GetIo().GetUsage() {
		devices[fmt.Sprint(e.Major, e.Minor)] = true
		if e.Rbytes != 1 {
			t.Errorf("of %d:%d it is not the first that counts", e.Major, e.Minor)
		}
	}
	for _, e := range got.Hugetlb {
		sizes[e.Pagesize] = true
		if strings.ContainsAny(e.Pagesize, "\x1b\n") {
			t.Errorf("of pages of the size %q there are metrics", e.Pagesize)
		}
	}
	const most = 64
	if len(devices) != most || len(got.Io.Usage) != most || len(sizes) != most || len(got.Hugetlb) != most || !sizes["2MB"] {
		t.Errorf("%d devices in %d entries, %d sizes of pages in %d", len(devices), len(got.Io.Usage), len(sizes), len(got.Hugetlb))
	}
	want := &stats.PSIStats{Some: &stats.PSIData{Avg60: 100}, Full: &stats.PSIData{Avg60: 100}}
	for _, pressure := range []*stats.PSIStats{got.CPU.PSI, got.Memory.PSI, got.Io.PSI} {
		if !proto.Equal(pressure, want) {
			t.Errorf("pressure: %v", pressure)
		}
	}
	again := encode(t, got)
	if got.Rdma != nil || got.Network != nil || bytes.Contains(again, []byte("to come")) || bytes.ContainsAny(again, "\x1b\n") && strings.Contains(string(again), "eth0") {
		t.Errorf("it has what nobody knows: %q", again)
	}
}

// Of what the guest leaves out there are zeros, not nothing.
func TestMissingMetrics(t *testing.T) {
	got, err := metricsFor(t, nil)
	if err != nil {
		t.Fatal(err)
	}
	if got.Pids == nil || got.CPU == nil || got.Memory == nil || got.MemoryEvents == nil || got.Io == nil {
		t.Errorf("missing: %v", got)
	}
}

// What is none, or is long, is refused, and costs nothing.
func TestUnreadableMetrics(t *testing.T) {
	for name, told := range map[string][]byte{
		"no message":      []byte("\xff\xff"),
		"no text":         encode(t, &stats.Metrics{Hugetlb: []*stats.HugeTlbStat{{Current: 1}}})[:3],
		"very many":       bytes.Repeat([]byte{0x3a, 0}, 20<<10), // empty sizes of pages
		"letters in UTF8": {0x3a, 3, 0x1a, 1, 0xff},
	} {
		if metrics, err := metricsFor(t, told); !errdefs.IsNotFound(err) || !strings.Contains(err.Error(), "cannot be read instead of cgroup v2 metrics") {
			t.Errorf("%s: %v, %v", name, metrics, err)
		}
	}
}
