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
	if why := machine.Err(); why == nil || !strings.Contains(why.Error(), "and 65536 is the most") {
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
	h.agent.On("CreateBundle", fake.Huge(65<<10))
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

func (c *counter) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.n
}

// A guest that breaks the rules of the streams' protocol, or of that of the calls, is ended,
// and each call that is under way says why. Nothing of it is in the log.
func TestViolations(t *testing.T) {
	logged := &counter{}
	log.L.Logger.SetOutput(logged)
	defer log.L.Logger.SetOutput(io.Discard)
	many := func(frame fake.Frame, step uint32) func(*fake.Agent) error {
		return func(a *fake.Agent) error {
			flood := make([]fake.Frame, 300)
			for i := range flood {
				flood[i] = frame
				frame.Stream += step
			}
			return a.RawFrames(flood...)
		}
	}
	for name, attack := range map[string]func(*fake.Agent) error{
		"answers to calls that nobody made": many(fake.Frame{Stream: 1001, Type: 2, Payload: []byte("x")}, 2),
		"many answers to one call":          many(fake.Frame{Stream: 1, Type: 2, Payload: bytes.Repeat([]byte{0x0a, 0}, 30<<10)}, 0),
		"data as an answer":                 many(fake.Frame{Stream: 1, Type: 3}, 0),
		"a flood of frames of no kind":      (*fake.Agent).Noise,
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
			// The first of many answers to a call is its answer.
			if err := <-failed; !strings.HasPrefix(fmt.Sprint(err), "the VM is gone") && !strings.HasPrefix(name, "many answers") {
				t.Errorf("Kill = %v", err)
			}
			if err := h.Err(); !errors.Is(err, mux.ErrViolation) && !strings.Contains(fmt.Sprint(err), "the guest sent ") {
				t.Errorf("the VM was ended for %v", err)
			}
			if grown > slack {
				t.Errorf("the host grew by %d bytes", grown)
			}
		})
	}
	if n := logged.count(); n > 4<<10 {
		t.Errorf("%d bytes were logged", n)
	}
}
