package fake

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/types/known/anypb"

	eventsapi "github.com/containerd/containerd/api/events"
	taskapi "github.com/containerd/containerd/api/runtime/task/v3"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/vm"
	"github.com/msb-runtime/containerd-shim-msb/vm/mux"
)

// Any event can be sent, and their stream can end under the host.
func TestEvents(t *testing.T) {
	h := boot(t, &Driver{})
	url := strings.Repeat("x", 1<<20)
	if err := h.agent.SendEvent(&api.Event{Event: &anypb.Any{TypeUrl: url}}); err != nil {
		t.Error(err)
	}
	if err := h.agent.SendEvent(&eventsapi.TaskExit{ContainerID: "c", ExitStatus: 9}); err != nil {
		t.Error(err)
	}
	if err := h.agent.SendEvent(&struct{}{}); err == nil {
		t.Error("anything is an event")
	}
	if e, ok := h.event().(*api.Event); !ok || e.Event.TypeUrl != url {
		t.Error("the first event")
	}
	if e, ok := h.event().(*eventsapi.TaskExit); !ok || e.ExitStatus != 9 {
		t.Error("the second event")
	}
	h.agent.EndEvents(errors.New("enough"))
	if _, more := <-h.events; more {
		t.Error("events after their end")
	}
	if err := h.agent.SendEvent(&eventsapi.TaskOOM{}); err != nil {
		t.Error(err)
	}
	if _, err := h.tasks.Connect(t.Context(), &taskapi.ConnectRequest{}); err != nil {
		t.Errorf("the agent is gone: %v", err)
	}
}

// listening waits until the agent has read that the host follows its events.
func (h *host) listening() {
	h.t.Helper()
	h.agent.OOM("c")
	h.expectEvents("TaskOOM")
}

// A guest that has stopped reading still writes.
func TestStopReading(t *testing.T) {
	h := boot(t, &Driver{})
	h.listening()
	if err := h.agent.StopReading(); err != nil {
		t.Fatal(err)
	}
	called := make(chan error, 1)
	go func() {
		_, err := h.tasks.Connect(t.Context(), &taskapi.ConnectRequest{})
		called <- err
	}()
	if err := h.agent.SendEvent(&eventsapi.TaskOOM{ContainerID: "c"}); err != nil {
		t.Error(err)
	}
	h.expectEvents("TaskOOM")
	select {
	case err := <-called:
		t.Errorf("a guest that does not read was called: %v", err)
	case <-time.After(time.Millisecond):
	}
	h.machine.Die(nil)
	if within(t, func() error { return <-called }) == nil {
		t.Error("a dead guest has answered")
	}
}

// Raw frames come through whole, between those of an agent that talks meanwhile, and the
// connection lives on.
func TestRawFrames(t *testing.T) {
	h := boot(t, &Driver{})
	h.run("c", "sleep")
	h.agent.On("State", Huge(20000))
	streams, err := h.agent.OpenStreams(1)
	if err != nil {
		t.Fatal(err)
	}
	unread, err := h.machine.Accept(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	defer unread.Close()
	defer streams[0].Close()
	var calls sync.WaitGroup
	for range 4 {
		calls.Go(func() {
			for range 50 {
				if r, err := h.state(t.Context()); err != nil || len(r.ID) < 2000 {
					t.Errorf("State: %v", err)
					return
				}
			}
		})
	}
	for range 200 {
		frame := Frame{Stream: 99999, Type: 2, Payload: bytes.Repeat([]byte{7}, 5000)}
		data := mux.Frame{Kind: mux.FrameData, Stream: 2, Length: 100}.Append(nil)
		if err := errors.Join(h.agent.RawFrames(frame), h.agent.Inject(append(data, make([]byte, 100)...))); err != nil {
			t.Fatal(err)
		}
	}
	calls.Wait()
	if n, err := io.CopyN(io.Discard, unread, 200*100); err != nil {
		t.Errorf("%d bytes, %v", n, err)
	}
}

// What violates the protocol of the streams ends the machine, which says so.
func TestViolation(t *testing.T) {
	for name, attack := range map[string]func(*Agent) error{
		"garbage": func(a *Agent) error { return a.Inject([]byte("no frame at all")) },
		"noise":   (*Agent).Noise,
		"streams": func(a *Agent) error {
			_, err := a.OpenStreams(mux.Backlog + 1)
			return err
		},
		"disconnect": (*Agent).Disconnect,
	} {
		t.Run(name, func(t *testing.T) {
			h := boot(t, &Driver{})
			if err := attack(h.agent); err != nil {
				t.Error(err)
			}
			if err := within(t, func() error { <-h.machine.Done(); return h.machine.Err() }); !errdefs.IsUnavailable(err) ||
				!strings.Contains(err.Error(), "cut off") || errors.Is(err, mux.ErrViolation) == (name == "disconnect") {
				t.Errorf("Err = %v", err)
			}
		})
	}
}

func TestRawFramesTooEarly(t *testing.T) {
	m := newMachine(vm.Config{}, 0, false)
	defer m.end()
	if err := m.Agent.RawFrames(Frame{}); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("RawFrames = %v", err)
	}
}

