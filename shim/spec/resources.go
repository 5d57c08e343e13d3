package spec

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"slices"
	"strconv"
	"strings"

	"github.com/docker/go-units"
	"github.com/opencontainers/runtime-spec/specs-go"
)

// Where a limit of a container is kept. One that is kept nowhere holds all the same, or it
// has a reason in limitRules, which is told.
const (
	inGuest = 1 << iota // by the guest's crun, for the container
	onHost              // by package cgroup, for the VM
)

type limitRule struct {
	kept int
	why  string // it is kept nowhere
}

// limitRules are for every limit of LinuxResources, by the names that it has there
// (runtime-spec, config-linux.md). What the guest's crun is to set needs a file of the
// guest's kernel, which is Linux 6.12 with control groups of version 2:
// TestResourceLimits (test/e2e) compares.
var limitRules = map[string]limitRule{
	"devices":                         {kept: inGuest},
	"memory.limit":                    {kept: inGuest | onHost},
	"memory.reservation":              {kept: inGuest},
	"memory.checkBeforeUpdate":        {kept: inGuest},
	"memory.swap":                     {}, // the guest has no swap
	"memory.useHierarchy":             {}, // always, in version 2
	"memory.kernel":                   {why: "no kernel from 5.16 on has it"},
	"memory.kernelTCP":                {why: "version 2 of control groups, which the guest has, counts it as memory"},
	"memory.swappiness":               {why: "the guest has no swap"},
	"memory.disableOOMKiller":         {why: "version 2 of control groups, which the guest has, cannot turn it off"},
	"cpu.shares":                      {kept: inGuest | onHost},
	"cpu.quota":                       {kept: inGuest | onHost},
	"cpu.period":                      {kept: inGuest | onHost},
	"cpu.burst":                       {kept: inGuest},
	"cpu.idle":                        {kept: inGuest},
	"cpu.cpus":                        {kept: onHost}, // processors and memory of the host
	"cpu.mems":                        {kept: onHost},
	"cpu.realtimeRuntime":             {why: noRealtime},
	"cpu.realtimePeriod":              {why: noRealtime},
	"pids.limit":                      {kept: inGuest},
	"blockIO.weight":                  {kept: onHost}, // the host writes and reads
	"blockIO.leafWeight":              {kept: onHost},
	"blockIO.weightDevice":            {kept: onHost},
	"blockIO.throttleReadBpsDevice":   {kept: onHost},
	"blockIO.throttleWriteBpsDevice":  {kept: onHost},
	"blockIO.throttleReadIOPSDevice":  {kept: onHost},
	"blockIO.throttleWriteIOPSDevice": {kept: onHost},
	"network.classID":                 {why: noMarks},
	"network.priorities":              {why: noMarks},
	"rdma":                            {why: noRDMA},
	"hugepageLimits":                  {kept: inGuest}, // of guestPages
}

const (
	noRealtime = "the guest's kernel has no real-time limits of groups"
	noMarks    = "version 2 of control groups, which the guest has, does not mark traffic"
	noRDMA     = "a microVM has no RDMA device"
	noPages    = "the guest has no pages of this size"
)

// guestPages are the sizes of huge pages for which the guest's kernel surely has limits. A
// processor may have more, and the guest makes none by itself.
var guestPages = []string{"2MB"}

// unifiedRules are for the files of version 2 that "unified" may name
// (Documentation/admin-guide/cgroup-v2.rst), but for those that fromUnified takes.
var unifiedRules = map[string]limitRule{
	"memory.min":             {kept: inGuest},
	"memory.low":             {kept: inGuest},
	"memory.high":            {kept: inGuest},
	"memory.oom.group":       {kept: inGuest},
	"memory.swap.high":       {}, // the guest has no swap
	"memory.swap.max":        {},
	"memory.zswap.max":       {},
	"memory.zswap.writeback": {},
	"cpu.weight":             {kept: inGuest | onHost},
	"cpu.weight.nice":        {kept: inGuest},
	"cpu.max.burst":          {kept: inGuest},
	"cpu.idle":               {kept: inGuest},
	"cpu.uclamp.min":         {why: "the guest's kernel has no clamps of utilization"},
	"cpu.uclamp.max":         {why: "the guest's kernel has no clamps of utilization"},
	"cpuset.cpus.exclusive":  {why: "it names processors of the host"},
	"cpuset.cpus.partition":  {why: "it is about processors of the host"},
	"pids.max":               {kept: inGuest},
	"hugetlb.2MB.max":        {kept: inGuest},
	"hugetlb.2MB.rsvd.max":   {kept: inGuest},
	"cgroup.max.depth":       {kept: inGuest},
	"cgroup.max.descendants": {kept: inGuest},
	"io.weight":              {kept: onHost},
	"io.bfq.weight":          {kept: onHost},
	"io.latency":             {kept: onHost},
	"io.prio.class":          {kept: onHost},
	"rdma.max":               {why: noRDMA},
	"misc.max":               {why: "a microVM has no such resource of the host"},
	"dmem.max":               {why: "a microVM has no device with memory of its own"},
	"dmem.min":               {why: "a microVM has no device with memory of its own"},
	"dmem.low":               {why: "a microVM has no device with memory of its own"},
}

