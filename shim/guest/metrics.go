package guest

import (
	"cmp"
	"errors"
	"math"
	"regexp"
	"sync"

	"github.com/containerd/cgroups/v3/cgroup2/stats"
	"google.golang.org/protobuf/proto"
)

const (
	// maxMetrics is how many bytes of metrics the guest may answer: those of a container that uses
	// all that is counted have less than 1 KiB, and some 40 bytes for each device.
	maxMetrics = 16 << 10
	// maxDevices is of how many block devices, and sizes of huge pages, there are metrics.
	maxDevices = 64
)

// pageSize is what the kernel calls a size of huge pages (Documentation/admin-guide/cgroup-v2.rst).
var pageSize = sync.OnceValue(func() *regexp.Regexp { return regexp.MustCompile(`^[1-9][0-9]{0,3}[KMG]B$`) })

// checkedMetrics are the guest's metrics of a container as the host makes them: numbers that may be
// lies, under names that are none. containerd shows those of all containers at once, and for two of
// one name, or a number that is none, it shows nobody's (prometheus' registry, kubelet's JSON). What
// is named at a guest's will would be counted anew each time in whoever collects them. So there is one
// entry for each device, only so many, and nothing that this host has no field for. What the guest
// leaves out is 0: clients that show all containers look into each part, as one of runc's has them all.
func checkedMetrics(answer []byte) ([]byte, error) {
	if len(answer) > maxMetrics {
		return nil, errors.New("too long")
	}
	var told stats.Metrics
	if err := (proto.UnmarshalOptions{DiscardUnknown: true}).Unmarshal(answer, &told); err != nil {
		return nil, err
	}
	for _, pressure := range []*stats.PSIStats{told.GetCPU().GetPSI(), told.GetMemory().GetPSI(), told.GetIo().GetPSI()} {
		checkPressure(pressure)
	}
	type device struct{ major, minor uint64 }
	if told.Io != nil {
		told.Io.Usage = firstOfEach(told.Io.Usage, func(e *stats.IOEntry) (device, bool) { return device{e.Major, e.Minor}, true })
	}
	told.Hugetlb = firstOfEach(told.Hugetlb, func(e *stats.HugeTlbStat) (string, bool) { return e.Pagesize, pageSize().MatchString(e.Pagesize) })
	return proto.Marshal(&stats.Metrics{
		Pids: cmp.Or(told.Pids, new(stats.PidsStat)), CPU: cmp.Or(told.CPU, new(stats.CPUStat)),
		Memory: cmp.Or(told.Memory, new(stats.MemoryStat)), MemoryEvents: cmp.Or(told.MemoryEvents, new(stats.MemoryEvents)),
		Io: cmp.Or(told.Io, new(stats.IOStat)), Hugetlb: told.Hugetlb,
	})
}

// firstOfEach leaves one entry for each name that is good, and not too many.
func firstOfEach[Entry any, Name comparable](all []Entry, nameOf func(Entry) (Name, bool)) (kept []Entry) {
	seen := make(map[Name]bool)
	for _, entry := range all {
		name, good := nameOf(entry)
		if !good || seen[name] {
			continue
		}
		if len(kept) == maxDevices {
			break
		}
		seen[name] = true
		kept = append(kept, entry)
	}
	return kept
}

// checkPressure leaves shares of time that can be some.
func checkPressure(pressure *stats.PSIStats) {
	for _, of := range []*stats.PSIData{pressure.GetSome(), pressure.GetFull()} {
		if of == nil {
			continue
		}
		for _, share := range []*float64{&of.Avg10, &of.Avg60, &of.Avg300} {
			const most = 100 // percent
			if math.IsNaN(*share) {
				*share = 0
			}
			*share = min(max(*share, 0), most)
		}
	}
}
