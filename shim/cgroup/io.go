package cgroup

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/log"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// Limits of input and output hold for the VM, because it is its file servers on the host that
// read and write what containers do. As for other processes, version 1 does not limit what
// the kernel writes back later (Documentation/admin-guide/cgroup-v1/blkio-controller.rst).

// An ioLimit is a limit of input and output.
type ioLimit struct {
	name    string // in the spec
	choices []line // the first whose file is there counts
	weight  bool   // it is only a weight
}

// A line is for a file of the group.
type line struct{ file, value string }

// limitIO sets the limits. Those that cannot be are told in one warning.
func (g *Group) limitIO(resources *specs.LinuxResources) error {
	if resources == nil {
		return nil
	}
	dir, dialect := g.io()
	limits := ioLimits(resources, dialect)
	missed, err := apply(dir, limits)
	if err != nil {
		return err
	}
	weighed := slices.ContainsFunc(limits, func(l ioLimit) bool { return l.weight })
	if weighed && !goesByWeights("/sys/block", unifiedRoot) {
		missed = append(missed, "weights (no disk of the host has the scheduler bfq, and none has io.cost, so nothing goes by them)")
	}
	if len(missed) > 0 {
		log.L.Warnf("control group %s: the VM goes without what the spec asks for here: %s", g.path, strings.Join(missed, "; "))
	}
	return nil
}

// apply writes limits into the files of a group's directory, which is empty where the host
// has no controller for them. It returns those that the kernel, or the disk that one is for,
// does not have.
func apply(dir string, limits []ioLimit) (missed []string, err error) {
	miss := func(l ioLimit, why string) { missed = append(missed, fmt.Sprintf("%s (%s)", l.name, why)) }
	for _, l := range limits {
		if len(l.choices) == 0 {
			miss(l, "the host's version of control groups does not have it")
			continue
		}
		switch err := l.write(dir); {
		case errors.Is(err, os.ErrNotExist):
			miss(l, "the host has no "+l.files()+" here")
		case errors.Is(err, unix.EOPNOTSUPP):
			miss(l, fmt.Sprintf("the disk's scheduler does not have it: %v", err))
		case err != nil:
			return nil, fmt.Errorf("%s: %w", l.name, err)
		}
	}
	return missed, nil
}

func (l ioLimit) write(dir string) error {
	for _, choice := range l.choices {
		if dir == "" {
			break
		}
		if err := writeLine(filepath.Join(dir, choice.file), choice.value); !errors.Is(err, os.ErrNotExist) {
			return err
		}
	}
	return os.ErrNotExist
}

// writeLine writes to a file that the kernel has made.
func writeLine(path, value string) error {
	file, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.WriteString(value); err != nil {
		return fmt.Errorf("%q: %w", value, err)
	}
	return nil
}

func (l ioLimit) files() string {
	var files []string
	for _, choice := range l.choices {
		files = append(files, choice.file)
	}
	return strings.Join(files, " or ")
}

// goesByWeights tells whether something on the host goes by weights: the scheduler bfq or,
// of old kernels, cfq of a disk, or io.cost (cgroup-v2.rst, "IO").
func goesByWeights(disks, groups string) bool {
	schedulers, _ := filepath.Glob(filepath.Join(disks, "*/queue/scheduler"))
	for _, path := range schedulers {
		text, _ := os.ReadFile(path)
		if strings.Contains(string(text), "[bfq]") || strings.Contains(string(text), "[cfq]") {
			return true
		}
	}
	text, _ := os.ReadFile(filepath.Join(groups, "io.cost.qos"))
	return strings.Contains(string(text), "enable=1")
}

// A dialect is how a version of the kernel's interface spells the limits. device is
// "MAJOR:MINOR", or empty for all.
type dialect struct {
	weight, leafWeight func(device string, weight uint16) []line
	throttle           func(device string, kind throttle, rate uint64) []line
	unified            func(file, value string) []line
}

// legacyDialect is version 1's (blkio-controller.rst): CFQ's files for weights, or BFQ's.
var legacyDialect = dialect{
	weight: func(device string, weight uint16) []line {
		return []line{legacyWeight("blkio.weight", device, weight), legacyWeight("blkio.bfq.weight", device, weight)}
	},
	leafWeight: func(device string, weight uint16) []line {
		return []line{legacyWeight("blkio.leaf_weight", device, weight)}
	},
	throttle: func(device string, kind throttle, rate uint64) []line {
		return []line{{"blkio.throttle." + kind.legacy + "_device", fmt.Sprintf("%s %d", device, rate)}}
	},
	unified: func(_, _ string) []line { return nil },
}

