package podapi_test

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/errdefs"
	"github.com/containerd/typeurl/v2"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	"github.com/msb-runtime/containerd-shim-msb/shim/config"
	"github.com/msb-runtime/containerd-shim-msb/shim/pod"
	"github.com/msb-runtime/containerd-shim-msb/test/counted"
)

// namespaces is a pod with namespaces of the host.
func namespaces(options *cri.NamespaceOption) *cri.PodSandboxConfig {
	return &cri.PodSandboxConfig{Linux: &cri.LinuxPodSandboxConfig{
		SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: options},
	}}
}

// inGroup is a pod in a control group.
func inGroup(parent string) *cri.PodSandboxConfig {
	return &cri.PodSandboxConfig{Linux: &cri.LinuxPodSandboxConfig{CgroupParent: parent}}
}

// What cannot be is refused, and nothing of it is left: the next sandbox is made.
func TestCreateRefused(t *testing.T) {
	for name, c := range map[string]struct {
		id      string
		options any
	}{
		"a path for an id":             {"../p", plain()},
		"no id":                        {"", plain()},
		"an id that is too long":       {strings.Repeat("p", 300), plain()},
		"the host's network":           {podID, namespaces(&cri.NamespaceOption{Network: cri.NamespaceMode_NODE})},
		"the host's processes":         {podID, namespaces(&cri.NamespaceOption{Pid: cri.NamespaceMode_NODE})},
		"the host's IPC":               {podID, namespaces(&cri.NamespaceOption{Ipc: cri.NamespaceMode_NODE})},
		"options of another type":      {podID, &cri.ContainerConfig{}},
		"a control group that is none": {podID, inGroup("a:b")},
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(w *world) {
				counts := counted.Begin(t)
				if _, err := w.Sandboxes.CreateSandbox(context.Background(), w.request(c.id, c.options)); !errdefs.IsInvalidArgument(err) {
					t.Errorf("CreateSandbox = %v", err)
				}
				w.expectNothingCreated()
				w.run()
				if got := counts(); got != "refusals invalid argument 1, starts none cold success 1" {
					t.Errorf("counted: %s", got)
				}
			})
		})
	}
}

// expectNothingCreated fails if a create that was refused has left anything.
func (w *world) expectNothingCreated() {
	w.T.Helper()
	if left, _ := filepath.Glob(filepath.Join(w.bundle, "msb*")); len(left) > 1 { // the runtime's options
		w.T.Errorf("left in the bundle: %v", left)
	}
	if w.Pod.Busy() || w.Pod.State() != pod.New {
		w.T.Errorf("the pod is busy: %v, its state %d", w.Pod.Busy(), w.Pod.State())
	}
	w.ExpectNoMounts()
}

// A shim has one sandbox, and none beside a container's VM.
func TestTaken(t *testing.T) {
	bubble(t, func(w *world) {
		w.create()
		for _, id := range []string{podID, "another"} {
			if _, err := w.Sandboxes.CreateSandbox(context.Background(), w.request(id, plain())); !errdefs.IsAlreadyExists(err) {
				t.Errorf("CreateSandbox of %s = %v", id, err)
			}
		}
		if _, err := w.start(context.Background()); err != nil {
			t.Errorf("the first does not start: %v", err)
		}
	})
	bubble(t, func(w *world) {
		w.Run("c", "sleep")
		if _, err := w.Sandboxes.CreateSandbox(context.Background(), w.request(podID, plain())); !errdefs.IsFailedPrecondition(err) {
			t.Errorf("CreateSandbox beside a container = %v", err)
		}
		if err := w.stop(context.Background()); !errdefs.IsNotFound(err) {
			t.Errorf("StopSandbox = %v", err)
		}
	})
}

// Of creates at the same time one succeeds.
func TestCreateAtTheSameTime(t *testing.T) {
	bubble(t, func(w *world) {
		request := w.request(podID, plain())
		results := make(chan error)
		const callers = 10
		for range callers {
			go func() {
				_, err := w.Sandboxes.CreateSandbox(context.Background(), request)
				results <- err
			}()
		}
		created := 0
		for range callers {
			switch err := <-results; {
			case err == nil:
				created++
			case !errdefs.IsAlreadyExists(err):
				t.Errorf("CreateSandbox = %v", err)
			}
		}
		if created != 1 {
			t.Errorf("%d were created", created)
		}
		if _, err := w.start(context.Background()); err != nil {
			t.Errorf("StartSandbox = %v", err)
		}
	})
}

