package survey

import (
	"context"
	"errors"
	"fmt"
	"net"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/ttrpc"

	"github.com/msb-runtime/containerd-shim-msb/shim/journal/api"
)

// A journal answers as a shim does.
type journal func(context.Context, *api.ReadRequest, func(*api.Batch) error) error

func (j journal) Read(ctx context.Context, r *api.ReadRequest, s api.Journal_ReadServer) error {
	return j(ctx, r, s.Send)
}

// accepting keeps the connection that was accepted last.
type accepting struct {
	net.Listener
	mu   sync.Mutex
	last net.Conn // guarded by mu
}

func (a *accepting) Accept() (net.Conn, error) {
	conn, err := a.Listener.Accept()
	a.mu.Lock()
	defer a.mu.Unlock()
	if err == nil {
		a.last = conn
	}
	return conn, err
}

// kill ends the socket and its connection, as the kernel does when a process was killed.
func (a *accepting) kill() {
	a.Close()
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.last != nil {
		a.last.Close()
	}
}

// journal serves one, as the shim of a sandbox. kill ends the shim.
func (w world) journal(j journal) (s Sandbox, kill func()) {
	w.t.Helper()
	socket, address := w.listen()
	l := &accepting{Listener: socket}
	server, err := ttrpc.NewServer()
	w.must(err)
	if j != nil {
		api.RegisterJournalService(server, j)
	}
	ctx, cancel := context.WithCancel(context.Background())
	go func() { _ = server.Serve(ctx, l) }()
	w.t.Cleanup(func() { cancel(); server.Close() })
	return Sandbox{Namespace: "n", ID: "i", State: Running, Address: address}, l.kill
}

func batchWith(lost uint64, texts ...string) *api.Batch {
	b := &api.Batch{Lost: lost}
	for _, text := range texts {
		b.Lines = append(b.Lines, &api.Line{Text: []byte(text)})
	}
	return b
}

// What a shim keeps is told, of the source that was asked for; and what it sends later, until it
// ends or is killed.
func TestRead(t *testing.T) {
	w := newWorld(t)
	s, kill := w.journal(func(ctx context.Context, r *api.ReadRequest, send func(*api.Batch) error) error {
		err := send(batchWith(7, r.GetSource().String(), "\xff"))
		if r.GetFollow() {
			err = errors.Join(err, send(batchWith(0, "later")))
			<-ctx.Done()
		}
		return err
	})
	var got []string
	collect := func(b Batch) error {
		got = append(got, fmt.Sprint(b.Lost))
		for _, line := range b.Lines {
			got = append(got, line.Text)
		}
		return nil
	}
	if ended, err := w.host.Read(t.Context(), s, api.Source_CONSOLE, false, collect); ended || err != nil || !slices.Equal(got, []string{"7", "CONSOLE", "\xff"}) {
		t.Errorf("%q, %v, %v", got, ended, err)
	}
	got = nil
	ended, err := w.host.Read(t.Context(), s, api.Source_LOG, true, func(b Batch) error {
		_ = collect(b)
		if got[len(got)-1] == "later" {
			kill()
		}
		return nil
	})
	if !ended || err != nil || !slices.Equal(got, []string{"7", "LOG", "\xff", "0", "later"}) {
		t.Errorf("%q, %v, %v", got, ended, err)
	}
	_, err = w.host.Read(t.Context(), s, api.Source_LOG, true, collect)
	if err == nil || !strings.Contains(err.Error(), "the shim of n/i has ended or was killed: ") {
		t.Errorf("of a shim that has ended: %v", err)
	}
}

// A shim that cannot tell is told in one sentence.
func TestReadNothing(t *testing.T) {
	w := newWorld(t)
	w.host.Patience = 100 * time.Millisecond
	silent, _ := w.journal(func(ctx context.Context, _ *api.ReadRequest, _ func(*api.Batch) error) error {
		<-ctx.Done()
		return nil
	})
	old, _ := w.journal(nil)
	broken, _ := w.journal(func(context.Context, *api.ReadRequest, func(*api.Batch) error) error {
		return errors.New("8 read already")
	})
	_, unserved := w.listen()
	for want, s := range map[string]Sandbox{
		"the shim of n/i does not answer within 100ms: what it has logged": silent,
		"the shim of a/b does not answer within 100ms: ":                   {Namespace: "a", ID: "b", Address: unserved},
		"the shim of c/d does not answer within 100ms: ":                   {Namespace: "c", ID: "d", State: Hung},
		"the shim of e/f has ended or was killed: ":                        {Namespace: "e", ID: "f", State: Lost},
		"the shim of g/h has ended or was killed: ":                        {Namespace: "g", ID: "h", Address: "unix:///no/such"},
		"the shim of n/i is of an older msb, which keeps no lines: ":       old,
		"8 read already": broken,
	} {
		host := w.host
		if s.Address != silent.Address && s.Address != unserved && s.State != Hung {
			host.Patience = time.Minute
		}
		ended, err := host.Read(t.Context(), s, api.Source_LOG, true, func(Batch) error { t.Error("something is told"); return nil })
		if ended || err == nil || !strings.Contains(err.Error(), want) || strings.Contains(err.Error(), "\n") {
			t.Errorf("%v, %v, want %q", ended, err, want)
		}
	}
}

// Who prints slowly misses batches, each of which is counted; and whose printing fails is not read
// for any longer.
func TestReadSlowly(t *testing.T) {
	w := newWorld(t)
	const batches = 10 * maxQueue
	sent, resume, gone := make(chan struct{}), make(chan struct{}), make(chan struct{})
	s, _ := w.journal(func(ctx context.Context, _ *api.ReadRequest, send func(*api.Batch) error) error {
		for i := range batches {
			// More than sockets hold: when all are sent, all but a few have been received.
			if err := send(batchWith(1, fmt.Sprint(i), strings.Repeat("x", 16<<10))); err != nil {
				return err
			}
		}
		close(sent)
		<-resume
		err := send(batchWith(1, "last", "x"))
		<-ctx.Done()
		close(gone)
		return err
	})
	stop := errors.New("stop")
	var total, lines uint64
	_, err := w.host.Read(t.Context(), s, api.Source_LOG, true, func(b Batch) error {
		if total == 0 {
			<-sent
		}
		total += b.Lost + uint64(len(b.Lines))
		if lines += uint64(len(b.Lines)); lines == 2*maxQueue {
			close(resume)
		}
		if len(b.Lines) > 0 && b.Lines[0].Text == "last" {
			return stop
		}
		return nil
	})
	if !errors.Is(err, stop) || total != 3*(batches+1) || lines >= 2*batches {
		t.Errorf("%d lines, and with those that were lost %d: want %d; %v", lines, total, 3*(batches+1), err)
	}
	<-gone
}