func legacyWeight(file, device string, weight uint16) line {
	if device == "" {
		return line{file, fmt.Sprint(weight)}
	}
	return line{file + "_device", fmt.Sprintf("%s %d", device, weight)}
}

// unifiedDialect is version 2's (cgroup-v2.rst, "IO Interface Files").
var unifiedDialect = dialect{
	weight: func(device string, weight uint16) []line {
		return []line{
			{"io.bfq.weight", strings.TrimSpace(fmt.Sprintf("%s %d", device, weight))},
			{"io.weight", strings.TrimSpace(fmt.Sprintf("%s %d", device, unifiedWeight(weight)))},
		}
	},
	leafWeight: func(string, uint16) []line { return nil },
	throttle: func(device string, kind throttle, rate uint64) []line {
		if rate == 0 { // version 1's word for none
			return []line{{"io.max", fmt.Sprintf("%s %s=max", device, kind.unified)}}
		}
		return []line{{"io.max", fmt.Sprintf("%s %s=%d", device, kind.unified, rate)}}
	},
	unified: func(file, value string) []line { return []line{{file, value}} },
}

// unifiedWeight is a weight of version 1, 10 to 1000, in version 2's range of 1 to 10000, as
// runc converts it.
func unifiedWeight(weight uint16) uint64 {
	return min(1+(max(uint64(weight), 10)-10)*9999/990, 10_000)
}

// throttle is one of the four kinds of limits of a device, with its names in both versions.
type throttle struct {
	limit, legacy, unified string
	devices                []specs.LinuxThrottleDevice
}

func throttles(block *specs.LinuxBlockIO) []throttle {
	return []throttle{
		{"blockIO.throttleReadBpsDevice", "read_bps", "rbps", block.ThrottleReadBpsDevice},
		{"blockIO.throttleWriteBpsDevice", "write_bps", "wbps", block.ThrottleWriteBpsDevice},
		{"blockIO.throttleReadIOPSDevice", "read_iops", "riops", block.ThrottleReadIOPSDevice},
		{"blockIO.throttleWriteIOPSDevice", "write_iops", "wiops", block.ThrottleWriteIOPSDevice},
	}
}

// unifiedFiles are those of the VM's group that a spec may name: shares of what the host has.
// The others decide how the group lives, and are the shim's.
var unifiedFiles = []string{"cpu.weight", "io.weight", "io.bfq.weight", "io.max", "io.latency", "io.prio.class"}

// ioLimits spells the limits of resources.
func ioLimits(resources *specs.LinuxResources, d dialect) (limits []ioLimit) {
	if block := resources.BlockIO; block != nil {
		limits = append(weights(block, d), throttled(block, d)...)
	}
	for _, file := range slices.Sorted(maps.Keys(resources.Unified)) {
		for value := range strings.Lines(resources.Unified[file]) {
			limit := ioLimit{name: "unified " + file, weight: file == "io.weight" || file == "io.bfq.weight"}
			if slices.Contains(unifiedFiles, file) {
				limit.choices = d.unified(file, strings.TrimSpace(value))
			}
			limits = append(limits, limit)
		}
	}
	return limits
}

func weights(block *specs.LinuxBlockIO, d dialect) (limits []ioLimit) {
	add := func(limit, device string, weight *uint16, spell func(string, uint16) []line) {
		if weight != nil && *weight > 0 { // 0 is none, to clients
			limits = append(limits, ioLimit{limit, spell(device, *weight), true})
		}
	}
	add("blockIO.weight", "", block.Weight, d.weight)
	add("blockIO.leafWeight", "", block.LeafWeight, d.leafWeight)
	for _, device := range block.WeightDevice {
		add("blockIO.weightDevice", number(device.LinuxBlockIODevice), device.Weight, d.weight)
		add("blockIO.weightDevice's leafWeight", number(device.LinuxBlockIODevice), device.LeafWeight, d.leafWeight)
	}
	return limits
}

func throttled(block *specs.LinuxBlockIO, d dialect) (limits []ioLimit) {
	for _, kind := range throttles(block) {
		for _, device := range kind.devices {
			limits = append(limits, ioLimit{kind.limit, d.throttle(number(device.LinuxBlockIODevice), kind, device.Rate), false})
		}
	}
	return limits
}

func number(d specs.LinuxBlockIODevice) string { return fmt.Sprintf("%d:%d", d.Major, d.Minor) }