// What the administrator has configured badly is told with a create.
func TestBadConfiguration(t *testing.T) {
	for name, configuration := range map[string]string{
		"not TOML":                  "?",
		"no such driver":            "driver = \"none\"\n",
		"more memory than there is": "kit = \"/kit\"\n[vm]\nmemory = \"4PiB\"\n",
	} {
		t.Run(name, func(t *testing.T) {
			bubble(t, func(w *world) {
				options, err := typeurl.MarshalAnyToProto(&runtimeoptions.Options{ConfigBody: []byte(configuration)})
				if err != nil {
					t.Fatal(err)
				}
				if err := config.SaveOptions(w.bundle, options); err != nil {
					t.Fatal(err)
				}
				if _, err := w.Sandboxes.CreateSandbox(context.Background(), w.request(podID, plain())); err == nil {
					t.Error("CreateSandbox succeeds")
				}
				w.expectNothingCreated()
			})
		})
	}
}

// Calls that name another sandbox than there is, or one where there is none.
func TestNoSuchSandbox(t *testing.T) {
	for name, prepare := range map[string]func(*world){"none": func(*world) {}, "another": (*world).run} {
		bubble(t, func(w *world) {
			prepare(w)
			ctx := context.Background()
			const id = "other"
			for call, err := range map[string]error{
				"StartSandbox":   second(w.Sandboxes.StartSandbox(ctx, &sandboxapi.StartSandboxRequest{SandboxID: id})),
				"StopSandbox":    second(w.Sandboxes.StopSandbox(ctx, &sandboxapi.StopSandboxRequest{SandboxID: id})),
				"WaitSandbox":    second(w.Sandboxes.WaitSandbox(ctx, &sandboxapi.WaitSandboxRequest{SandboxID: id})),
				"SandboxStatus":  second(w.Sandboxes.SandboxStatus(ctx, &sandboxapi.SandboxStatusRequest{SandboxID: id})),
				"PingSandbox":    second(w.Sandboxes.PingSandbox(ctx, &sandboxapi.PingRequest{SandboxID: id})),
				"SandboxMetrics": second(w.Sandboxes.SandboxMetrics(ctx, &sandboxapi.SandboxMetricsRequest{SandboxID: id})),
			} {
				right := errdefs.IsNotFound
				if name == "none" && call == "StartSandbox" {
					right = errdefs.IsFailedPrecondition // it comes before CreateSandbox
				}
				if !right(err) {
					t.Errorf("%s, %s: %v", name, call, err)
				}
			}
		})
	}
}

func second[T any](_ T, err error) error { return err }

// The metrics of a pod are those of its control group; without one there are none.
func TestMetrics(t *testing.T) {
	bubble(t, func(w *world) {
		w.run()
		_, err := w.Sandboxes.SandboxMetrics(context.Background(), &sandboxapi.SandboxMetricsRequest{SandboxID: podID})
		if !errdefs.IsNotFound(err) {
			t.Errorf("SandboxMetrics without a control group = %v", err)
		}
	})
	bubble(t, func(w *world) {
		id := fmt.Sprintf("msb-podapi-test-%d", os.Getpid())
		if _, err := w.Sandboxes.CreateSandbox(context.Background(), w.request(id, inGroup("/"))); err != nil {
			t.Fatal(err)
		}
		if _, err := w.Sandboxes.StartSandbox(context.Background(), &sandboxapi.StartSandboxRequest{SandboxID: id}); err != nil {
			t.Fatal(err)
		}
		got, err := w.Sandboxes.SandboxMetrics(context.Background(), &sandboxapi.SandboxMetricsRequest{SandboxID: id})
		if err != nil {
			t.Fatal(err)
		}
		if got.Metrics.ID != id || len(got.Metrics.Data.GetValue()) == 0 || got.Metrics.Timestamp == nil {
			t.Errorf("SandboxMetrics = %v", got)
		}
	})
}
