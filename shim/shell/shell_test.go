package shell

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protodelim"

	guestapi "github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/shell/api"
	"github.com/msb-runtime/containerd-shim-msb/test/fake"
	"github.com/msb-runtime/containerd-shim-msb/test/rig"
)

// patience is how long a test waits for one thing. It bounds what never comes.
const patience = 10 * time.Minute

func TestMain(m *testing.M) { rig.Main(m) }

// A world is a shim with a container, a directory of programs, and what runs them.
type world struct {
	*rig.Rig
	t       *testing.T
	tools   string
	service *Service
}

func open(t *testing.T, allowed bool) world {
	t.Helper()
	tools := t.TempDir()
	if err := os.WriteFile(filepath.Join(tools, "program"), []byte("it"), 0o700); err != nil {
		t.Fatal(err)
	}
	r := rig.New(t)
	r.Platform.Shell = allowed
	r.Run("c", "sleep")
	return world{r, t, tools, New(r.Pod)}
}

func (w world) run(ctx context.Context, args ...string) (uint32, error) {
	answer, err := w.service.Run(ctx, &api.RunRequest{Tools: w.tools, Args: args})
	return answer.GetStatus(), err
}

// isShared tells whether the directory of programs is mounted anywhere.
func (w world) isShared() bool {
	w.t.Helper()
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		w.t.Fatal(err)
	}
	return strings.Contains(string(mounts), " "+w.tools+" ")
}

// Without the setting nothing runs, and nothing is shared.
func TestNotAllowed(t *testing.T) {
	w := open(t, false)
	w.Agent().OnShell(func(net.Conn, *guestapi.ShellStream) { t.Error("it runs") })
	if _, err := w.run(t.Context(), "program"); !errdefs.IsPermissionDenied(err) || !strings.Contains(err.Error(), "[debug] shell = true") {
		t.Error(err)
	}
	if w.isShared() {
		t.Error("the directory is shared")
	}
}

// The guest is given the directory, read-only and as long as the program runs.
func TestRun(t *testing.T) {
	w := open(t, true)
	if status, err := w.run(t.Context(), "program", "b", "c"); status != 3 || err != nil {
		t.Errorf("status %d, %v", status, err)
	}
	if w.isShared() {
		t.Error("the directory is shared when the program has ended")
	}
	shared, writable := false, true
	w.Agent().OnShell(func(stream net.Conn, header *guestapi.ShellStream) {
		shared = w.isShared()
		mounts, _ := os.ReadFile("/proc/self/mountinfo")
		for line := range strings.Lines(string(mounts)) {
			if fields := strings.Fields(line); fields[3] == w.tools && strings.HasSuffix(fields[4], "/pool/"+header.Share) {
				writable = !strings.HasPrefix(fields[5], "ro,")
			}
		}
		_, _ = protodelim.MarshalTo(stream, &guestapi.ShellExit{Status: 1 << 20})
	})
	if status, err := w.run(t.Context(), "program"); status != 255 || err != nil || !shared || writable {
		t.Errorf("status %d, %v; shared %v, writable %v", status, err, shared, writable)
	}
	// Once more, as long as another has it.
	inner := uint32(0)
	w.Agent().OnShell(func(stream net.Conn, _ *guestapi.ShellStream) {
		w.Agent().OnShell(nil)
		inner, _ = w.run(t.Context(), "program", "b")
		shared = w.isShared()
		_, _ = protodelim.MarshalTo(stream, &guestapi.ShellExit{})
	})
	if status, err := w.run(t.Context(), "program"); status != 0 || err != nil || inner != 2 || !shared || w.isShared() {
		t.Errorf("status %d and %d, %v; shared %v", status, inner, err, shared)
	}
}

func TestRefused(t *testing.T) {
	w := open(t, true)
	file := filepath.Join(w.tools, "program")
	for name, c := range map[string]struct {
		tools string
		args  []string
		is    func(error) bool
	}{
		"no program":     {w.tools, nil, errdefs.IsInvalidArgument},
		"long arguments": {w.tools, []string{"program", strings.Repeat("x", maxArgs)}, errdefs.IsInvalidArgument},
		"relative":       {"tools", []string{"program"}, errdefs.IsInvalidArgument},
		"a file":         {file, []string{"program"}, errdefs.IsInvalidArgument},
		"nothing":        {"/no/where", []string{"program"}, errdefs.IsNotFound},
		"the kernel's":   {"/proc/self", []string{"program"}, errdefs.IsInvalidArgument},
	} {
		if _, err := w.service.Run(t.Context(), &api.RunRequest{Tools: c.tools, Args: c.args}); !c.is(err) {
			t.Errorf("%s: %v", name, err)
		}
	}
	for range maxPrograms {
		w.service.slots <- struct{}{}
	}
	if _, err := w.run(t.Context(), "program"); !errdefs.IsResourceExhausted(err) {
		t.Errorf("too many: %v", err)
	}
}

