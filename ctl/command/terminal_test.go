package command

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/iotest"
	"time"

	"github.com/containerd/console"
	"github.com/containerd/ttrpc"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/ctl/survey"
	"github.com/msb-runtime/containerd-shim-msb/shim/shell/api"
)

// This program, on a terminal, is msbctl shell of the shim at an address.
const (
	shimAddress = "MSB_TEST_SHIM"
	breaks      = "MSB_TEST_BREAKS" // what shows panics
)

// patience is how long a test waits for one thing. It bounds what never comes.
const patience = 10 * time.Minute

func TestMain(m *testing.M) {
	address := os.Getenv(shimAddress)
	if address == "" {
		os.Exit(m.Run())
	}
	ctx, stop := signal.NotifyContext(context.Background(), unix.SIGINT, unix.SIGTERM, unix.SIGHUP)
	defer stop()
	p := survey.Program{Args: []string{"p"}, Stdin: os.Stdin, Stdout: os.Stdout, Stderr: os.Stderr}
	if os.Getenv(breaks) != "" {
		p.Stdout = breaking{}
	}
	err := exitOf(ctx, survey.Host{}, survey.Sandbox{Namespace: "n", ID: "i", State: survey.Running, Address: address}, filepath.Dir(strings.TrimPrefix(address, "unix://")), p, true)
	var code told
	switch {
	case errors.As(err, &code):
		os.Exit(int(code))
	case err != nil:
		fmt.Fprintln(os.Stderr, "msbctl:", err)
		os.Exit(exitFailed)
	}
	os.Exit(0)
}

// breaking is what cannot be written to without a panic.
type breaking struct{}

func (breaking) Write([]byte) (int, error) { panic("what shows is broken") }

// A window is a terminal's other side, with msbctl before it.
type window struct {
	t       *testing.T
	master  console.Console
	slave   *os.File
	found   unix.Termios
	msbctl  *exec.Cmd
	program *program

	mu   sync.Mutex
	text bytes.Buffer // what the terminal was shown; guarded by mu
}

// A program is what a shim has been asked to run.
type program struct {
	in, out *os.File
	sizes   chan survey.Size
	end     chan uint32   // its status
	vanish  func()        // has the shim go away
	gone    chan struct{} // the caller has gone
}

// serve is a shim that has one program.
func serve(t *testing.T) (address string, begun <-chan *program) {
	t.Helper()
	dir, err := os.MkdirTemp("", "s")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	socket, err := net.Listen("unix", dir+"/s")
	if err != nil {
		t.Fatal(err)
	}
	server, err := ttrpc.NewServer()
	if err != nil {
		t.Fatal(err)
	}
	conns := make(chan net.Conn, 1)
	programs := make(chan *program, 1)
	api.RegisterShellService(server, shellService{func(ctx context.Context, stream api.Shell_RunInTerminalServer) error {
		first, err := stream.Recv()
		if err != nil {
			return err
		}
		dead := make(chan struct{})
		p := &program{sizes: make(chan survey.Size, 100), end: make(chan uint32), vanish: func() { (<-conns).Close(); close(dead) }, gone: make(chan struct{})}
		defer close(p.gone)
		sizeOf := func(r *api.TerminalRequest) survey.Size {
			return survey.Size{Rows: uint16(r.Rows), Columns: uint16(r.Columns)}
		}
		p.sizes <- sizeOf(first)
		if p.in, err = os.OpenFile(first.Run.Stdin, os.O_RDONLY, 0); err != nil {
			return err
		}
		defer p.in.Close()
		if p.out, err = os.OpenFile(first.Run.Stdout, os.O_WRONLY, 0); err != nil {
			return err
		}
		defer p.out.Close()
		programs <- p
		go func() {
			for {
				next, err := stream.Recv()
				if err != nil {
					return
				}
				p.sizes <- sizeOf(next)
			}
		}()
		select {
		case status := <-p.end:
			return stream.Send(&api.RunResponse{Status: status})
		case <-ctx.Done():
			return ctx.Err()
		case <-dead: // and its ends of the FIFOs with it
			return nil
		}
	}})
	serving, cancel := context.WithCancel(context.Background())
	go func() { _ = server.Serve(serving, listener{socket, conns}) }()
	t.Cleanup(func() { cancel(); server.Close() })
	return "unix://" + dir + "/s", programs
}

