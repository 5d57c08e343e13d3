package e2e

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"slices"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// A side is one of the two runtimes that a test compares. Under msb its containers are those of
// one pod, so that a container of its own for each case costs no VM.
type side struct {
	runtime string
	pod     string // id of the pod's sandbox container; empty under runc
}

// bothSides are runc, which is right, and the runtime under test.
func bothSides(t *testing.T) (theirs, ours side) {
	t.Helper()
	sandbox := start(t, options{spec: []oci.SpecOpts{ofPod("sandbox", "")}}, sleeper...)
	return side{runtime: runcRuntime}, side{runtime: harness.Runtime, pod: sandbox.ID()}
}

// ofPod has a container be of a pod, as containerd's CRI plugin says it; without an id of its own.
func ofPod(kind, id string) oci.SpecOpts {
	return func(_ context.Context, _ oci.Client, c *containers.Container, s *specs.Spec) error {
		if s.Annotations == nil {
			s.Annotations = make(map[string]string)
		}
		s.Annotations["io.kubernetes.cri.container-type"] = kind
		s.Annotations["io.kubernetes.cri.sandbox-id"] = id
		if id == "" {
			s.Annotations["io.kubernetes.cri.sandbox-id"] = c.ID
		}
		return nil
	}
}

// container is what a container of the side is made with.
func (s side) container(id string, image client.Image) []client.NewContainerOpts {
	runtime := client.WithRuntime(s.runtime, nil)
	if s.runtime == harness.Runtime {
		runtime = host.WithRuntime()
	}
	return []client.NewContainerOpts{client.WithNewSnapshot(id, image), runtime}
}

// alone is the side without its pod: a container has a VM of its own.
func (s side) alone() side { return side{runtime: s.runtime} }

// member makes a container one of the side's pod.
func (s side) member() oci.SpecOpts {
	if s.pod == "" {
		return oci.Compose()
	}
	return ofPod("container", s.pod)
}

// start starts a container that sleeps.
func (s side) start(t *testing.T, spec ...oci.SpecOpts) *task {
	t.Helper()
	return start(t, options{spec: append([]oci.SpecOpts{s.member()}, spec...), container: s.container}, sleeper...)
}

// An outcome is what became of a process.
type outcome struct {
	failed string // the error of a container or an exec that could not be started
	code   uint32
	output string // of both streams
}

// String is the outcome in one line.
func (o outcome) String() string {
	if o.failed != "" {
		return "error: " + o.failed
	}
	return fmt.Sprintf("exit code %d, %q", o.code, o.output)
}

// run runs a command in a container of its own, which is deleted.
func (s side) run(t *testing.T, change oci.SpecOpts, command ...string) outcome {
	t.Helper()
	ctx, cancel := host.Context()
	defer cancel()
	image, err := host.Client.GetImage(ctx, harness.Image)
	if err != nil {
		t.Fatal(err)
	}
	id := fmt.Sprintf("e2e-%d", time.Now().UnixNano())
	spec := client.WithNewSpec(oci.WithImageConfig(image), oci.WithProcessArgs(command...), s.member(), change)
	container, err := host.Client.NewContainer(ctx, id, append(s.container(id, image), spec)...)
	if err != nil {
		t.Fatal(err)
	}
	defer func() {
		if err := container.Delete(ctx, client.WithSnapshotCleanup); err != nil {
			t.Errorf("deleting container %s: %v", id, err)
		}
	}()
	asked, err := container.Spec(ctx)
	if err != nil {
		t.Fatal(err)
	}
	var out harness.Buffer
	created, err := container.NewTask(ctx, creator(&out, asked.Process))
	return outcomeOf(ctx, t, &out, created, err)
}

// creator makes a process's streams, or its terminal.
func creator(out *harness.Buffer, process *specs.Process) cio.Creator {
	streams := []cio.Opt{cio.WithStreams(bytes.NewReader(nil), out, out)}
	if process != nil && process.Terminal {
		streams = append(streams, cio.WithTerminal)
	}
	return cio.NewCreator(streams...)
}

// outcomeOf starts what was created, or was not, and waits for its end.
func outcomeOf(ctx context.Context, t *testing.T, out *harness.Buffer, created client.Process, err error) outcome {
	t.Helper()
	if err != nil {
		return outcome{failed: err.Error()}
	}
	defer func() { _, _ = created.Delete(ctx, client.WithProcessKill) }()
	exit, err := created.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	if err := created.Start(ctx); err != nil {
		return outcome{failed: err.Error()}
	}
	code := await(t, exit)
	created.IO().Wait()
	return outcome{code: code, output: out.String()}
}

// compareBeside compares what cases were under runc with what they are under msb. A difference
// that stays has a reason, and a reason without its difference is wrong, too.
func compareBeside(t *testing.T, theirs, ours, reasons map[string]string) {
	t.Helper()
	names := maps.Clone(theirs)
	maps.Copy(names, ours)
	for _, name := range slices.Sorted(maps.Keys(names)) {
		reason, known := reasons[name]
		switch same := theirs[name] == ours[name]; {
		case !same && !known:
			t.Errorf("%s:\n\trunc %s\n\tmsb  %s", name, theirs[name], ours[name])
		case same && known:
			t.Errorf("%s is the same under both, %s: take the reason out: %s", name, ours[name], reason)
		}
	}
	for name := range reasons {
		if _, there := names[name]; !there {
			t.Errorf("%s is not tried, and has a reason to differ", name)
		}
	}
	if len(names) == 0 {
		t.Error("nothing was compared")
	}
	t.Logf("%d compared, %d differ for a reason", len(names), len(reasons))
}
