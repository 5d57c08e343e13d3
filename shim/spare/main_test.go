package spare

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/config"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
)

// address is containerd's, for the processes of tests.
const address = "/no/containerd.sock"

// rootEnv makes this program a process that reserves a place below a root.
const rootEnv = "MSB_TEST_SPARES"

var (
	small  = spec.Size{CPUs: 1, Memory: 64 << 20}
	large  = spec.Size{CPUs: 2, Memory: 64 << 20}
	limits = config.Spare{Count: 2, Max: 3}
)

func TestMain(m *testing.M) {
	if root := os.Getenv(rootEnv); root != "" {
		reserveOne(poolAt(root))
		return
	}
	if pid := os.Getenv(inheritEnv); pid != "" {
		tellInherited(pid)
		return
	}
	os.Exit(m.Run())
}

func poolAt(root string) Pool { return Pool{root, filepath.Join(root, "key"), limits} }

// reserveOne is the life of a process that reserves: it does so when it is told to, says what
// came of it, and dies when its input ends.
func reserveOne(pool Pool) {
	input := bufio.NewReader(os.Stdin)
	var size spec.Size
	if _, err := fmt.Fscanln(input, &size.CPUs, &size.Memory); err != nil {
		fmt.Println(err)
		return
	}
	place, err := pool.reserve(size)
	if err != nil {
		fmt.Println(err)
		return
	}
	fmt.Println(place.dir)
	_, _ = io.Copy(io.Discard, input)
	place.lock.Close()
}

// A process is one that reserves.
type process struct {
	t      *testing.T
	cmd    *exec.Cmd
	input  io.WriteCloser
	output *bufio.Reader
}

func newProcess(t *testing.T, root string, args ...string) *process {
	t.Helper()
	if len(args) == 0 {
		args = []string{"-address", address, "spare", padding()}
	}
	p := &process{t: t, cmd: exec.Command("/proc/self/exe", args...)}
	p.cmd.Env = append(os.Environ(), rootEnv+"="+root, "GORACE=atexit_sleep_ms=0")
	p.cmd.Stderr = os.Stderr
	var err error
	if p.input, err = p.cmd.StdinPipe(); err != nil {
		t.Fatal(err)
	}
	output, err := p.cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.output = bufio.NewReader(output)
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(p.end)
	return p
}

// begin has it reserve, and said is what came of it.
func (p *process) begin(size spec.Size) {
	p.t.Helper()
	if _, err := fmt.Fprintln(p.input, size.CPUs, size.Memory); err != nil {
		p.t.Error(err)
	}
}

func (p *process) said() string {
	p.t.Helper()
	line, err := p.output.ReadString('\n')
	if err != nil {
		p.t.Error(err)
	}
	return strings.TrimSpace(line)
}

// end ends it, without a chance to take its directory away.
func (p *process) end() {
	p.input.Close()
	_ = p.cmd.Wait()
}

// listen makes a spare that waits with a name in a pool. Nobody accepts yet.
func listen(t *testing.T, pool Pool, name string) *waiter {
	t.Helper()
	place, err := newPlace(filepath.Join(pool.dir, name))
	if err != nil {
		t.Fatal(err)
	}
	listener, err := net.ListenUnix("unixpacket", &net.UnixAddr{Net: "unixpacket", Name: filepath.Join(place.dir, socketFile)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		listener.Close()
		place.lock.Close()
	})
	return &waiter{place: place, listener: listener}
}

func (w *waiter) socket() string { return filepath.Join(w.place.dir, socketFile) }

// newStart is a start for a bundle.
func newStart(t *testing.T, arg string) Start {
	t.Helper()
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	reading, writing, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	bundle, err := os.Open(dir)
	if err != nil {
		t.Fatal(err)
	}
	start := Start{
		Args: []string{arg}, Env: []string{"A=b", "C="}, Dir: dir, Nice: 3,
		Socket: os.NewFile(uintptr(fd), "socket"), Released: reading, Bundle: bundle,
	}
	t.Cleanup(func() {
		start.close()
		writing.Close()
	})
	return start
}

func dial(t *testing.T, socket string) *net.UnixConn {
	t.Helper()
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Net: "unixpacket", Name: socket})
	if err != nil {
		t.Fatal(err)
	}
	return conn
}