// Limits are what becomes of the resources that a client asks for.
type Limits struct {
	// Guest is for crun in the guest. Only what the guest's kernel has is in it.
	Guest *specs.LinuxResources
	// Host is for the VM: its size and its control group.
	Host *specs.LinuxResources
	// Missed are those that nobody keeps, each with the reason; for the log.
	Missed []string

	alone bool // the container has the VM for itself
}

// limitsOf sorts resources by who keeps them. What concerns the VM is for a container that
// has it for itself (alone) to say.
func limitsOf(resources *specs.LinuxResources, alone bool) (Limits, error) {
	if resources == nil {
		return Limits{}, nil
	}
	plain, err := fromUnified(resources)
	if err != nil {
		return Limits{}, err
	}
	if err := checkMemory(plain.Memory); err != nil {
		return Limits{}, err
	}
	if err := checkRules(plain.Devices); err != nil {
		return Limits{}, err
	}
	plain.Memory, plain.Pids = memoryAsked(plain.Memory), pidsAsked(plain.Pids)
	unified := plain.Unified
	plain.Unified = nil
	l := Limits{alone: alone}
	plain.HugepageLimits = l.pages(plain.HugepageLimits)
	if l.Guest, l.Host, err = l.split(plain); err != nil {
		return Limits{}, err
	}
	for _, file := range slices.Sorted(maps.Keys(unified)) {
		rule, known := unifiedRules[file]
		switch {
		case !known && strings.HasPrefix(file, "hugetlb."):
			rule = limitRule{why: noPages}
		case !known:
			return Limits{}, invalid("linux.resources.unified: %q is no limit of a control group of version 2 that a client may set: leave it out", shorten(file))
		}
		l.file(rule, file, unified[file])
	}
	return l, nil
}

// file puts a limit of "unified" where it is kept.
func (l *Limits) file(rule limitRule, file, value string) {
	put := func(resources *specs.LinuxResources) {
		if resources.Unified == nil {
			resources.Unified = make(map[string]string)
		}
		resources.Unified[file] = value
	}
	if rule.kept&inGuest != 0 {
		put(l.Guest)
	}
	if rule.kept&onHost != 0 {
		put(l.Host)
	}
	l.miss(rule, "unified "+file)
}

// miss notes a limit that nobody keeps.
func (l *Limits) miss(rule limitRule, name string) {
	switch {
	case rule.kept == onHost && !l.alone:
		rule.why = "it is for a VM as a whole, and this one is a pod's"
	case rule.why == "":
		return
	}
	l.Missed = append(l.Missed, fmt.Sprintf("%s (%s)", name, rule.why))
}

// split takes resources apart by their names in JSON.
func (l *Limits) split(resources *specs.LinuxResources) (guest, host *specs.LinuxResources, err error) {
	sections, err := fields(resources)
	if err != nil {
		return nil, nil, err
	}
	inside, outside := make(map[string]any), make(map[string]any)
	for _, section := range slices.Sorted(maps.Keys(sections)) {
		if rule, whole := limitRules[section]; whole {
			l.sort(rule, section, sections[section], section, inside, outside)
			continue
		}
		limits, err := fields(sections[section])
		if err != nil {
			return nil, nil, err
		}
		in, out := make(map[string]any), make(map[string]any)
		for _, limit := range slices.Sorted(maps.Keys(limits)) {
			l.sort(limitRules[section+"."+limit], limit, limits[limit], section+"."+limit, in, out)
		}
		if len(in) > 0 {
			inside[section] = in
		}
		if len(out) > 0 {
			outside[section] = out
		}
	}
	guest, host = new(specs.LinuxResources), new(specs.LinuxResources)
	if err := refill(inside, guest); err != nil {
		return nil, nil, err
	}
	return guest, host, refill(outside, host)
}

// sort puts a limit into the parts where it is kept, and notes it if it is missed and says
// anything.
func (l *Limits) sort(rule limitRule, key string, value json.RawMessage, name string, inside, outside map[string]any) {
	if rule.kept&inGuest != 0 {
		inside[key] = value
	}
	if rule.kept&onHost != 0 {
		outside[key] = value
	}
	if !slices.Contains([]string{"0", "false", `""`, "null", "[]", "{}"}, string(value)) {
		l.miss(rule, name)
	}
}

