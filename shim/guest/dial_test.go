package guest_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"google.golang.org/protobuf/proto"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/guest"
	"github.com/msb-runtime/containerd-shim-msb/test/fake"
)

// A stream carries what is written, and has no deadline left of its opening.
func TestDial(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := boot(t)
		conn, err := h.client.Dial(t.Context(), stdio("s"))
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		time.Sleep(2 * budgets.Prompt)
		if _, err := io.WriteString(conn, "ignored"); err != nil {
			t.Error(err)
		}
		if err := h.client.CloseStdio(t.Context(), []string{"s"}); err != nil {
			t.Error(err)
		}
		if n, err := conn.Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
			t.Errorf("Read = %d, %v", n, err)
		}
		h.wantAlive()
	})
}

// Streams that are opened together cost one round trip, and each is its own. Where one is refused
// there is none.
func TestDialAll(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := boot(t)
		h.agent.On("Stdio", fake.LateAnswer(time.Second))
		began := time.Now()
		conns, err := h.client.DialAll(t.Context(), stdio("a"), stdio("b"), stdio("c"))
		if took := time.Since(began); err != nil || len(conns) != 3 || took != time.Second {
			t.Fatalf("after %v: %d streams, %v", took, len(conns), err)
		}
		for i, id := range []string{"a", "b", "c"} {
			if err := h.client.CloseStdio(t.Context(), []string{id}); err != nil {
				t.Error(err)
			}
			if n, err := conns[i].Read(make([]byte, 1)); n != 0 || !errors.Is(err, io.EOF) {
				t.Errorf("%s: Read = %d, %v", id, n, err)
			}
			conns[i].Close()
		}
		h.agent.On("Stdio", fake.Times(1, fake.Fail(errors.New("no room"))))
		if conns, err := h.client.DialAll(t.Context(), stdio("a"), stdio("b")); conns != nil || !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "no room") {
			t.Errorf("DialAll = %d streams, %v", len(conns), err)
		}
		synctest.Wait()
		for _, left := range h.agent.Left() {
			t.Errorf("the guest has %s left", left)
		}
		h.wantAlive()
	})
}

// A stream that the agent does not accept in time costs the guest its VM.
func TestDialBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := boot(t)
		h.agent.On("Stdio", fake.Hang)
		began := time.Now()
		conn, err := h.client.Dial(t.Context(), stdio("s"))
		if took := time.Since(began); conn != nil || took != budgets.Prompt || !errdefs.IsUnavailable(err) {
			t.Errorf("after %v: %v", took, err)
		}
		<-h.Done()
		want := fmt.Sprintf("the guest did not answer the opening of a stream within %v", budgets.Prompt)
		if why := h.Err(); !strings.Contains(why.Error(), want) || !strings.Contains(err.Error(), want) {
			t.Errorf("the VM: %v; the call: %v", why, err)
		}
	})
}

// A caller that leaves takes its stream with it, and the VM lives.
func TestDialLeave(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := boot(t)
		h.agent.On("Stdio", fake.Hang)
		began := time.Now()
		conn, err := h.client.Dial(leave(t, time.Second), stdio("s"))
		if took := time.Since(began); conn != nil || took != time.Second || !errors.Is(err, errLeft) {
			t.Errorf("after %v: %v", took, err)
		}
		time.Sleep(2 * budgets.Prompt)
		h.wantAlive()
	})
}

// A caller may leave at the moment in which the agent refuses its streams.
func TestDialLeaveRefused(t *testing.T) {
	h := boot(t)
	for range 1000 {
		ctx, left := context.WithCancelCause(t.Context())
		h.agent.On("Stdio", func(context.Context, *fake.Call) (proto.Message, error) {
			left(errLeft)
			return nil, errors.New("no room")
		})
		if conns, err := h.client.DialAll(ctx, stdio("a"), stdio("b")); conns != nil || !errors.Is(err, errLeft) {
			t.Errorf("DialAll = %d streams, %v", len(conns), err)
		}
	}
	h.wantAlive()
}

