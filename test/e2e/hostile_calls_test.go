package e2e

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	tasksapi "github.com/containerd/containerd/api/services/tasks/v1"
	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

func deleteRequest(id string) *tasksapi.DeleteTaskRequest {
	return &tasksapi.DeleteTaskRequest{ContainerID: id}
}

// calls makes each call of a client at the same time, whatever comes of it, and notes how
// long the longest took.
func (v *victim) calls() {
	ctx, cancel := hostileContext(callLimit)
	defer cancel()
	var all sync.WaitGroup
	took := make(chan time.Duration, 16)
	for _, call := range []func(){
		func() { _, _ = v.task.Status(ctx) },
		func() { _, _ = v.task.Pids(ctx) },
		func() { _, _ = v.task.Metrics(ctx) },
		func() { _ = v.task.Pause(ctx); _ = v.task.Resume(ctx) },
		func() { _ = v.task.Resize(ctx, 80, 25) },
		func() { _ = v.task.CloseIO(ctx, client.WithStdinCloser) },
		func() {
			shares := uint64(512)
			_ = v.task.Update(ctx, client.WithResources(&specs.LinuxResources{CPU: &specs.LinuxCPU{Shares: &shares}}))
		},
		func() {
			process, err := v.task.Exec(ctx, "exec", &specs.Process{Args: []string{"true"}, Cwd: "/"}, cio.NullIO)
			if err != nil {
				return
			}
			_ = process.Start(ctx)
			_, _ = process.Delete(ctx, client.WithProcessKill)
		},
	} {
		all.Go(func() {
			began := time.Now()
			call()
			took <- time.Since(began)
		})
	}
	all.Wait()
	close(took)
	for one := range took {
		v.result.calls = max(v.result.calls, one)
	}
}

// allMetrics asks for the metrics of all containers, as CRI does for all of a node.
func (v *victim) allMetrics() {
	for range 3 {
		v.metrics = append(v.metrics, askMetrics(v.h.host, v.h.good.id))
	}
}

// manyMetrics asks for the metrics of the container again and again.
func (v *victim) manyMetrics() {
	var all sync.WaitGroup
	ctx, cancel := context.WithTimeout(context.Background(), v.row.goesOn)
	defer cancel()
	for range 4 {
		all.Go(func() {
			for ctx.Err() == nil {
				_ = askMetrics(v.h.host, v.id, "id=="+v.id)
				time.Sleep(50 * time.Millisecond) // containerd logs each that fails
			}
		})
	}
	all.Wait()
}

// A metricsSample is how long containerd took for the metrics of a container.
type metricsSample struct {
	at   time.Time
	took time.Duration
	err  error
}

// askMetrics asks for metrics of containers, of which id's must be among.
func askMetrics(h *harness.Host, id string, filters ...string) metricsSample {
	ctx, cancel := hostileContext(callLimit)
	defer cancel()
	began := time.Now()
	response, err := h.Client.TaskService().Metrics(ctx, &tasksapi.MetricsRequest{Filters: filters})
	if err != nil {
		return metricsSample{began, time.Since(began), err}
	}
	for _, metric := range response.Metrics {
		if metric.ID == id {
			return metricsSample{began, time.Since(began), nil}
		}
	}
	return metricsSample{began, time.Since(began), fmt.Errorf("there are none of %s", id)}
}

// judge is the longest of some answers. It has an error when not one of them was right: on a
// busy machine the good guest itself is late now and then, and its metrics are left out.
func judge(samples []metricsSample) (worst metricsSample) {
	wrong := 0
	for _, sample := range samples {
		worst.took = max(worst.took, sample.took)
		if sample.err != nil {
			wrong++
			worst.err = sample.err
		}
	}
	if wrong < len(samples) {
		worst.err = nil
	}
	return worst
}

// metricsWatch asks for the metrics of a container each second.
type metricsWatch struct {
	done  chan struct{}
	ended sync.WaitGroup

	mu      sync.Mutex
	samples []metricsSample // guarded by mu
}

func watchMetrics(h *harness.Host, id string) *metricsWatch {
	w := &metricsWatch{done: make(chan struct{})}
	w.ended.Go(func() {
		for {
			sample := askMetrics(h, id, "id=="+id)
			w.mu.Lock()
			w.samples = append(w.samples, sample)
			w.mu.Unlock()
			select {
			case <-w.done:
				return
			case <-time.After(time.Second):
			}
		}
	})
	return w
}

func (w *metricsWatch) stop() { close(w.done); w.ended.Wait() }

// since are the answers since then, of which one was right, unless that does not come.
func (w *metricsWatch) since(began time.Time) (since []metricsSample) {
	harness.Eventually(func() bool {
		w.mu.Lock()
		defer w.mu.Unlock()
		since = slices.DeleteFunc(slices.Clone(w.samples), func(s metricsSample) bool { return s.at.Add(s.took).Before(began) })
		return slices.ContainsFunc(since, func(s metricsSample) bool { return s.err == nil })
	})
	return since
}
