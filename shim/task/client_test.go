package task_test

import (
	"context"
	"testing"
	"testing/synctest"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/fake"
	"github.com/msb-runtime/containerd-shim-msb/test/rig"
)

func TestMain(m *testing.M) { rig.Main(m) }

// killed is the exit status of a process that SIGKILL ended, or the end of its VM.
const killed = 128 + 9

// A client calls a shim as containerd does. What its methods return besides an error is
// nil after one.
type client struct {
	*rig.Rig
	ctx context.Context
}

func open(t *testing.T) client {
	t.Helper()
	return client{rig.New(t), context.Background()}
}

// bubble runs a test where the guest's time is over at once.
func bubble(t *testing.T, test func(client)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) { test(open(t)) })
}

// with is the same client with a context for its calls.
func (c client) with(ctx context.Context) client { return client{c.Rig, ctx} }

// must fails the test at an error of what went before.
func (c client) must(err error) {
	c.T.Helper()
	if err != nil {
		c.T.Fatal(err)
	}
}

func (c client) create(id string, spec *specs.Spec) error {
	c.T.Helper()
	_, err := c.Tasks.Create(c.ctx, c.Request(id, spec))
	return err
}

func (c client) start(id, exec string) error {
	_, err := c.Tasks.Start(c.ctx, &taskapi.StartRequest{ID: id, ExecID: exec})
	return err
}

// execRequest is one to add a process without streams.
func (c client) execRequest(id, exec string, args ...string) *taskapi.ExecProcessRequest {
	c.T.Helper()
	process, err := typeurl.MarshalAnyToProto(&specs.Process{Args: args, Cwd: "/"})
	c.must(err)
	return &taskapi.ExecProcessRequest{ID: id, ExecID: exec, Spec: process}
}

func (c client) exec(id, exec string, args ...string) error {
	c.T.Helper()
	_, err := c.Tasks.Exec(c.ctx, c.execRequest(id, exec, args...))
	return err
}

// run adds an exec and starts it.
func (c client) run(id, exec string, args ...string) {
	c.T.Helper()
	c.must(c.exec(id, exec, args...))
	c.must(c.start(id, exec))
}

func (c client) signal(id, exec string, signal unix.Signal) error {
	_, err := c.Tasks.Kill(c.ctx, &taskapi.KillRequest{ID: id, ExecID: exec, Signal: uint32(signal)})
	return err
}

func (c client) kill(id, exec string) error { return c.signal(id, exec, unix.SIGKILL) }

func (c client) wait(id, exec string) (*taskapi.WaitResponse, error) {
	return c.Tasks.Wait(c.ctx, &taskapi.WaitRequest{ID: id, ExecID: exec})
}

// expectExit waits for the end of a process.
func (c client) expectExit(id, exec string, status uint32) {
	c.T.Helper()
	if exit, err := c.wait(id, exec); err != nil || exit.ExitStatus != status {
		c.T.Errorf("Wait(%s %s) = %v, %v, want %d", id, exec, exit, err, status)
	}
}

func (c client) delete(id, exec string) (*taskapi.DeleteResponse, error) {
	return c.Tasks.Delete(c.ctx, &taskapi.DeleteRequest{ID: id, ExecID: exec})
}

// expectDelete deletes a process that ended with a status.
func (c client) expectDelete(id, exec string, status uint32) {
	c.T.Helper()
	if response, err := c.delete(id, exec); err != nil || response.ExitStatus != status {
		c.T.Errorf("Delete(%s %s) = %v, %v, want %d", id, exec, response, err, status)
	}
}

func (c client) state(id, exec string) (*taskapi.StateResponse, error) {
	return c.Tasks.State(c.ctx, &taskapi.StateRequest{ID: id, ExecID: exec})
}

func (c client) expectState(id, exec string, want tasktypes.Status) {
	c.T.Helper()
	if state, err := c.state(id, exec); err != nil || state.Status != want {
		c.T.Errorf("State(%s %s) = %v, %v, want %v", id, exec, state, err, want)
	}
}

// expectTopics checks what containerd was told.
func (c client) expectTopics(want string) {
	c.T.Helper()
	c.Flush()
	if got := c.Published.Topics(); got != want {
		c.T.Errorf("events:\n%s, want\n%s", got, want)
	}
}

// pod runs a pod's sandbox container "p".
func (c client) pod() {
	c.T.Helper()
	c.must(c.create("p", rig.InPod(rig.Spec("pause"), "p", true)))
	c.must(c.start("p", ""))
}

// joinPod creates a container in the pod "p".
func (c client) joinPod(id string, args ...string) {
	c.T.Helper()
	c.must(c.create(id, member(args...)))
}

// creating begins the creation of a container of the pod "p" that exits with 1, and returns
// when the guest is at it, before the gate; done gets its result.
func (c client) creating(id string) (gate *fake.Gate, done <-chan error) {
	c.T.Helper()
	gate = c.Agent().Gate("Create")
	result := make(chan error, 1)
	request := c.Request(id, member("exit", "1"))
	go func() { _, err := c.Tasks.Create(c.ctx, request); result <- err }()
	_, err := gate.Wait(c.ctx)
	c.must(err)
	return gate, result
}

// member is the configuration of a container of the pod "p".
func member(args ...string) *specs.Spec { return rig.InPod(rig.Spec(args...), "p", false) }

// remove ends a container and deletes it.
func (c client) remove(id string) {
	c.T.Helper()
	c.must(c.kill(id, ""))
	c.expectExit(id, "", killed)
	c.expectDelete(id, "", killed)
}

// ended waits for the machine's end.
func (c client) ended() {
	c.T.Helper()
	<-c.Machine().Done()
}

// isDown waits for the shim's end.
func (c client) isDown() {
	c.T.Helper()
	<-c.Down
}

// expectNothing fails if the guest has something left of what it was given.
func (c client) expectNothing() {
	c.T.Helper()
	for _, left := range c.Agent().Left() {
		c.T.Errorf("the guest has %s left", left)
	}
	c.ExpectNoMounts()
}
