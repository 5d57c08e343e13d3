package guest_test

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/log"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/guest"
	"github.com/msb-runtime/containerd-shim-msb/shim/journal"
	"github.com/msb-runtime/containerd-shim-msb/test/fake"
	"github.com/msb-runtime/containerd-shim-msb/vm/mux"
)

// wantCut fails the test unless the VM was ended for a message that was too large.
func wantCut(t *testing.T, machine guest.Machine) {
	t.Helper()
	select {
	case <-machine.Done():
	case <-time.After(patience):
		t.Fatal("the VM lives on")
	}
	if why := machine.Err(); why == nil || !strings.Contains(why.Error(), "and 262144 is the most") {
		t.Errorf("the VM was ended for %v", why)
	}
}

// An answer, an event or an error that is larger than a message may be ends the VM, before
// the host keeps it.
func TestLargeMessages(t *testing.T) {
	for name, attack := range map[string]func(h *host) error{
		"an answer": func(h *host) error {
			h.agent.On("CreateBundle", fake.Huge(4<<20-1<<10))
			return call(t.Context(), h, "Guest.CreateBundle")
		},
		"an error": func(h *host) error {
			h.agent.On("Kill", fake.HugeError(1<<20))
			return call(t.Context(), h, "Task.Kill")
		},
		"an event": func(h *host) error {
			events, err := h.client.Events(t.Context())
			if err != nil {
				return err
			}
			url := strings.Repeat("x", 1<<20)
			if err := h.agent.SendEvent(&api.Event{Event: &anypb.Any{TypeUrl: url}}); err != nil {
				t.Error(err)
			}
			_, err = events.Recv()
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			h := boot(t)
			if err := attack(h); err == nil {
				t.Error("it was taken")
			}
			wantCut(t, h)
		})
	}
}

// The header alone is enough: a guest that announces a message that is too large, and then
// sends it slowly, costs the host nothing.
func TestAnnouncedMessage(t *testing.T) {
	p := connect(t)
	grown := peak(func() {
		header := binary.BigEndian.AppendUint32(nil, 4<<20)
		if _, err := p.Write(append(header, 0, 0, 0, 1, 2, 0)); err != nil {
			t.Error(err)
		}
		wantCut(t, p)
	})
	if grown > 2<<20 {
		t.Errorf("the host grew by %d bytes", grown)
	}
}

// dribbling is a machine whose streams come a byte at a time.
type dribbling struct{ *host }

type drops struct{ net.Conn }

func (d dribbling) Dial(ctx context.Context) (net.Conn, error) {
	conn, err := d.host.Dial(ctx)
	return drops{conn}, err
}

func (d drops) Read(p []byte) (int, error) { return d.Conn.Read(p[:min(1, len(p))]) }

// Messages are followed however their bytes come.
func TestDribble(t *testing.T) {
	h := launch(t, &fake.Driver{})
	var err error
	if h.client, err = guest.Connect(t.Context(), dribbling{h}, budgets); err != nil {
		t.Fatal(err)
	}
	defer h.client.Close()
	h.agent.On("CreateBundle", fake.Answer(&api.CreateBundleResponse{Path: "/here"}))
	for range 3 {
		if path, err := h.client.CreateBundle(t.Context(), &api.CreateBundleRequest{Container: "c"}); err != nil || path != "/here" {
			t.Errorf("CreateBundle = %q, %v", path, err)
		}
	}
	h.agent.On("CreateBundle", fake.Huge(257<<10))
	if err := call(t.Context(), h, "Guest.CreateBundle"); err == nil {
		t.Error("a message that is too large was taken")
	}
	wantCut(t, h)
}

// counter counts what is written to it.
type counter struct {
	mu sync.Mutex
	n  int // guarded by mu
}

func (c *counter) Write(p []byte) (int, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.n += len(p)
	return len(p), nil
}

// ttrpc's client logs a line for each message on a stream that it does not know. With the
// journal's bound a flood of them leaves less than a mebibyte, and calls are answered.
func TestUnknownStreams(t *testing.T) {
	h := boot(t)
	written := &counter{}
	log.L.Logger.SetOutput(written)
	journal.Bound(log.L.Logger)
	defer log.L.Logger.SetOutput(io.Discard)
	grown := peak(func() {
		flood := make([]fake.Frame, 30_000)
		for i := range flood {
			flood[i] = fake.Frame{Stream: 1001 + 2*uint32(i), Type: 2, Payload: []byte("x")}
		}
		if err := h.agent.RawFrames(flood...); err != nil {
			t.Error(err)
		}
		h.agent.On("Kill", fake.Pretend)
		if err := kill(t, h); err != nil { // answered behind the flood
			t.Error(err)
		}
	})
	written.mu.Lock()
	defer written.mu.Unlock()
	t.Logf("%d bytes of log, and the host grew by %d KiB", written.n, grown>>10)
	if written.n == 0 || written.n > 1<<20 || grown > slack {
		t.Errorf("%d bytes of log, and the host grew by %d bytes", written.n, grown)
	}
}

// As many messages as fit on a call's stream before and after its answer: one is the
// answer, and the others are not kept.
func TestManyAnswers(t *testing.T) {
	h := boot(t)
	gate := h.agent.Gate("Kill")
	answered := make(chan error, 1)
	go func() { answered <- kill(t, h) }()
	if _, err := gate.Wait(t.Context()); err != nil {
		t.Fatal(err)
	}
	grown := peak(func() {
		frame := fake.Frame{Stream: 1, Type: 2, Payload: bytes.Repeat([]byte{0x0a, 0}, 100<<10)}
		for range 50 {
			if err := h.agent.RawFrames(frame); err != nil {
				t.Error(err)
			}
		}
		gate.Open()
		<-answered
	})
	if grown > slack {
		t.Errorf("the host grew by %d bytes", grown)
	}
}

// A guest that breaks the rules of the streams' protocol is ended, and each call that is
// under way says why.
func TestViolations(t *testing.T) {
	for name, attack := range map[string]func(*fake.Agent) error{
		"a flood of keep-alives": (*fake.Agent).PingFlood,
		"streams without a header": func(a *fake.Agent) error {
			_, err := a.OpenStreams(4 * mux.Backlog)
			return err
		},
		"no protocol at all": func(a *fake.Agent) error { return a.Inject([]byte("\xffhello world")) },
	} {
		t.Run(name, func(t *testing.T) {
			h := boot(t)
			h.agent.On("Kill", fake.Hang)
			gate := h.agent.Gate("Kill")
			failed := make(chan error, 1)
			go func() { failed <- kill(t, h) }()
			if _, err := gate.Wait(t.Context()); err != nil {
				t.Fatal(err)
			}
			grown := peak(func() {
				_ = attack(h.agent) // fails when the machine has ended
				<-h.Done()
			})
			if err := <-failed; !errors.Is(err, mux.ErrViolation) || !strings.HasPrefix(fmt.Sprint(err), "the VM is gone") {
				t.Errorf("Kill = %v", err)
			}
			if grown > slack {
				t.Errorf("the host grew by %d bytes", grown)
			}
		})
	}
}
