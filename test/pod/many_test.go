package pod

import (
	"fmt"
	"os"
	"strconv"
	"sync"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// many is how many pods run at once: MSB_PODS, or else 20.
func many(t *testing.T) int {
	t.Helper()
	value := os.Getenv("MSB_PODS")
	if value == "" {
		return 20
	}
	count, err := strconv.Atoi(value)
	if err != nil || count < 1 {
		t.Fatalf("MSB_PODS is %q, not a number of pods", value)
	}
	return count
}

// TestManyPods: pods that are started, used and removed at the same time do not get into
// each other's way.
func TestManyPods(t *testing.T) {
	nothingLeft(t)
	count := many(t)
	var all, running sync.WaitGroup
	running.Add(count)
	for i := range count {
		handler := handlers[i%len(handlers)]
		all.Go(func() {
			t.Run(fmt.Sprintf("%d %s", i, handler), func(t *testing.T) {
				runs := sync.OnceFunc(running.Done)
				defer runs()
				p := startPod(t, handler, func(config *cri.PodSandboxConfig) {
					config.Hostname = fmt.Sprint("pod-", i)
					config.Linux.Resources = &cri.LinuxContainerResources{MemoryLimitInBytes: 64 * mib}
				})
				c := p.start("container", nil, sleeper...)
				runs()
				running.Wait() // they all run now
				c.want(fmt.Sprint("pod-", i), "hostname")
			})
		})
	}
	all.Wait()
}
