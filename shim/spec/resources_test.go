package spec

import (
	"encoding/json"
	"maps"
	"math"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"
)

// Every limit that a specification can have has a rule, and every rule is for one.
func TestLimitRules(t *testing.T) {
	names := make(map[string]bool)
	resources := reflect.TypeFor[specs.LinuxResources]()
	for i := range resources.NumField() {
		field := resources.Field(i)
		section := jsonName(field)
		if _, whole := limitRules[section]; whole || section == "unified" {
			names[section] = true
			continue
		}
		for j := range field.Type.Elem().NumField() {
			names[section+"."+jsonName(field.Type.Elem().Field(j))] = true
		}
	}
	delete(names, "unified") // has rules of its own
	if got, want := slices.Sorted(maps.Keys(limitRules)), slices.Sorted(maps.Keys(names)); !slices.Equal(got, want) {
		t.Errorf("rules for\n%v, limits are\n%v", got, want)
	}
	for _, rules := range []map[string]limitRule{limitRules, unifiedRules} {
		for name, rule := range rules {
			if rule.kept != 0 && rule.why != "" {
				t.Errorf("%s is kept, and has a reason why not", name)
			}
		}
	}
}

func jsonName(field reflect.StructField) string {
	name, _, _ := strings.Cut(field.Tag.Get("json"), ",")
	return name
}

// What each limit comes to: in the guest, on the host, and in the log.
func TestLimits(t *testing.T) {
	for name, c := range map[string]struct{ given, guest, host, missed string }{
		"nothing":            {`{}`, `{}`, `{}`, ``},
		"Docker's -m":        {`{"memory":{"limit":104857600,"swap":209715200,"disableOOMKiller":false},"blockIO":{}}`, `{"memory":{"limit":104857600}}`, `{"memory":{"limit":104857600}}`, ``},
		"no swap":            {`{"memory":{"limit":7340032,"swap":7340032}}`, `{"memory":{"limit":7340032}}`, `{"memory":{"limit":7340032}}`, ``},
		"a large number":     {`{"memory":{"limit":9223372036854771712}}`, `{"memory":{"limit":9223372036854771712}}`, `{"memory":{"limit":9223372036854771712}}`, ``},
		"not in version 2":   {`{"memory":{"swappiness":10,"kernel":5,"kernelTCP":5,"disableOOMKiller":true,"useHierarchy":true,"reservation":5}}`, `{"memory":{"reservation":5}}`, `{}`, "memory.disableOOMKiller memory.kernel memory.kernelTCP memory.swappiness"},
		"processors":         {`{"cpu":{"shares":2,"quota":5,"period":6,"burst":7,"idle":1,"cpus":"0-1","mems":"0"}}`, `{"cpu":{"shares":2,"quota":5,"burst":7,"period":6,"idle":1}}`, `{"cpu":{"shares":2,"quota":5,"period":6,"cpus":"0-1","mems":"0"}}`, ``},
		"real time":          {`{"cpu":{"realtimeRuntime":5,"realtimePeriod":6}}`, `{}`, `{}`, "cpu.realtimePeriod cpu.realtimeRuntime"},
		"no real time":       {`{"cpu":{"realtimeRuntime":0,"realtimePeriod":0}}`, `{}`, `{}`, ``},
		"disks":              {`{"blockIO":{"weight":10,"throttleWriteBpsDevice":[{"major":8,"minor":0,"rate":5}]}}`, `{}`, `{"blockIO":{"weight":10,"throttleWriteBpsDevice":[{"major":8,"minor":0,"rate":5}]}}`, ``},
		"nothing of memory":  {`{"memory":{"limit":0,"reservation":0}}`, `{}`, `{}`, ``},
		"none of memory":     {`{"memory":{"limit":-1,"reservation":-1}}`, `{"memory":{"limit":-1,"reservation":-1}}`, `{"memory":{"limit":-1}}`, ``},
		"tasks of old":       {`{"pids":{"limit":0}}`, `{}`, `{}`, ``},
		"any tasks":          {`{"pids":{"limit":-1}}`, `{"pids":{"limit":-1}}`, `{}`, ``},
		"tasks and devices":  {`{"pids":{"limit":5},"devices":[{"allow":true,"access":"rwm"}]}`, `{"devices":[{"allow":true,"access":"rwm"}],"pids":{"limit":5}}`, `{}`, ``},
		"network and RDMA":   {`{"network":{"classID":5,"priorities":[{"name":"a","priority":1}]},"rdma":{"x":{"hcaHandles":1}}}`, `{}`, `{}`, "network.classID network.priorities rdma"},
		"huge pages":         {`{"hugepageLimits":[{"pageSize":"2MB","limit":5},{"pageSize":"1GB","limit":0},{"pageSize":"64KB","limit":5}]}`, `{"hugepageLimits":[{"pageSize":"2MB","limit":5}]}`, `{}`, "hugepageLimits of 64KB"},
		"unified":            {`{"unified":{"memory.low":"5","pids.max":"7","memory.swap.max":"0","io.weight":"default 50","cpu.weight":"9","rdma.max":"x"}}`, `{"unified":{"cpu.weight":"9","memory.low":"5","pids.max":"7"}}`, `{"unified":{"cpu.weight":"9","io.weight":"default 50"}}`, "unified rdma.max"},
		"unified huge pages": {`{"unified":{"hugetlb.2MB.max":"5","hugetlb.1GB.max":"5"}}`, `{"unified":{"hugetlb.2MB.max":"5"}}`, `{}`, "unified hugetlb.1GB.max"},
		"unified, sized by":  {`{"memory":{"limit":5},"unified":{"memory.max":"100M","cpu.max":"50000 100000","cpuset.cpus":"1"}}`, `{"memory":{"limit":104857600},"cpu":{"quota":50000,"period":100000}}`, `{"memory":{"limit":104857600},"cpu":{"quota":50000,"period":100000,"cpus":"1"}}`, ``},
		"unified, no limits": {`{"unified":{"memory.max":"max","cpu.max":"max"}}`, `{"memory":{"limit":-1},"cpu":{"quota":-1,"period":100000}}`, `{"memory":{"limit":-1},"cpu":{"quota":-1,"period":100000}}`, ``},
		"unified, disks":     {`{"unified":{"io.max":"8:0 rbps=5 wiops=max\n8:16 wbps=7"}}`, `{}`, `{"blockIO":{"throttleReadBpsDevice":[{"major":8,"minor":0,"rate":5}],"throttleWriteBpsDevice":[{"major":8,"minor":16,"rate":7}],"throttleWriteIOPSDevice":[{"major":8,"minor":0,"rate":0}]}}`, ``},
	} {
		limits, err := limitsOf(resourcesOf(t, c.given), true)
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if got := jsonOf(t, limits.Guest); got != c.guest {
			t.Errorf("%s: in the guest %s, want %s", name, got, c.guest)
		}
		if got := jsonOf(t, limits.Host); got != c.host {
			t.Errorf("%s: on the host %s, want %s", name, got, c.host)
		}
		if got := namesOf(limits.Missed); got != c.missed {
			t.Errorf("%s: missed %s, want %s", name, got, c.missed)
		}
	}
}

