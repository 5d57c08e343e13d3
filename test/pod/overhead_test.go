package pod

import (
	"fmt"
	"os"
	"regexp"
	"testing"
	"time"

	"github.com/docker/go-units"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// overhead is what the RuntimeClass says that a pod needs beside its containers, in
// bytes.
func overhead(t *testing.T) int64 {
	t.Helper()
	manifest, err := os.ReadFile("../../deploy/runtimeclass.yaml")
	if err != nil {
		t.Fatal(err)
	}
	match := regexp.MustCompile(`podFixed:\n(?:.*\n)*?\s+memory: (\d+Mi)\n`).FindSubmatch(manifest)
	if match == nil {
		t.Fatal("the RuntimeClass names no overhead")
	}
	bytes, err := units.RAMInBytes(string(match[1]) + "B")
	if err != nil {
		t.Fatal(err)
	}
	return bytes
}

// TestOverhead: with the memory of its containers used up, a pod uses no more on the
// host than that and the overhead.
func TestOverhead(t *testing.T) {
	nothingLeft(t)
	const limit, used = 256 * mib, 240 * mib
	fixed := overhead(t)
	p := startPod(t, handlers[len(handlers)-1], func(config *cri.PodSandboxConfig) {
		config.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: limit}
	})
	idle, before := p.used()
	time.Sleep(idleTime)
	_, after := p.used()
	c := p.start("full", limited(limit), "sh", "-c", fmt.Sprintf("head -c %d /dev/zero | tail -c %d | sleep 1000", used, used))
	c.must("for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20; do sleep 1; test $(awk '/MemAvailable/ { print int($2 / 1024) }' /proc/meminfo) -lt 110 && break; done; free -m")
	full, _ := p.used()
	t.Logf("a pod of %s: idle %d MiB and %.3f of a processor; with %d MiB used %d MiB: %d MiB beside its containers; the RuntimeClass says %d MiB",
		units.BytesSize(limit), idle/mib, (after-before).Seconds()/idleTime.Seconds(), int64(used/mib), full/mib, (full-used)/mib, fixed/mib)
	if full-limit > fixed {
		t.Errorf("a pod of %d MiB uses %d MiB: more than its overhead of %d MiB", limit/mib, full/mib, fixed/mib)
	}
}

const idleTime = 5 * time.Second

// used is what the kubelet sees of the pod: its working set in bytes, and processor time.
func (p *pod) used() (memory int64, cpu time.Duration) {
	p.t.Helper()
	response, err := runtime.PodSandboxStats(call(p.t), &cri.PodSandboxStatsRequest{PodSandboxId: p.id})
	if err != nil {
		p.t.Fatal(err)
	}
	linux := response.Stats.Linux
	return int64(linux.Memory.WorkingSetBytes.GetValue()), time.Duration(linux.Cpu.UsageCoreNanoSeconds.GetValue())
}
