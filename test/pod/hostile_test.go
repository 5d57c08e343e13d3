package pod

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"text/tabwriter"
	"time"

	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// hostilePods are what the agent of a pod does; see test/hostile/agent.
var hostilePods = []struct{ name, words string }{
	{"never answers CloseStdio", "hang:CloseStdio"},
	{"never answers Kill", "hang:Kill"},
	{"never answers Delete", "hang:Delete"},
	{"never answers RemoveBundle", "hang:RemoveBundle"},
	{"tells an exit of its init, which runs on", "event:exit,1"},
}

// A pod whose agent is somebody else's is stopped and removed, by which the kubelet frees
// the node. A slow machine gets more time than that takes; the table has the figures.
func TestHostilePod(t *testing.T) {
	const bound, limit = 35 * time.Second, 70 * time.Second
	useHostileKit(t)
	perHandler(t, func(t *testing.T, handler string) {
		table := new(strings.Builder)
		w := tabwriter.NewWriter(table, 0, 0, 2, ' ', 0)
		fmt.Fprintln(w, "POD\tSTOP s\tREMOVE s")
		var mu sync.Mutex
		var all sync.WaitGroup
		for _, row := range hostilePods {
			p := startPod(t, handler, func(config *cri.PodSandboxConfig) { config.Metadata.Uid += row.words })
			p.start("app", func(config *cri.ContainerConfig) {
				config.Envs = []*cri.KeyValue{{Key: "MSB_HOSTILE", Value: []byte(row.words)}}
			}, sleeper...)
			time.Sleep(2 * time.Second) // the agent begins a second after the container
			all.Go(func() {
				stop, remove, err := p.end(2 * limit)
				mu.Lock()
				defer mu.Unlock()
				fmt.Fprintf(w, "%s\t%.1f\t%.1f\n", row.name, stop.Seconds(), remove.Seconds())
				if err != nil {
					t.Errorf("%s: %v", row.name, err)
				}
				if stop+remove > limit {
					t.Errorf("%s: stop and remove took %v", row.name, stop+remove)
				}
			})
		}
		all.Wait()
		w.Flush()
		t.Logf("how long hostile pods take to go; bound %v\n%s", bound, table)
	})
}

// end stops and removes the pod. The CRI plugin takes note of a container's exit only when its
// shim has been cleaned up after, and refuses to remove the pod until then: the kubelet asks
// again.
func (p *pod) end(limit time.Duration) (stop, remove time.Duration, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), limit)
	defer cancel()
	began := time.Now()
	if _, err := runtime.StopPodSandbox(ctx, &cri.StopPodSandboxRequest{PodSandboxId: p.id}); err != nil {
		return time.Since(began), 0, fmt.Errorf("stopping: %w", err)
	}
	stop = time.Since(began)
	harness.Eventually(func() bool {
		_, err = runtime.RemovePodSandbox(ctx, &cri.RemovePodSandboxRequest{PodSandboxId: p.id})
		return err == nil || ctx.Err() != nil || !strings.Contains(err.Error(), "still running")
	})
	return stop, time.Since(began) - stop, err
}

// useHostileKit has pods that start from now on be guests of the hostile agent, until the
// test ends. The configuration is where the shim looks for it, in containerd's mounts.
func useHostileKit(t *testing.T) {
	t.Helper()
	kit := filepath.Join(host.Dir, "hostile")
	if err := os.Mkdir(kit, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := host.HostileKit(kit, ""); err != nil {
		t.Fatal(err)
	}
	config := fmt.Sprintf("/proc/%d/root/etc/msb/config.toml", host.Pid())
	before, err := os.ReadFile(config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.WriteFile(config, before, 0o600); err != nil {
			t.Error(err)
		}
	})
	if err := os.WriteFile(config, fmt.Appendf(nil, "kit = %q\n%s", kit, before), 0o600); err != nil {
		t.Fatal(err)
	}
}
