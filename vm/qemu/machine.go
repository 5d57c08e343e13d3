package qemu

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/hashicorp/yamux"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/vm"
	"github.com/msb-runtime/containerd-shim-msb/vm/mux"
)

// firstExtraFD is the number of the first of exec.Cmd's ExtraFiles in the child.
const firstExtraFD = 3

// serverGrace is how long a file server may take to end after its QEMU.
const serverGrace = 2 * time.Second

// machine is one QEMU with its file servers.
type machine struct {
	console *vm.Console
	session *yamux.Session // the agent's streams; set once by start
	qemu    *process       // set once by start
	servers []*process     // set once by start

	done     chan struct{} // closed when QEMU has ended and err is set
	err      error         // why; readable after done
	stopping sync.Once
	stopped  chan struct{} // closed when somebody asked for the end
}

func newMachine(console *vm.Console) *machine {
	return &machine{console: console, done: make(chan struct{}), stopped: make(chan struct{})}
}

// start launches the processes. After an error the caller calls Stop, which
// ends what was launched.
func (m *machine) start(programs programs, p plan) error {
	var files []*os.File // QEMU's ends, closed here once it has them
	defer func() {
		for _, file := range files {
			file.Close()
		}
	}()
	agent, qemuAgent, err := socketPair()
	if err != nil {
		return fmt.Errorf("making the agent's socket: %w", err)
	}
	files = append(files, qemuAgent)
	p.agentFD = firstExtraFD
	if m.session, err = yamux.Client(agent, mux.Config()); err != nil {
		agent.Close()
		return err
	}
	rust, err := probeVirtiofsd(programs.virtiofsd)
	if err != nil {
		return err
	}
	for _, share := range p.config.Shares {
		server, socket, err := m.serve(programs.virtiofsd, share, rust)
		if err != nil {
			return fmt.Errorf("starting virtiofsd for %s: %w", share.Tag, err)
		}
		m.servers = append(m.servers, server)
		p.shareFD = append(p.shareFD, firstExtraFD+len(files))
		files = append(files, socket)
	}
	if m.qemu, err = launch(m.console, files, programs.qemu, p.args()...); err != nil {
		return fmt.Errorf("starting QEMU: %w", err)
	}
	go m.watch()
	return nil
}

// serve starts the file server of a share and returns the connected socket for
// QEMU. The listener's name exists only for the moment of the connect.
func (m *machine) serve(virtiofsd string, share vm.Share, rust bool) (*process, *os.File, error) {
	dir, err := os.MkdirTemp("", "msb-")
	if err != nil {
		return nil, nil, err
	}
	defer os.RemoveAll(dir)
	path := filepath.Join(dir, "s")
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, nil, err
	}
	defer listener.Close()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		return nil, nil, err
	}
	defer conn.Close()
	listening, err := listener.File()
	if err != nil {
		return nil, nil, err
	}
	defer listening.Close()
	connected, err := conn.File()
	if err != nil {
		return nil, nil, err
	}
	server, err := launch(serverConsole{m.console.Beside(share.Tag)}, []*os.File{listening}, virtiofsd, virtiofsdArgs(share, firstExtraFD, rust)...)
	if err != nil {
		connected.Close()
		return nil, nil, err
	}
	return server, connected, nil
}

// watch ends the machine when QEMU ends, for whatever reason, and when a file
// server does: a guest without its files would only hang.
func (m *machine) watch() {
	var cause error
	broken := make(chan *process, len(m.servers))
	for _, server := range m.servers {
		go func() {
			<-server.exited
			broken <- server
		}()
	}
	select {
	case <-m.qemu.exited:
		cause = m.qemu.diagnose()
	case server := <-broken:
		// A file server also ends, rightly, just after its QEMU did.
		select {
		case <-m.qemu.exited:
			cause = m.qemu.diagnose()
		case <-time.After(100 * time.Millisecond):
			cause = server.diagnose()
			m.qemu.kill()
			<-m.qemu.exited
		}
	}
	m.session.Close()
	for _, server := range m.servers {
		server.end()
	}
	select {
	case <-m.stopped:
	default:
		m.err = cause
	}
	close(m.done)
}

