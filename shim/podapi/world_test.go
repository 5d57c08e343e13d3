package podapi_test

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"

	sandboxapi "github.com/containerd/containerd/api/runtime/sandbox/v1"
	"github.com/containerd/containerd/v2/core/runtime"
	"github.com/containerd/typeurl/v2"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"

	"github.com/msb-runtime/containerd-shim-msb/shim/config"
	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
	"github.com/msb-runtime/containerd-shim-msb/shim/pod"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

// podID is the sandbox of all tests here.
const podID = "p"

var errBroken = errors.New("broken")

// A world is a shim for one sandbox.
type world struct {
	*rig.Rig
	bundle string
}

func open(t *testing.T) *world {
	t.Helper()
	bundle := t.TempDir() // before the rig is made, so that it is removed after the rig's end
	w := &world{rig.New(t), bundle}
	if err := config.SaveOptions(bundle, rig.Options(w.Rig)); err != nil {
		t.Fatal(err)
	}
	return w
}

// bubble runs a test in a bubble, which does not end while a goroutine of the shim is left.
func bubble(t *testing.T, test func(*world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(open(t)) })
}

// request is one for a sandbox with the options of its caller.
func (w *world) request(id string, options any) *sandboxapi.CreateSandboxRequest {
	w.T.Helper()
	packed, err := typeurl.MarshalAnyToProto(options)
	if err != nil {
		w.T.Fatal(err)
	}
	return &sandboxapi.CreateSandboxRequest{SandboxID: id, BundlePath: w.bundle, Options: packed}
}

// plain is a pod without wishes.
func plain() *cri.PodSandboxConfig { return &cri.PodSandboxConfig{Hostname: "name"} }

func (w *world) create() {
	w.T.Helper()
	if _, err := w.Sandboxes.CreateSandbox(context.Background(), w.request(podID, plain())); err != nil {
		w.T.Fatalf("CreateSandbox: %v", err)
	}
}

func (w *world) start(ctx context.Context) (*sandboxapi.StartSandboxResponse, error) {
	return w.Sandboxes.StartSandbox(ctx, &sandboxapi.StartSandboxRequest{SandboxID: podID})
}

func (w *world) stop(ctx context.Context) error {
	_, err := w.Sandboxes.StopSandbox(ctx, &sandboxapi.StopSandboxRequest{SandboxID: podID})
	return err
}

func (w *world) wait(ctx context.Context) (*sandboxapi.WaitSandboxResponse, error) {
	return w.Sandboxes.WaitSandbox(ctx, &sandboxapi.WaitSandboxRequest{SandboxID: podID})
}

func (w *world) status(verbose bool) *sandboxapi.SandboxStatusResponse {
	w.T.Helper()
	status, err := w.Sandboxes.SandboxStatus(context.Background(), &sandboxapi.SandboxStatusRequest{SandboxID: podID, Verbose: verbose})
	if err != nil {
		w.T.Fatalf("SandboxStatus: %v", err)
	}
	return status
}

// run creates and starts the sandbox.
func (w *world) run() {
	w.T.Helper()
	w.create()
	if _, err := w.start(context.Background()); err != nil {
		w.T.Fatalf("StartSandbox: %v", err)
	}
}

// join creates a container in the sandbox.
func (w *world) join(id string) error {
	_, err := w.Tasks.Create(context.Background(), w.Request(id, rig.InPod(rig.Spec("sleep"), podID, false)))
	return err
}

// runContainer creates and starts one.
func (w *world) runContainer(id string) {
	w.T.Helper()
	err := w.join(id)
	if err == nil {
		_, err = w.Tasks.Start(context.Background(), &taskapi.StartRequest{ID: id})
	}
	if err != nil {
		w.T.Fatalf("running container %s: %v", id, err)
	}
}

// expectDeletable deletes a container, which was killed with its pod.
func (w *world) expectDeletable(id string) {
	w.T.Helper()
	began := time.Now()
	response, err := w.Tasks.Delete(context.Background(), &taskapi.DeleteRequest{ID: id})
	if err != nil || response.ExitStatus != sandbox.ExitKilled {
		w.T.Errorf("deleting %s after the end of its pod: %v, %v", id, response, err)
	}
	if took := time.Since(began); took > 5*time.Second {
		w.T.Errorf("deleting %s took %v", id, took)
	}
}

// expectEnded fails unless the sandbox has ended with a status, and nothing of it is left.
func (w *world) expectEnded(status uint32) {
	w.T.Helper()
	exit, err := w.wait(context.Background())
	if err != nil || exit.ExitStatus != status || exit.ExitedAt == nil {
		w.T.Errorf("WaitSandbox = %v, %v, want status %d", exit, err, status)
	}
	if got := w.status(false); got.State != cri.PodSandboxState_SANDBOX_NOTREADY.String() || got.ExitedAt == nil {
		w.T.Errorf("SandboxStatus = %v", got)
	}
	if w.Pod.State() != pod.Gone {
		w.T.Errorf("the pod's state is %d", w.Pod.State())
	}
	for _, machine := range w.Driver.Machines() {
		select {
		case <-machine.Done():
		default:
			w.T.Error("a machine runs")
		}
	}
	for _, stand := range w.Placeholders() {
		select {
		case <-stand.Exited():
		default:
			w.T.Error("a placeholder runs")
		}
	}
	w.ExpectNoMounts()
}

// within fails if something took longer.
func (w *world) within(began time.Time, most time.Duration) {
	w.T.Helper()
	if took := time.Since(began); took > most {
		w.T.Errorf("it took %v, of at most %v", took, most)
	}
}

// published counts the events of a topic.
func (w *world) published(topic string) (n int) {
	w.T.Helper()
	w.Flush()
	for _, event := range w.Published.All() {
		if runtime.GetTopic(event) == topic {
			n++
		}
	}
	return n
}

// stuck is a network that cannot be taken away.
type stuck struct{ sandbox.Network }

func (stuck) Close() error { return errBroken }

// failCleanup lets cleaning up after the VM fail.
func (w *world) failCleanup() {
	open := w.Platform.OpenNetwork
	w.Platform.OpenNetwork = func(mounts mountns.Namespace, path string) (sandbox.Network, error) {
		network, err := open(mounts, path)
		return stuck{network}, err
	}
}