// The host sees as many streams without a header as it accepts.
func TestOpenStreams(t *testing.T) {
	h := boot(t, &Driver{})
	streams, err := h.agent.OpenStreams(mux.Backlog)
	if err != nil || len(streams) != mux.Backlog {
		t.Fatalf("%d streams, %v", len(streams), err)
	}
	for range streams {
		if _, err := h.machine.Accept(t.Context()); err != nil {
			t.Error(err)
		}
	}
	if err := h.machine.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if _, err := h.agent.OpenStreams(1); err == nil {
		t.Error("a stream of a dead machine")
	}
}

// A container connects to a socket of the host, and the host to a port of a container.
// Each end hears that the other has ended its direction.
func TestSocketsAndPorts(t *testing.T) {
	h := boot(t, &Driver{})
	go func() {
		for {
			stream, err := h.machine.Accept(context.Background())
			if err != nil {
				return
			}
			header, err := api.AcceptStream(stream)
			if err == nil && header.GetSocket().GetTag() != "so_1" {
				err = errors.New("no such socket")
			}
			if api.ReplyStream(stream, err); err != nil {
				stream.Close()
				continue
			}
			go answer(t, h.hostEnd(stream))
		}
	}()
	if _, err := h.agent.OpenSocket("so_2"); err == nil || !strings.Contains(err.Error(), "no such socket") {
		t.Errorf("OpenSocket = %v", err)
	}
	conn, err := h.agent.OpenSocket("so_1")
	if err != nil {
		t.Fatal(err)
	}
	ask(t, conn)

	port := &api.StreamHeader{Purpose: &api.StreamHeader_Port{Port: &api.PortStream{Port: 80}}}
	if _, err := h.tryDial(port); err == nil || !strings.Contains(err.Error(), "refused") {
		t.Errorf("a port on which nobody listens: %v", err)
	}
	h.agent.ServePort(80, func(conn net.Conn) { answer(t, conn.(*net.UnixConn)) })
	ask(t, h.hostEnd(h.dial(port)))
	h.agent.ServePort(80, nil)
	if _, err := h.tryDial(port); err == nil {
		t.Error("a port on which nobody listens any more")
	}
}

// hostEnd is the host's end of a connection that a stream carries.
func (h *host) hostEnd(stream net.Conn) *net.UnixConn {
	near, far, err := socketpair()
	if err != nil {
		h.t.Fatal(err)
	}
	go h.agent.join(far, stream)
	return near
}

// answer reads to the end and then writes it back.
func answer(t *testing.T, conn *net.UnixConn) {
	defer conn.Close()
	text, err := io.ReadAll(conn)
	if err != nil {
		t.Error(err)
	}
	if _, err := conn.Write(append([]byte("you said "), text...)); err != nil {
		t.Error(err)
	}
}

func ask(t *testing.T, conn *net.UnixConn) {
	t.Helper()
	defer conn.Close()
	if _, err := conn.Write([]byte("hello")); err != nil {
		t.Error(err)
	}
	if err := conn.CloseWrite(); err != nil {
		t.Error(err)
	}
	if text := read(t, conn); text != "you said hello" {
		t.Errorf("it said %q", text)
	}
}

// The wire follows the frames however they are cut.
func TestWire(t *testing.T) {
	near, far := net.Pipe()
	defer far.Close()
	w := newWire(near, ttrpcFrames)
	defer w.Close()
	got := make(chan []byte, 1)
	go func() {
		all := make([]byte, 10+5+4)
		_, _ = io.ReadFull(far, all)
		got <- all
	}()
	frame := append([]byte{0, 0, 0, 5, 0, 0, 0, 1, 2, 0}, "hello"...)
	for _, part := range [][]byte{frame[:3], frame[3:11]} {
		if _, err := w.Write(part); err != nil {
			t.Fatal(err)
		}
	}
	injected := make(chan error, 1)
	go func() { injected <- w.inject([]byte("<!!>")) }()
	select {
	case <-injected:
		t.Error("bytes in the middle of a frame")
	case <-time.After(time.Millisecond):
	}
	if _, err := w.Write(frame[11:]); err != nil {
		t.Fatal(err)
	}
	if err := <-injected; err != nil {
		t.Error(err)
	}
	if all := <-got; string(all[10:]) != "hello<!!>" {
		t.Errorf("%q", all)
	}
}