// fields are those of a JSON object.
func fields(of any) (fields map[string]json.RawMessage, err error) {
	data, err := json.Marshal(of)
	if err == nil {
		err = json.Unmarshal(data, &fields)
	}
	return fields, err
}

func refill(from map[string]any, to *specs.LinuxResources) error {
	data, err := json.Marshal(from)
	if err != nil {
		return err
	}
	return json.Unmarshal(data, to)
}

// pages leaves the limits of huge pages that the guest has. Those of others are kept if
// they allow none, as the kubelet's do.
func (l *Limits) pages(limits []specs.LinuxHugepageLimit) (kept []specs.LinuxHugepageLimit) {
	for _, limit := range limits {
		switch {
		case slices.Contains(guestPages, limit.Pagesize):
			kept = append(kept, limit)
		case limit.Limit > 0:
			l.miss(limitRule{why: noPages}, "hugepageLimits of "+shorten(limit.Pagesize))
		}
	}
	return kept
}

// shorten is a client's text, for an error or the log.
func shorten(text string) string {
	const most = 64
	if len(text) > most {
		return text[:most] + "…"
	}
	return text
}

// memoryAsked are limits of memory without those that are 0, which ask for nothing.
func memoryAsked(memory *specs.LinuxMemory) *specs.LinuxMemory {
	if memory == nil {
		return nil
	}
	asked := *memory
	for _, limit := range []**int64{&asked.Limit, &asked.Reservation} {
		if *limit != nil && **limit == 0 {
			*limit = nil
		}
	}
	return &asked
}

// pidsAsked is a limit of processes, unless it is 0: before version 1.3 of the specification clients
// wrote that whether or not they meant it, and an update does not say its version.
func pidsAsked(pids *specs.LinuxPids) *specs.LinuxPids {
	if pids != nil && pids.Limit != nil && *pids.Limit == 0 {
		return nil
	}
	return pids
}

// resourcesAsked are a configuration's. In version 1.3 of the specification and later, a limit of 0
// processes is meant: no more than the first one, as with runc.
func resourcesAsked(spec *specs.Spec) *specs.LinuxResources {
	resources := spec.Linux.Resources
	old := slices.ContainsFunc([]string{"1.0", "1.1", "1.2"}, func(minor string) bool { return strings.HasPrefix(spec.Version, minor+".") })
	if resources == nil || resources.Pids == nil || resources.Pids.Limit == nil || *resources.Pids.Limit != 0 || old || spec.Version == "" {
		return resources
	}
	asked, one := *resources, int64(1)
	asked.Pids = &specs.LinuxPids{Limit: &one}
	return &asked
}

// checkRules refuses rules for devices that runc refuses.
func checkRules(rules []specs.LinuxDeviceCgroup) error {
	for i, rule := range rules {
		switch {
		case !isAny(rule.Type, "", "a", "b", "c"):
			return invalid("linux.resources.devices: rule %d has the type %q: it is a, b or c", i+1, shorten(rule.Type))
		case rule.Access == "":
			return invalid("linux.resources.devices: rule %d has no access: it is of r, w and m", i+1)
		}
	}
	return nil
}

// checkMemory refuses what runc refuses of every kernel: the guest's kernel, which has no
// swap, is not asked.
func checkMemory(memory *specs.LinuxMemory) error {
	if memory == nil {
		return nil
	}
	limit := limitOf(&specs.LinuxResources{Memory: memory})
	if limit < -1 {
		return invalid("memory.limit is %d: it is a number of bytes, or -1 for none", limit)
	}
	if memory.Reservation != nil && *memory.Reservation < -1 {
		return invalid("memory.reservation is %d: it is a number of bytes, or -1 for none", *memory.Reservation)
	}
	if memory.Swap == nil {
		return nil
	}
	switch swap := *memory.Swap; {
	case swap < -1:
		return invalid("memory.swap is %d: it is a number of bytes, memory and swap together, or -1 for no limit", swap)
	case swap > 0 && limit == -1:
		return invalid("memory.swap is for memory and swap together, and memory.limit is none: set one, or leave memory.swap out")
	case swap > 0 && limit > swap:
		return invalid("memory.swap of %s is for memory and swap together, and less than memory.limit, %s: raise it, or leave it out",
			units.BytesSize(float64(swap)), units.BytesSize(float64(limit)))
	}
	return nil
}

// checkSwap refuses a limit of swap without one of memory, as every kernel does; an update
// may mean the limit that is there.
func checkSwap(resources *specs.LinuxResources) error {
	if resources == nil || resources.Memory == nil || resources.Memory.Swap == nil {
		return nil
	}
	if *resources.Memory.Swap > 0 && limitOf(resources) <= 0 {
		return invalid("memory.swap is for memory and swap together, and there is no memory.limit: set one, or leave it out")
	}
	return nil
}