// diagnose is called when the process has ended, so its output is complete.
func (p *process) diagnose() error {
	return fmt.Errorf("%s ended (%s); the last lines of its console: %s: %w",
		filepath.Base(p.cmd.Path), p.cmd.ProcessState, quote(p.output.Tail()), errdefs.ErrUnavailable)
}

func quote(lines []string) string {
	if len(lines) == 0 {
		return "(none)"
	}
	return strings.Join(lines, " | ")
}

// Dial implements vm.Machine.
func (m *machine) Dial(ctx context.Context) (net.Conn, error) {
	stream, err := m.session.OpenStream()
	if err != nil {
		select {
		case <-m.done:
			if m.err != nil {
				return nil, m.err
			}
		default:
		}
		return nil, fmt.Errorf("opening a stream to the agent: %w (%w)", err, errdefs.ErrUnavailable)
	}
	return stream, nil
}

// Pid implements vm.Machine.
func (m *machine) Pid() int { return m.qemu.cmd.Process.Pid }

// Done implements vm.Machine.
func (m *machine) Done() <-chan struct{} { return m.done }

// Err implements vm.Machine.
func (m *machine) Err() error {
	select {
	case <-m.done:
		return m.err
	default:
		return nil
	}
}

// serverConsole is where a file server's output goes. Each says, when QEMU has
// left it, that QEMU has: that is not passed on.
type serverConsole struct{ *vm.Console }

func (c serverConsole) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("virtio_loop: Unexpected poll revents")) {
		return len(p), nil
	}
	return c.Console.Write(p)
}

// Stop implements vm.Machine.
func (m *machine) Stop(ctx context.Context) error {
	m.stopping.Do(func() { close(m.stopped) })
	if m.qemu == nil { // never got that far: nothing watches
		for _, server := range m.servers {
			server.kill()
			<-server.exited
		}
		if m.session != nil {
			m.session.Close()
		}
		return nil
	}
	m.qemu.kill()
	select {
	case <-m.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("waiting for QEMU, process %d, to end: %w", m.Pid(), ctx.Err())
	}
}

// process is a child that dies with the shim.
type process struct {
	cmd    *exec.Cmd
	output output
	exited chan struct{} // closed when it was waited for
}

// output takes what a process prints and quotes the end of it.
type output interface {
	io.Writer
	Tail() []string
}

// launch starts a child whose output goes to the console. files become its
// descriptors from firstExtraFD on; the caller keeps and closes its own.
func launch(output output, files []*os.File, program string, args ...string) (*process, error) {
	p := &process{cmd: exec.Command(program, args...), output: output, exited: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr, p.cmd.ExtraFiles = output, output, files
	p.cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	p.cmd.Dir = "/"
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL}
	// Who keeps a pipe of the child open after its end does not keep us.
	p.cmd.WaitDelay = time.Second
	started := make(chan error)
	go func() {
		// The death signal comes when the *thread* that forked ends (prctl(2)),
		// so that thread stays until the child is gone.
		runtime.LockOSThread()
		defer runtime.UnlockOSThread()
		err := p.cmd.Start()
		started <- err
		if err != nil {
			return
		}
		_ = p.cmd.Wait()
		close(p.exited)
	}()
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

func (p *process) kill() { _ = p.cmd.Process.Kill() }

// end waits for a file server to end because its QEMU has, and kills it if it
// does not. One that ends by itself takes its own sandboxed child along.
func (p *process) end() {
	select {
	case <-p.exited:
	case <-time.After(serverGrace):
		p.kill()
		<-p.exited
	}
}

func probeVirtiofsd(path string) (rust bool, err error) {
	help, err := exec.Command(path, "--help").CombinedOutput()
	if err != nil {
		return false, fmt.Errorf("running %s --help: %w", path, err)
	}
	return isRust(string(help)), nil
}

func socketPair() (net.Conn, *os.File, error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, nil, err
	}
	ours, theirs := os.NewFile(uintptr(fds[0]), "agent"), os.NewFile(uintptr(fds[1]), "agent")
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		theirs.Close()
		return nil, nil, err
	}
	return conn, theirs, nil
}
