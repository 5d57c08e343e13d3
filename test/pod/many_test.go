package pod

import (
	"fmt"
	"sync"
	"testing"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// TestManyPods: pods that are started, used and removed at the same time do not get into
// each other's way.
func TestManyPods(t *testing.T) {
	nothingLeft(t)
	count := harness.Many(4, 20)
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