func TestLimitsRefused(t *testing.T) {
	for given, says := range map[string]string{
		`{"memory":{"limit":100,"swap":50}}`:                    "raise it",
		`{"memory":{"limit":-2}}`:                               "-1 for none",
		`{"memory":{"reservation":-2}}`:                         "memory.reservation is -2",
		`{"memory":{"limit":-1,"swap":5}}`:                      "memory.limit is none",
		`{"devices":[{"allow":true,"type":"x","access":"r"}]}`:  `rule 1 has the type "x"`,
		`{"devices":[{"allow":true,"type":"c"}]}`:               "rule 1 has no access",
		`{"memory":{"swap":-5}}`:                                "-1 for no limit",
		`{"unified":{"memory.max":"100M"},"memory":{"swap":5}}`: "raise it",
		`{"unified":{"memory.nonsense":"5"}}`:                   `"memory.nonsense" is no limit`,
		`{"unified":{"../cgroup.procs":"5"}}`:                   "is no limit",
		`{"unified":{"cgroup.procs":"1"}}`:                      "is no limit",
		`{"unified":{"memory.max":"-1"}}`:                       "number of bytes",
		`{"unified":{"memory.max":"9E"}}`:                       "number of bytes",
		`{"unified":{"memory.max":""}}`:                         "number of bytes",
		`{"unified":{"cpu.max":""}}`:                            "a quota and a period",
		`{"unified":{"cpu.max":"5 0"}}`:                         "the period",
		`{"unified":{"cpu.max":"-5"}}`:                          "the quota",
		`{"unified":{"io.max":"8 rbps=5"}}`:                     "MAJOR:MINOR",
		`{"unified":{"io.max":"8:0 rbps"}}`:                     "with a rate",
		`{"unified":{"io.max":"8:0 xbps=5"}}`:                   "with a rate",
		`{"unified":{"` + strings.Repeat("x", 500) + `":""}}`:   "…",
	} {
		_, err := limitsOf(resourcesOf(t, given), true)
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), says) || len(err.Error()) > 300 {
			t.Errorf("%s: %v, want %q", given, err, says)
		}
	}
	swap := int64(5)
	_, err := New(container(func(s *specs.Spec) {
		s.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Swap: &swap}}
	}), "/bundle")
	if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "there is no memory.limit") {
		t.Errorf("swap without memory: %v", err)
	}
}