// Why the agent refuses a stream is told in a short text that is printable, and a reply
// that is longer than there may be is none.
func TestDialRefused(t *testing.T) {
	h := boot(t)
	for name, c := range map[string]struct{ text, want string }{
		"short": {hostile + "no room", "no room"},
		"long":  {strings.Repeat(hostile, 120), "opening a stream to the agent"},
		"huge":  {strings.Repeat("x", 1<<20), "exceed"},
	} {
		h.agent.On("Stdio", fake.Fail(errors.New(c.text)))
		conn, err := h.client.Dial(t.Context(), stdio("s"))
		wantHarmless(t, name, err)
		if conn != nil || !errdefs.IsUnavailable(err) || !strings.Contains(fmt.Sprint(err), c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
	h.wantAlive()
}

// The end of the VM ends the opening of a stream, and is its error.
func TestDialDead(t *testing.T) {
	h := boot(t)
	why := errors.New("it burns")
	h.dieDuring("Stdio", why)
	for range 2 {
		if conn, err := h.client.Dial(t.Context(), stdio("s")); conn != nil || !errors.Is(err, why) {
			t.Errorf("Dial = %v", err)
		}
	}
}

// An agent that closes a stream without a word has broken it, and keeps its VM.
func TestDialBroken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		near, far := net.Pipe()
		p := connect(t)
		p.near = near
		go func() {
			_, _ = io.ReadFull(far, make([]byte, 1))
			far.Close()
		}()
		if _, err := p.client.Dial(t.Context(), stdio("s")); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "stream broke") {
			t.Errorf("Dial = %v", err)
		}
		if err := p.client.Alive(); err != nil {
			t.Error(err)
		}
	})
}

// A machine that cannot be dialled is about to end, and then says why.
func TestDialWhileDying(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := connect(t)
		p.refusal = errdefs.ErrUnavailable
		why := errors.New("it burns")
		time.AfterFunc(time.Second/2, func() { p.End(why) })
		if _, err := p.client.Dial(t.Context(), stdio("s")); !errors.Is(err, why) {
			t.Errorf("Dial = %v", err)
		}
	})
}

// Connect waits for the boot, as long as its caller does.
func TestConnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := launch(t, &fake.Driver{Boot: fake.BootsAfter(time.Hour)})
		if _, err := guest.Connect(leave(t, time.Minute), h, budgets); !errors.Is(err, errLeft) {
			t.Errorf("Connect = %v", err)
		}
		began := time.Now()
		client, err := guest.Connect(t.Context(), h, budgets)
		if err != nil || time.Since(began) != 59*time.Minute {
			t.Fatalf("after %v: %v", time.Since(began), err)
		}
		defer client.Close()
		if err := errors.Join(client.Alive(), client.Start(t.Context(), &api.StartRequest{})); err != nil {
			t.Error(err)
		}
		h.agent.On("Control", fake.Hang)
		if _, err := guest.Connect(leave(t, time.Minute), h, budgets); !errors.Is(err, errLeft) {
			t.Errorf("a second time: %v", err)
		}
	})
}

// An agent that refuses the first stream of all has no more of a say than later.
func TestConnectRefused(t *testing.T) {
	h := launch(t, &fake.Driver{Prepare: func(m *fake.Machine) {
		m.Agent.On("Control", fake.Fail(errors.New(strings.Repeat(hostile, 100))))
	}})
	_, err := guest.Connect(t.Context(), h, budgets)
	wantHarmless(t, "refused", err)
	if !errdefs.IsUnavailable(err) {
		t.Errorf("Connect = %v", err)
	}
	why := errors.New("it burns")
	h.die(why)
	if _, err := guest.Connect(t.Context(), h, budgets); !errors.Is(err, why) {
		t.Errorf("Connect = %v", err)
	}
}
