// Package e2e drives the shim through a real containerd and real microVMs. Each
// test boots as few VMs as it can and checks that none leaves anything behind.
package e2e

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

var host *harness.Host

func TestMain(m *testing.M) {
	os.Exit(harness.Main(func(h *harness.Host) int {
		host = h
		return m.Run()
	}))
}

// nothingLeft fails the test if, at its end, something is there that was not
// at its start.
func nothingLeft(t *testing.T) {
	t.Helper()
	host.NothingLeft(t)
}

// task is a container with its task, as a client of containerd sees it.
type task struct {
	client.Task
	t         *testing.T
	ctx       context.Context
	container client.Container
	exit      <-chan client.ExitStatus
	shell     *shell // nil where each script is an exec of its own
}

// options are what a test may change of a container.
type options struct {
	spec []oci.SpecOpts
	io   cio.Creator
	// container is what it is made with; nil means the runtime under test and a new snapshot.
	container func(id string, image client.Image) []client.NewContainerOpts
}

// on is the same task for a subtest.
func (k *task) on(t *testing.T) *task {
	sub := *k
	sub.t = t
	return &sub
}

// create makes a container and its task; the test's end deletes both.
func create(t *testing.T, o options, command ...string) *task {
	t.Helper()
	ctx, cancel := host.Context()
	t.Cleanup(cancel)
	image, err := host.Client.GetImage(ctx, harness.Image)
	if err != nil {
		t.Fatal(err)
	}
	id := fmt.Sprintf("e2e-%d", time.Now().UnixNano())
	spec := append([]oci.SpecOpts{oci.WithImageConfig(image), oci.WithProcessArgs(command...)}, o.spec...)
	if o.container == nil {
		o.container = func(id string, image client.Image) []client.NewContainerOpts {
			return []client.NewContainerOpts{client.WithNewSnapshot(id, image), host.WithRuntime()}
		}
	}
	container, err := host.Client.NewContainer(ctx, id, append(o.container(id, image), client.WithNewSpec(spec...))...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := host.Context()
		defer cancel()
		if err := container.Delete(ctx, client.WithSnapshotCleanup); err != nil {
			t.Errorf("deleting container %s: %v", id, err)
		}
	})
	if o.io == nil {
		o.io = cio.NullIO
	}
	host.SettleSpares()
	created, err := container.NewTask(ctx, o.io)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		ctx, cancel := host.Context()
		defer cancel()
		_, _ = created.Delete(ctx, client.WithProcessKill)
	})
	exit, err := created.Wait(ctx)
	if err != nil {
		t.Fatal(err)
	}
	return &task{Task: created, t: t, ctx: ctx, container: container, exit: exit}
}

// start is create and Start.
func start(t *testing.T, o options, command ...string) *task {
	t.Helper()
	task := create(t, o, command...)
	if err := task.Start(task.ctx); err != nil {
		t.Fatal(err)
	}
	return task
}

var sleeper = harness.Sleeper

// await waits for the exit of a process and returns its code.
func await(t *testing.T, exit <-chan client.ExitStatus) uint32 {
	t.Helper()
	status := ended(t, exit)
	code, _, err := status.Result()
	if err != nil {
		t.Fatalf("waiting: %v", err)
	}
	return code
}

// ended waits for the end of a process, of which an error is told when its shim is gone.
func ended(t *testing.T, exit <-chan client.ExitStatus) client.ExitStatus {
	t.Helper()
	select {
	case status := <-exit:
		return status
	case <-time.After(harness.Patience):
		t.Fatal("no exit")
		return client.ExitStatus{}
	}
}

// exec runs a shell script in the container and returns what it printed, on both
// streams, and its exit code.
func (k *task) exec(script string) (output string, code uint32) {
	k.t.Helper()
	if k.shell != nil {
		return k.shell.run(k.t, script)
	}
	var out harness.Buffer
	process, exit := k.startExec(cio.NewCreator(cio.WithStreams(bytes.NewReader(nil), &out, &out)), nil, "sh", "-c", script)
	code = await(k.t, exit)
	if _, err := process.Delete(k.ctx); err != nil {
		k.t.Fatalf("deleting an exec: %v", err)
	}
	return out.String(), code
}

// startExec starts a process in the container.
func (k *task) startExec(io cio.Creator, change func(*specs.Process), command ...string) (client.Process, <-chan client.ExitStatus) {
	k.t.Helper()
	spec, err := k.container.Spec(k.ctx)
	if err != nil {
		k.t.Fatal(err)
	}
	process := *spec.Process
	process.Args = command
	if change != nil {
		change(&process)
	}
	created, err := k.Exec(k.ctx, fmt.Sprintf("exec%d", time.Now().UnixNano()), &process, io)
	if err != nil {
		k.t.Fatalf("exec: %v", err)
	}
	exit, err := created.Wait(k.ctx)
	if err != nil {
		k.t.Fatal(err)
	}
	if err := created.Start(k.ctx); err != nil {
		k.t.Fatalf("starting an exec: %v", err)
	}
	return created, exit
}

// must runs a script that is to succeed and returns what it printed.
func (k *task) must(script string) string {
	k.t.Helper()
	output, code := k.exec(script)
	if code != 0 {
		k.t.Errorf("%s: exit code %d\n%s", script, code, output)
	}
	return strings.TrimSpace(output)
}

// mustFail runs a script that is to fail with a message.
func (k *task) mustFail(script, message string) {
	k.t.Helper()
	output, code := k.exec(script)
	if code == 0 {
		k.t.Errorf("%s: succeeded:\n%s", script, output)
	}
	if !strings.Contains(output, message) {
		k.t.Errorf("%s: printed %q, want %q in it", script, output, message)
	}
}

// vmm is the VMM's process id.
func (k *task) vmm() int {
	k.t.Helper()
	pid := findVMM(shimOf(k.t, k.ID()))
	if pid == 0 {
		k.t.Fatalf("no VMM of %s", k.ID())
	}
	return pid
}
