package shell

import (
	"context"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	guestapi "github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/shell/api"
)

// A caller is who asks for a program in a terminal, by a stream.
type caller struct {
	ctx    context.Context
	sends  chan *api.TerminalRequest
	status uint32
}

func (c *caller) RecvMsg(m any) error {
	select {
	case request, more := <-c.sends:
		if !more {
			return io.EOF
		}
		proto.Merge(m.(proto.Message), request)
		return nil
	case <-c.ctx.Done():
		return c.ctx.Err()
	}
}

func (c *caller) SendMsg(m any) error {
	c.status = m.(*api.RunResponse).GetStatus()
	return nil
}

// inTerminal asks for a program, and sends more meanwhile.
func (w world) inTerminal(first *api.TerminalRequest, more func(chan<- *api.TerminalRequest)) (uint32, error) {
	ctx, cancel := context.WithCancel(w.t.Context())
	defer cancel()
	c := &caller{ctx: ctx, sends: make(chan *api.TerminalRequest)}
	go func() {
		c.sends <- first
		more(c.sends)
	}()
	err := w.service.RunInTerminal(ctx, c)
	return c.status, err
}

func noMore(chan<- *api.TerminalRequest) {}

// request asks for a terminal, with FIFOs.
func (w world) request(rows, columns uint32) *api.TerminalRequest {
	w.t.Helper()
	dir := w.t.TempDir()
	run := &api.RunRequest{Tools: w.tools, Args: []string{"program"}, Stdin: dir + "/in", Stdout: dir + "/out", Stderr: dir + "/nowhere"}
	for _, fifo := range []string{run.Stdin, run.Stdout} {
		if err := unix.Mkfifo(fifo, 0o600); err != nil {
			w.t.Fatal(err)
		}
	}
	return &api.TerminalRequest{Run: run, Term: "xterm", Rows: rows, Columns: columns}
}

// end ends a program as the guest does.
func (w world) end(stream net.Conn, header *guestapi.ShellStream, status uint32) {
	_ = guestapi.SendExit(stream, status)
	w.Agent().CloseStreams(header.Stdin, header.Stdout)
}

// The guest is told of the terminal, and the last of the sizes that it gets.
func TestRunInTerminal(t *testing.T) {
	w := open(t, true)
	w.Agent().OnShell(func(stream net.Conn, header *guestapi.ShellStream) {
		if header.Terminal.GetTerm() != "xterm" || header.Terminal.GetSize().GetRows() != 24 || header.Terminal.GetSize().GetColumns() != 80 ||
			header.Stdin == "" || header.Stdout == "" || header.Stderr != "" {
			t.Errorf("the guest is told %v", header)
		}
		for {
			size, err := guestapi.ReceiveWindow(stream)
			if err != nil {
				t.Error(err)
				return
			}
			if size.Rows == 99 {
				break
			}
		}
		w.end(stream, header, 7)
	})
	status, err := w.inTerminal(w.request(24, 80), func(sends chan<- *api.TerminalRequest) {
		for rows := range uint32(100) {
			sends <- &api.TerminalRequest{Rows: rows, Columns: guestapi.MaxWindow}
		}
	})
	if status != 7 || err != nil || w.isShared() {
		t.Errorf("status %d, %v; shared %v", status, err, w.isShared())
	}
}

// What is no terminal is refused, before the program runs or while it does.
func TestTerminalRefused(t *testing.T) {
	w := open(t, true)
	w.Agent().OnShell(func(net.Conn, *guestapi.ShellStream) { t.Error("it runs") })
	large, unnamed := w.request(guestapi.MaxWindow+1, 1), w.request(1, 1)
	unnamed.Term = "a b"
	for name, request := range map[string]*api.TerminalRequest{"large": large, "no type": unnamed} {
		if _, err := w.inTerminal(request, noMore); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	if _, err := w.inTerminal(&api.TerminalRequest{Term: "xterm"}, noMore); !errdefs.IsInvalidArgument(err) {
		t.Errorf("nothing to run: %v", err)
	}
	w.Agent().OnShell(func(stream net.Conn, _ *guestapi.ShellStream) { _, _ = io.Copy(io.Discard, stream) })
	_, err := w.inTerminal(w.request(1, 1), func(sends chan<- *api.TerminalRequest) {
		sends <- &api.TerminalRequest{Columns: 1 << 31}
	})
	if !errdefs.IsInvalidArgument(err) || w.isShared() {
		t.Errorf("a large size later: %v; shared %v", err, w.isShared())
	}
}

// Without the setting nothing runs in a terminal either.
func TestTerminalNotAllowed(t *testing.T) {
	w := open(t, false)
	if _, err := w.inTerminal(w.request(1, 1), noMore); !errdefs.IsPermissionDenied(err) || w.isShared() {
		t.Error(err)
	}
}

// A guest that takes no sizes holds up neither the caller, which sends more of them than fit into any
// stream, nor the end of the program.
func TestGuestTakesNoSizes(t *testing.T) {
	const sizes = 20_000 // of 9 bytes each: more than mux.Window
	for name, ends := range map[string]func(world, net.Conn, *guestapi.ShellStream){
		"the program ends": func(w world, stream net.Conn, header *guestapi.ShellStream) { w.end(stream, header, 7) },
		"the VM ends":      func(w world, _ net.Conn, _ *guestapi.ShellStream) { w.Machine().Die(errors.New("killed")) },
	} {
		t.Run(name, func(t *testing.T) {
			w := open(t, true)
			sent := make(chan struct{})
			w.Agent().OnShell(func(stream net.Conn, header *guestapi.ShellStream) {
				select {
				case <-sent:
				case <-time.After(patience):
					t.Error("the caller is kept")
				}
				ends(w, stream, header)
			})
			status, err := w.inTerminal(w.request(1, 1), func(sends chan<- *api.TerminalRequest) {
				for range sizes {
					sends <- &api.TerminalRequest{Rows: guestapi.MaxWindow, Columns: guestapi.MaxWindow}
				}
				close(sent)
			})
			if name == "the program ends" && (status != 7 || err != nil) || name == "the VM ends" && (err == nil || !strings.Contains(err.Error(), "the VM is gone")) {
				t.Errorf("status %d, %v", status, err)
			}
			if w.isShared() {
				t.Error("the directory is still shared")
			}
		})
	}
}