// A guest that lies about a program, or says nothing, keeps neither the caller nor the share.
func TestHostileGuest(t *testing.T) {
	for name, serve := range map[string]fake.Shell{
		"ends without a word": func(net.Conn, *guestapi.ShellStream) {},
		"a long message": func(stream net.Conn, _ *guestapi.ShellStream) {
			// It is well formed: its one field is not known.
			_, _ = protodelim.MarshalTo(stream, &guestapi.ShellStream{Args: []string{strings.Repeat("x", 1<<20)}})
		},
		"an endless length": func(stream net.Conn, _ *guestapi.ShellStream) { _, _ = stream.Write(bytes.Repeat([]byte{0xff}, 1<<20)) },
		"no message":        func(stream net.Conn, _ *guestapi.ShellStream) { _, _ = stream.Write([]byte("\x03abc")) },
	} {
		t.Run(name, func(t *testing.T) {
			w := open(t, true)
			w.Agent().OnShell(serve)
			if _, err := w.run(t.Context(), "program"); !errdefs.IsUnavailable(err) || len(err.Error()) > 300 {
				t.Error(err)
			}
			if w.isShared() {
				t.Error("the directory is still shared")
			}
			if _, err := w.Pod.Sandbox(); err != nil {
				t.Errorf("its VM: %v", err)
			}
		})
	}
	for name, call := range map[string]string{"does not start it": "Stream.Shell", "does not let go": "RemoveBundle"} {
		t.Run(name, func(t *testing.T) {
			w := open(t, true)
			sb, err := w.Pod.Sandbox()
			if err != nil {
				t.Fatal(err)
			}
			budgets := w.Platform.Budgets
			budgets.Prompt = 100 * time.Millisecond
			sb.Guest.SetBudgets(budgets)
			w.Agent().On(call, fake.Hang)
			if _, err := w.run(t.Context(), "program"); err == nil {
				t.Error("no error")
			}
			if <-w.Machine().Done(); w.isShared() {
				t.Error("the directory is still shared")
			}
		})
	}
}

// Who goes away kills the program, and the VM's end is its end.
func TestGivenUp(t *testing.T) {
	for name, end := range map[string]func(world, func()){
		"by the caller": func(_ world, cancel func()) { cancel() },
		"by the VM":     func(w world, _ func()) { w.Machine().Die(errors.New("killed")) },
	} {
		t.Run(name, func(t *testing.T) {
			w := open(t, true)
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			ended := make(chan struct{})
			w.Agent().OnShell(func(stream net.Conn, _ *guestapi.ShellStream) {
				end(w, cancel)
				_, _ = io.Copy(io.Discard, stream)
				close(ended)
			})
			if _, err := w.run(ctx, "program"); err == nil || name == "by the VM" && !strings.Contains(err.Error(), "the VM is gone") {
				t.Error(err)
			}
			<-ended
			if w.isShared() {
				t.Error("the directory is still shared")
			}
		})
	}
}

// A caller that does not read is not waited for when the VM has ended: containerd would be kept
// waiting for the end of the shim.
func TestUnreadOutput(t *testing.T) {
	w := open(t, true)
	stdout := t.TempDir() + "/out"
	if err := unix.Mkfifo(stdout, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(stdout, os.O_RDWR|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	w.Agent().OnShell(func(stream net.Conn, header *guestapi.ShellStream) {
		// More than the FIFO holds.
		_ = w.Agent().Print(header.Stdout, bytes.Repeat([]byte("x"), 100<<10))
		_, _ = protodelim.MarshalTo(stream, &guestapi.ShellExit{})
		time.Sleep(300 * time.Millisecond) // the host may have read it
		w.Machine().Die(errors.New("killed"))
	})
	request := &api.RunRequest{Tools: w.tools, Args: []string{"program"}, Stdout: stdout}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_, _ = w.service.Run(t.Context(), request)
	}()
	select {
	case <-done:
	case <-time.After(patience):
		t.Error("the shim still waits for the reader")
	}
	if w.isShared() {
		t.Error("the directory is still shared")
	}
}

// What it reads and prints are the caller's FIFOs; it is over when all was read.
func TestStreams(t *testing.T) {
	w := open(t, true)
	dir := t.TempDir()
	request := &api.RunRequest{Tools: w.tools, Args: []string{"program"}, Stdin: dir + "/in", Stdout: dir + "/out", Stderr: dir + "/err"}
	for _, fifo := range []string{request.Stdin, request.Stdout, request.Stderr} {
		if err := unix.Mkfifo(fifo, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	ends := make(map[string]*os.File)
	for _, fifo := range []string{request.Stdout, request.Stderr} {
		// Open at both ends, so that it has no end before the test gives it one.
		file, err := os.OpenFile(fifo, os.O_RDWR|unix.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		ends[fifo] = file
	}
	var ids []string
	w.Agent().OnShell(func(stream net.Conn, header *guestapi.ShellStream) {
		ids = []string{header.Stdin, header.Stdout, header.Stderr}
		_, _ = protodelim.MarshalTo(stream, &guestapi.ShellExit{Status: 4})
		// The program's ends of its streams go with it.
		w.Agent().CloseStreams(ids...)
	})
	answer, err := w.service.Run(t.Context(), request)
	if err != nil || answer.GetStatus() != 4 {
		t.Errorf("%v, %v", answer, err)
	}
	for fifo, file := range ends {
		reader, err := os.OpenFile(fifo, os.O_RDONLY|unix.O_NONBLOCK, 0)
		if err != nil {
			t.Fatal(err)
		}
		file.Close()
		// Nobody has it open for writing any more.
		if data, err := io.ReadAll(reader); err != nil || len(data) > 0 {
			t.Errorf("%q, %v", data, err)
		}
		reader.Close()
	}
	for _, id := range ids {
		if guestapi.CheckName("stream id", id) != nil {
			t.Errorf("a stream is %q", id)
		}
	}
}