// A listener tells of the connections that it accepts.
type listener struct {
	net.Listener
	conns chan<- net.Conn
}

func (l listener) Accept() (net.Conn, error) {
	conn, err := l.Listener.Accept()
	if err == nil {
		l.conns <- conn
	}
	return conn, err
}

type shellService struct {
	run func(context.Context, api.Shell_RunInTerminalServer) error
}

func (shellService) Run(context.Context, *api.RunRequest) (*api.RunResponse, error) {
	return nil, errors.New("it has no terminal")
}

func (s shellService) RunInTerminal(ctx context.Context, stream api.Shell_RunInTerminalServer) error {
	return s.run(ctx, stream)
}

// openWindow starts msbctl on a terminal, whose program has begun when it returns.
func openWindow(t *testing.T, env ...string) *window {
	t.Helper()
	master, path, err := console.NewPty()
	if err != nil {
		t.Fatal(err)
	}
	slave, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	w := &window{t: t, master: master, slave: slave, found: termios(t, slave)}
	w.resize(30, 100)
	address, begun := serve(t)
	w.msbctl = exec.Command("/proc/self/exe")
	w.msbctl.Env = append(append(os.Environ(), shimAddress+"="+address, "TERM=xterm"), env...)
	w.msbctl.Stdin, w.msbctl.Stdout, w.msbctl.Stderr = slave, slave, slave
	w.msbctl.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
	if err := w.msbctl.Start(); err != nil {
		t.Fatal(err)
	}
	go w.read()
	t.Cleanup(func() {
		_ = w.msbctl.Process.Kill()
		slave.Close()
		master.Close()
	})
	select {
	case w.program = <-begun:
	case <-time.After(patience):
		t.Fatalf("the program has not begun: %q", w.shown())
	}
	return w
}

func (w *window) read() {
	text := make([]byte, 4096)
	for {
		n, err := w.master.Read(text)
		if err != nil {
			return
		}
		w.mu.Lock()
		w.text.Write(text[:n])
		w.mu.Unlock()
	}
}

func (w *window) shown() string {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.text.String()
}

func (w *window) resize(rows, columns uint16) {
	w.t.Helper()
	if err := w.master.Resize(console.WinSize{Height: rows, Width: columns}); err != nil {
		w.t.Fatal(err)
	}
}

// size waits until the shim has been told a size.
func (w *window) size(want survey.Size) {
	w.t.Helper()
	for limit := time.After(patience); ; {
		select {
		case size := <-w.program.sizes:
			if size == want {
				return
			}
		case <-limit:
			w.t.Fatalf("the shim was not told %v", want)
		}
	}
}

func (w *window) typeKeys(keys string) {
	w.t.Helper()
	if _, err := io.WriteString(w.master, keys); err != nil {
		w.t.Fatal(err)
	}
}

// await waits for a text on the terminal.
func (w *window) await(text string) {
	w.t.Helper()
	for deadline := time.Now().Add(patience); !strings.Contains(w.shown(), text); time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("the terminal shows %q, and not %q", w.shown(), text)
		}
	}
}

// print has the program print something.
func (w *window) print(text string) {
	w.t.Helper()
	if _, err := io.WriteString(w.program.out, text); err != nil {
		w.t.Fatal(err)
	}
}

// exit waits for msbctl's end, which leaves the terminal as it was.
func (w *window) exit() int {
	w.t.Helper()
	late := time.AfterFunc(patience, func() { _ = w.msbctl.Process.Kill() })
	defer late.Stop()
	_ = w.msbctl.Wait()
	if got := termios(w.t, w.slave); !reflect.DeepEqual(got, w.found) {
		w.t.Errorf("the terminal is left with %+v, and was %+v", got, w.found)
	}
	return w.msbctl.ProcessState.ExitCode()
}