// What is the VM's is not for a pod's container to say; its client is told.
func TestLimitsOfAMember(t *testing.T) {
	limits, err := limitsOf(resourcesOf(t, `{"cpu":{"shares":2,"cpus":"0"},"blockIO":{"weight":10},"unified":{"io.weight":"5"}}`), false)
	if err != nil {
		t.Fatal(err)
	}
	if got := namesOf(limits.Missed); got != "blockIO.weight cpu.cpus unified io.weight" {
		t.Errorf("missed %s", got)
	}
}

func TestUpdate(t *testing.T) {
	guest, limits, err := Update(&anypb.Any{TypeUrl: "type", Value: []byte(`{"memory":{"limit":100,"swap":200},"cpu":{"cpus":"0"},"unified":{"memory.swap.max":"5"}}`)}, true)
	if err != nil || string(guest.Value) != `{"memory":{"limit":100}}` || guest.TypeUrl != "type" || limits.Host.CPU.Cpus != "0" {
		t.Errorf("Update = %v, %+v, %v", guest, limits, err)
	}
	if guest, _, err = Update(&anypb.Any{Value: []byte(`{"devices":[{"allow":true,"access":"rwm"}]}`)}, true); err != nil || string(guest.Value) != `{}` {
		t.Errorf("an update of devices = %s, %v", guest.GetValue(), err)
	}
	for _, bad := range []string{"{", `{"memory":{"limit":100,"swap":50}}`, `{"memory":5}`} {
		if _, _, err := Update(&anypb.Any{Value: []byte(bad)}, true); !errdefs.IsInvalidArgument(err) {
			t.Errorf("Update(%s) = %v", bad, err)
		}
	}
}

// Limits of version 2 size the VM as those of version 1 do.
func TestUnifiedSize(t *testing.T) {
	plan, err := New(container(func(s *specs.Spec) {
		s.Linux.Resources = &specs.LinuxResources{Unified: map[string]string{"memory.max": "1G", "cpu.max": "150000 100000"}}
	}), "/bundle")
	if err != nil {
		t.Fatal(err)
	}
	size, err := plan.Size(Size{CPUs: 1, Memory: 512 * mib}, Size{CPUs: 8, Memory: math.MaxInt64})
	if err != nil || size.CPUs != 2 || size.Memory != 1<<30+Overhead {
		t.Errorf("Size = %+v, %v", size, err)
	}
}

func resourcesOf(t *testing.T, text string) *specs.LinuxResources {
	t.Helper()
	resources := new(specs.LinuxResources)
	if err := json.Unmarshal([]byte(text), resources); err != nil {
		t.Fatal(err)
	}
	return resources
}

func jsonOf(t *testing.T, value any) string {
	t.Helper()
	data, err := json.Marshal(value)
	if err != nil {
		t.Fatal(err)
	}
	return string(data)
}

// namesOf are the limits without the reasons, which there must be.
func namesOf(missed []string) string {
	var names []string
	for _, text := range missed {
		name, _, _ := strings.Cut(text, " (")
		names = append(names, name)
	}
	return strings.Join(names, " ")
}

// Before version 1.3 of the specification a client wrote a limit of 0 processes for none.
func TestNoProcesses(t *testing.T) {
	for version, want := range map[string]string{"1.0.2": `{}`, "1.2.1": `{}`, "": `{}`, "1.3.0": `{"pids":{"limit":1}}`, "1.10.0": `{"pids":{"limit":1}}`} {
		limits, err := limitsOf(resourcesAsked(&specs.Spec{Version: version, Linux: &specs.Linux{Resources: resourcesOf(t, `{"pids":{"limit":0}}`)}}), true)
		if err != nil {
			t.Fatal(err)
		}
		if got, err := json.Marshal(limits.Guest); string(got) != want || err != nil {
			t.Errorf("version %q: %s, %v, want %s", version, got, err, want)
		}
	}
}
