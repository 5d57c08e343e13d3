package fake

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"testing"
	"time"

	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"github.com/containerd/typeurl/v2"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/test/itself"
	"github.com/msb-runtime/containerd-shim-msb/vm"
)

// patience bounds the wait for what must come.
const patience = 2 * time.Minute

func init() { log.L.Logger.SetOutput(io.Discard) } // where ttrpc's client tells of each frame that it did not expect

// host is the other end: as much of a shim as it takes to call an agent.
type host struct {
	t       *testing.T
	machine *Machine
	agent   *Agent
	tasks   taskapi.TTRPCTaskService
	guest   api.GuestClient
	events  chan any // closed when their stream has ended
}

// boot starts a machine and connects to its agent. At the end of the test it is stopped,
// and nothing of it may be left.
func boot(t *testing.T, driver *Driver) *host {
	t.Helper()
	itself.NothingLeft(t)
	started, err := driver.Start(t.Context(), vm.Config{Memory: 1 << 20})
	if err != nil {
		t.Fatal(err)
	}
	h := &host{t: t, machine: started.(*Machine), events: make(chan any, eventQueue)}
	h.agent = h.machine.Agent
	t.Cleanup(func() {
		if err := h.machine.Stop(context.Background()); err != nil {
			t.Error(err)
		}
	})
	h.connect()
	go h.follow()
	return h
}

// connect opens the control stream. It ends with the machine.
func (h *host) connect() {
	h.t.Helper()
	client := ttrpc.NewClient(h.dial(&api.StreamHeader{Purpose: &api.StreamHeader_Control{Control: &api.ControlStream{}}}))
	h.tasks, h.guest = taskapi.NewTTRPCTaskClient(client), api.NewGuestClient(client)
}

// follow takes the events.
func (h *host) follow() {
	defer close(h.events)
	stream, err := h.guest.Events(context.Background(), &api.EventsRequest{})
	if err != nil {
		return
	}
	for {
		event, err := stream.Recv()
		if err != nil {
			return
		}
		value, err := typeurl.UnmarshalAny(event.Event)
		if err != nil {
			value = event
		}
		h.events <- value
	}
}

// event is the next one.
func (h *host) event() any {
	h.t.Helper()
	select {
	case event, ok := <-h.events:
		if !ok {
			h.t.Fatal("the events have ended")
		}
		return event
	case <-time.After(patience):
		h.t.Fatal("no event came")
		return nil
	}
}

func (h *host) tryDial(header *api.StreamHeader) (net.Conn, error) {
	conn, err := h.machine.Dial(h.t.Context())
	if err != nil {
		return nil, err
	}
	return conn, api.OpenStream(conn, header)
}

func (h *host) dial(header *api.StreamHeader) net.Conn {
	h.t.Helper()
	conn, err := h.tryDial(header)
	if err != nil {
		h.t.Fatal(err)
	}
	return conn
}

// open opens a standard stream and returns its path too.
func (h *host) open(id string, direction api.StdioStream_Direction) (net.Conn, string) {
	h.t.Helper()
	return h.dial(&api.StreamHeader{Purpose: &api.StreamHeader_Stdio{
		Stdio: &api.StdioStream{Id: id, Direction: direction},
	}}), api.StdioPath(id)
}

// create makes a container of a program; the request may name streams.
func (h *host) create(r *taskapi.CreateTaskRequest, args ...string) error {
	h.t.Helper()
	spec, err := json.Marshal(&specs.Spec{Process: &specs.Process{Args: args}})
	if err != nil {
		h.t.Fatal(err)
	}
	bundle, err := h.guest.CreateBundle(h.t.Context(), &api.CreateBundleRequest{Container: r.ID, Spec: spec})
	if err != nil {
		return errgrpc.ToNative(err)
	}
	r.Bundle = bundle.Path
	_, err = h.tasks.Create(h.t.Context(), r)
	return errgrpc.ToNative(err)
}

func (h *host) start(id, execID string) error {
	_, err := h.tasks.Start(h.t.Context(), &taskapi.StartRequest{ID: id, ExecID: execID})
	return errgrpc.ToNative(err)
}

// run creates and starts.
func (h *host) run(id string, args ...string) {
	h.t.Helper()
	if err := errors.Join(h.create(&taskapi.CreateTaskRequest{ID: id}, args...), h.start(id, "")); err != nil {
		h.t.Fatal(err)
	}
}

func (h *host) exec(r *taskapi.ExecProcessRequest, args ...string) error {
	h.t.Helper()
	spec, err := json.Marshal(&specs.Process{Args: args})
	if err != nil {
		h.t.Fatal(err)
	}
	r.Spec = &anypb.Any{TypeUrl: "types.containerd.io/opencontainers/runtime-spec/1/Process", Value: spec}
	_, err = h.tasks.Exec(h.t.Context(), r)
	return errgrpc.ToNative(err)
}

func (h *host) kill(id, execID string, signal uint32) error {
	_, err := h.tasks.Kill(h.t.Context(), &taskapi.KillRequest{ID: id, ExecID: execID, Signal: signal})
	return errgrpc.ToNative(err)
}

// wait returns a process's exit status.
func (h *host) wait(id, execID string) uint32 {
	h.t.Helper()
	response, err := h.tasks.Wait(h.t.Context(), &taskapi.WaitRequest{ID: id, ExecID: execID})
	if err != nil {
		h.t.Fatal(err)
	}
	return response.ExitStatus
}

func (h *host) delete(id, execID string) (*taskapi.DeleteResponse, error) {
	response, err := h.tasks.Delete(h.t.Context(), &taskapi.DeleteRequest{ID: id, ExecID: execID})
	return response, errgrpc.ToNative(err)
}

// remove deletes a container and its bundle.
func (h *host) remove(id string) {
	h.t.Helper()
	_, err := h.delete(id, "")
	_, removeErr := h.guest.RemoveBundle(h.t.Context(), &api.RemoveBundleRequest{Container: id})
	if err := errors.Join(err, removeErr); err != nil {
		h.t.Fatal(err)
	}
}

// read takes all of a stream.
func read(t *testing.T, conn net.Conn) string {
	t.Helper()
	text, err := io.ReadAll(conn)
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// within fails the test when f takes for ever.
func within(t *testing.T, f func() error) error {
	t.Helper()
	done := make(chan error, 1)
	go func() { done <- f() }()
	select {
	case err := <-done:
		return err
	case <-time.After(patience):
		return fmt.Errorf("not within %v", patience)
	}
}