func termios(t *testing.T, file *os.File) unix.Termios {
	t.Helper()
	state, err := unix.IoctlGetTermios(int(file.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *state
}

// Keys reach the program as they are, and what it shows is filtered; it has the size of the terminal.
func TestTerminal(t *testing.T) {
	w := openWindow(t)
	w.size(survey.Size{Rows: 30, Columns: 100})
	w.resize(31, 101)
	w.size(survey.Size{Rows: 31, Columns: 101})
	if raw := termios(t, w.slave); raw.Lflag&(unix.ECHO|unix.ICANON|unix.ISIG) != 0 || raw.Oflag&unix.OPOST != 0 {
		t.Errorf("the terminal has %+v", raw)
	}
	const keys = "a\x03\x1a\x04\x1c\x1d\x1d\x1b[A\x1d\r\x7f"
	w.typeKeys(keys)
	got := make([]byte, len(keys))
	if _, err := io.ReadFull(w.program.in, got); err != nil || string(got) != keys {
		t.Errorf("the program reads %q, %v", got, err)
	}
	w.print("\x1b[?1049h\x1b[31mred\x1b[6n\x1b]52;c;cm0K\a\x1b[?1000h\xffend\n")
	w.await("end\n")
	w.program.end <- 7
	if code := w.exit(); code != 7 {
		t.Errorf("exit code %d", code)
	}
	w.await("\x1b[?25h")
	if want := "\x1b[?1049h\x1b[31mred\ufffdend\n\x1b[?1049l"; !strings.HasPrefix(w.shown(), want) {
		t.Errorf("the terminal shows %q, want %q", w.shown(), want)
	}
}

// However it ends, the terminal is as it was.
func TestTerminalRestored(t *testing.T) {
	for name, c := range map[string]struct {
		env  string
		end  func(*window)
		code int
		want string
	}{
		"the shim goes away":  {"", func(w *window) { w.program.vanish() }, 1, "the shim of n/i has ended or was killed"},
		"SIGTERM":             {"", func(w *window) { _ = w.msbctl.Process.Signal(unix.SIGTERM) }, 1, "ended by a signal"},
		"SIGHUP":              {"", func(w *window) { _ = w.msbctl.Process.Signal(unix.SIGHUP) }, 1, "ended by a signal"},
		"SIGQUIT":             {"", func(w *window) { _ = w.msbctl.Process.Signal(unix.SIGQUIT) }, 1, "ended by a signal"},
		"the operator leaves": {"", func(w *window) { w.typeKeys("ab\x1d\x1d\x1d") }, 1, "ended by ^]"},
		"the operator leaves what reads nothing": {"", func(w *window) {
			go func() { _, _ = io.WriteString(w.master, strings.Repeat("paste\r", 1<<20)+"\x1d\x1d\x1d") }()
		}, 1, "ended by ^]"},
		"a panic of what shows": {"1", func(w *window) { w.print("text") }, 2, "what shows is broken"},
	} {
		t.Run(name, func(t *testing.T) {
			w := openWindow(t, breaks+"="+c.env)
			c.end(w)
			if code := w.exit(); code != c.code {
				t.Errorf("exit code %d", code)
			}
			w.await(c.want)
			if c.env == "" {
				<-w.program.gone
			}
		})
	}
}

// A terminal that takes no more text does not keep the program.
func TestTerminalThatStandsStill(t *testing.T) {
	w := openWindow(t)
	if err := unix.IoctlSetInt(int(w.slave.Fd()), unix.TCXONC, unix.TCOOFF); err != nil {
		t.Fatal(err)
	}
	go func() { _, _ = io.Copy(w.program.out, endless{}) }()
	if err := w.msbctl.Process.Signal(unix.SIGTERM); err != nil {
		t.Fatal(err)
	}
	<-w.program.gone
	if err := unix.IoctlSetInt(int(w.slave.Fd()), unix.TCXONC, unix.TCOON); err != nil {
		t.Fatal(err)
	}
	if code := w.exit(); code != 1 {
		t.Errorf("exit code %d", code)
	}
}

// What is typed comes whole and in order, however little of it is read at once, and ends.
func TestKeyboard(t *testing.T) {
	k := &keyboard{chunks: make(chan []byte, 2)}
	k.chunks <- []byte("ab")
	k.chunks <- []byte("c")
	close(k.chunks)
	if text, err := io.ReadAll(iotest.OneByteReader(k)); string(text) != "abc" || err != nil {
		t.Errorf("read %q, %v", text, err)
	}
}

type endless struct{}

func (endless) Read(p []byte) (int, error) { return copy(p, "text\r\n"), nil }

func TestWantsTerminal(t *testing.T) {
	state := t.TempDir()
	if _, stderr, code := run(t, "shell", "x", "--tools", "/t", "-t", "-T", "--state", state, "--", "b"); code != exitUsage || !strings.Contains(stderr, "both given") {
		t.Errorf("code %d, %q", code, stderr)
	}
}