// fromUnified is a copy of resources in which limits of "unified" that are for the host, too,
// are where those of version 1 are. As with runc, they win.
func fromUnified(resources *specs.LinuxResources) (*specs.LinuxResources, error) {
	plain := *resources
	if len(plain.Unified) == 0 {
		return &plain, nil
	}
	plain.Unified = maps.Clone(plain.Unified)
	plain.Memory, plain.CPU, plain.BlockIO = clone(plain.Memory), clone(plain.CPU), clone(plain.BlockIO)
	for file, take := range map[string]func(string) error{
		"memory.max":  func(value string) (err error) { plain.Memory.Limit, err = memoryMax(value); return err },
		"cpu.max":     func(value string) error { return cpuMax(value, plain.CPU) },
		"cpuset.cpus": func(value string) error { plain.CPU.Cpus = value; return nil },
		"cpuset.mems": func(value string) error { plain.CPU.Mems = value; return nil },
		"io.max":      func(value string) error { return ioMax(value, plain.BlockIO) },
	} {
		value, set := plain.Unified[file]
		if !set {
			continue
		}
		if err := take(strings.TrimSpace(value)); err != nil {
			return nil, invalid("linux.resources.unified: %s: %v", file, err)
		}
		delete(plain.Unified, file)
	}
	return &plain, nil
}

func clone[T any](value *T) *T {
	if value == nil {
		return new(T)
	}
	copied := *value
	return &copied
}

// memoryMax reads memory.max: bytes, with a suffix of the kernel's memparse, or max.
func memoryMax(value string) (*int64, error) {
	limit := int64(-1)
	if value == "max" {
		return &limit, nil
	}
	number, shift := value, 0
	if i := strings.IndexAny(value, "KkMmGgTtPpEe"); i >= 0 && i == len(value)-1 {
		number, shift = value[:i], 10*(1+strings.IndexByte("kmgtpe", value[i]|0x20))
	}
	n, err := strconv.ParseInt(number, 10, 64)
	if err != nil || n < 0 || n > math.MaxInt64>>shift {
		return nil, fmt.Errorf("%q is not a number of bytes, or max", shorten(value))
	}
	limit = n << shift
	return &limit, nil
}

// cpuMax reads cpu.max: "QUOTA [PERIOD]" in microseconds; a quota of max is none.
func cpuMax(value string, cpu *specs.LinuxCPU) error {
	words := strings.Fields(value)
	if len(words) == 0 || len(words) > 2 {
		return fmt.Errorf("%q is not a quota and a period", shorten(value))
	}
	quota, period := int64(-1), uint64(defaultPeriod)
	var err error
	if words[0] != "max" {
		if quota, err = strconv.ParseInt(words[0], 10, 64); err != nil || quota <= 0 {
			return fmt.Errorf("the quota %q is not a number of microseconds, or max", shorten(words[0]))
		}
	}
	if len(words) == 2 {
		if period, err = strconv.ParseUint(words[1], 10, 64); err != nil || period == 0 {
			return fmt.Errorf("the period %q is not a number of microseconds", shorten(words[1]))
		}
	}
	cpu.Quota, cpu.Period = &quota, &period
	return nil
}

// ioMax reads io.max: a line for each device, "MAJOR:MINOR KEY=RATE…"; a rate of max is none.
func ioMax(value string, block *specs.LinuxBlockIO) error {
	lists := map[string]*[]specs.LinuxThrottleDevice{
		"rbps": &block.ThrottleReadBpsDevice, "wbps": &block.ThrottleWriteBpsDevice,
		"riops": &block.ThrottleReadIOPSDevice, "wiops": &block.ThrottleWriteIOPSDevice,
	}
	for line := range strings.Lines(value) {
		words := strings.Fields(line)
		if len(words) == 0 {
			continue
		}
		var device specs.LinuxThrottleDevice
		major, minor, _ := strings.Cut(words[0], ":")
		var err, err2 error
		device.Major, err = strconv.ParseInt(major, 10, 32)
		device.Minor, err2 = strconv.ParseInt(minor, 10, 32)
		if err != nil || err2 != nil || device.Major < 0 || device.Minor < 0 {
			return fmt.Errorf("%q is not a device's MAJOR:MINOR", shorten(words[0]))
		}
		for _, word := range words[1:] {
			key, rate, _ := strings.Cut(word, "=")
			if device.Rate, err = strconv.ParseUint(rate, 10, 64); rate != "max" && err != nil || lists[key] == nil {
				return fmt.Errorf("%q is not rbps, wbps, riops or wiops with a rate, or max", shorten(word))
			}
			if rate == "max" {
				device.Rate = 0 // version 1's word for it
			}
			*lists[key] = append(slices.Clip(*lists[key]), device)
		}
	}
	return nil
}
