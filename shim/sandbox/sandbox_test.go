package sandbox_test

import (
	"bufio"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/share"
	"github.com/msb-runtime/containerd-shim-msb/shim/socket"
	"github.com/msb-runtime/containerd-shim-msb/test/counted"
	"github.com/msb-runtime/containerd-shim-msb/test/fake"
	"github.com/msb-runtime/containerd-shim-msb/vm"
	"github.com/msb-runtime/containerd-shim-msb/vm/mux"
)

// victim is a process that may be changed. It ends with the test.
func victim(t *testing.T) int {
	t.Helper()
	process, err := os.StartProcess("/bin/sleep", []string{"sleep", "100"}, &os.ProcAttr{})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = process.Kill()
		_, _ = process.Wait()
	})
	return process.Pid
}

// lines are those that the shim logs until the test ends.
type lines struct {
	mu   sync.Mutex
	text strings.Builder // guarded by mu
}

func (l *lines) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.text.Write(p)
}

func (l *lines) count(text string) int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return strings.Count(l.text.String(), text)
}

func logged(t *testing.T) *lines {
	l := &lines{}
	log.L.Logger.SetOutput(l)
	t.Cleanup(func() { log.L.Logger.SetOutput(io.Discard) })
	return l
}

// Of the reasons to end a VM the first counts, is logged once, and stays.
func TestEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logged(t)
		p := newPlace(t)
		s := p.boot()
		first := errors.New("the first reason")
		s.End(first)
		for n := range 3 {
			s.End(fmt.Errorf("reason %d", n))
		}
		if s.Running() || !errors.Is(s.Err(), first) {
			t.Errorf("running %v, %v", s.Running(), s.Err())
		}
		<-s.Done()
		s.End(errors.New("too late"))
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		if s.Running() || !errors.Is(s.Err(), first) || !errors.Is(s.Guest.Alive(), first) {
			t.Errorf("after Close: running %v, %v", s.Running(), s.Err())
		}
		if n := log.count("ending the VM"); n != 1 || log.count("the first reason") != 1 {
			t.Errorf("it was logged %d times", n)
		}
	})
}

// A VM that is being ended does not run any more, even if its VMM cannot be killed.
func TestEndUndying(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlace(t)
		p.driver.Undying = true
		prepared, err := sandbox.Prepare(p.bundle, p.platform, p.config)
		if err != nil {
			t.Fatal(err)
		}
		s, err := prepared.Boot(t.Context(), nothingBeside)
		if err != nil {
			t.Fatal(err)
		}
		s.End(errRefused)
		if s.Running() || !errors.Is(s.Err(), errRefused) {
			t.Errorf("running %v, %v", s.Running(), s.Err())
		}
		if err := s.Close(); err == nil || !strings.Contains(err.Error(), "waiting for the VMM") {
			t.Errorf("Close = %v", err)
		}
		p.machine().Die(nil)
		<-p.machine().Done()
	})
}

// A VM that ended by itself, or was closed, was not ended for a reason that comes later.
func TestEndedBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := logged(t)
		p := newPlace(t)
		s := p.boot()
		p.machine().Die(nil)
		<-s.Done()
		s.End(errRefused)
		if err := s.Err(); errors.Is(err, errRefused) || !strings.Contains(fmt.Sprint(err), "fake ended") {
			t.Errorf("the VM ended: %v", err)
		}
		q := newPlace(t)
		s = q.boot()
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		s.End(errRefused)
		if s.Running() || s.Err() != nil {
			t.Errorf("after Close: running %v, %v", s.Running(), s.Err())
		}
		if n := log.count("ending the VM"); n != 0 {
			t.Errorf("it was logged %d times", n)
		}
	})
}

// A guest that breaks the protocol of streams is counted; one that dies is not.
func TestViolationIsCounted(t *testing.T) {
	for why, want := range map[error]string{fmt.Errorf("it was cut off: %w", mux.ErrViolation): "violations 1", errors.New("it crashed"): ""} {
		synctest.Test(t, func(t *testing.T) {
			counts := counted.Begin(t)
			p := newPlace(t)
			s := p.boot()
			p.machine().Die(why)
			<-s.Done()
			synctest.Wait()
			if got := counts(); got != want {
				t.Errorf("%v: counted: %s", why, got)
			}
		})
	}
}

// The guest's budgets are the sandbox's end.
func TestGuestOverrun(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlace(t)
		s := p.boot()
		p.machine().Agent.On("CloseStdio", fake.Hang)
		if err := s.Guest.CloseStdio(t.Context(), []string{"s"}); !errdefs.IsUnavailable(err) {
			t.Errorf("CloseStdio = %v", err)
		}
		<-s.Done()
		if err := s.Err(); !strings.Contains(fmt.Sprint(err), "did not answer CloseStdio within 25s") {
			t.Errorf("the VM ended: %v", err)
		}
	})
}

func setNetworks(p *place) []*api.SetNetworkRequest {
	return fake.Requests[*api.SetNetworkRequest](p.machine().Agent)
}

// A guest with the host's network is told so, and what its driver needs for it.
func TestHostsNetwork(t *testing.T) {
	for driver, interfaces := range map[string]int{"qemu": 1, "krun": 0} {
		synctest.Test(t, func(t *testing.T) {
			p := newPlace(t)
			p.config.Network.Host = true
			p.driver.As = driver
			s := p.boot()
			if p.network.open || !p.machine().Config().Network.Host || p.machine().Config().Network.Namespace != nil {
				t.Errorf("%s: the machine's network: %+v", driver, p.machine().Config().Network)
			}
			requests := setNetworks(p)
			if len(requests) != 1 || !requests[0].Host || len(requests[0].Interfaces) != interfaces || len(requests[0].Routes) != 2*interfaces {
				t.Errorf("%s: the guest was told %v", driver, requests)
			}
			if err := s.SyncNetwork(t.Context()); err != nil || len(setNetworks(p)) != 1 {
				t.Errorf("%s: SyncNetwork = %v", driver, err)
			}
		})
	}
}

// A guest that cannot have its resolvers has all the rest of its network, and a warning tells
// why once, however often it is told of its network.
func TestResolversThatFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlace(t)
		log := logged(t)
		p.config.Network.Host, p.driver.As = true, "qemu"
		agent("SetNetwork", fake.Answer(&api.SetNetworkResponse{ResolversError: "no BPF\x1b\nhere" + strings.Repeat(".", 60<<10)}))(p)
		prepared := p.prepare()
		prepared.Sockets.Resolvers.Add([]byte("nameserver 127.0.0.53"))
		s, err := prepared.Boot(t.Context(), nothingBeside)
		if err != nil {
			t.Fatal(err)
		}
		if err := s.SyncNetwork(t.Context()); err != nil {
			t.Error(err)
		}
		if requests := setNetworks(p); len(requests) != 1 || !slices.Equal(requests[0].Resolvers, []string{"127.0.0.53"}) {
			t.Errorf("the guest was told %v", requests)
		}
		if n := log.count("no BPF  here"); n != 1 || len(log.text.String()) > 8<<10 {
			t.Errorf("%d warnings, and the log has %d bytes", n, len(log.text.String()))
		}
	})
}

// A pod whose network has no namespace has no loopback to forward, and one whose namespace
// is none boots all the same.
func TestLoopback(t *testing.T) {
	p := newPlace(t)
	log := logged(t)
	p.config.Pod = true
	if s := p.boot(); !s.Running() || log.count("port-forward") != 0 {
		t.Error("a pod without a namespace")
	}
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	q := newPlace(t)
	q.config.Pod = true
	q.network.network = vm.Network{Namespace: file}
	if s := q.boot(); !s.Running() || log.count("port-forward does not work") != 1 {
		t.Error("a pod with a namespace that is none")
	}
}

// Containers connect to mounted sockets from the boot on, before the agent has answered.
func TestSockets(t *testing.T) {
	p := newPlace(t)
	path := filepath.Join(t.TempDir(), "s")
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		conn, err := listener.Accept()
		if err == nil {
			_, _ = io.WriteString(conn, "hello\n")
			conn.Close()
		}
	}()
	prepared := p.prepare()
	source, err := share.OpenSource(mountns.Namespace{}, path)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	added, err := prepared.Sockets.Add(source, false, new(socket.Identities))
	if err != nil {
		t.Fatal(err)
	}
	var gate *fake.Gate
	p.driver.Prepare = func(m *fake.Machine) { gate = m.Agent.Gate("Guest.Start") }
	s, err := prepared.Boot(t.Context(), func(sandbox.Placeholders) error {
		defer gate.Open()
		if _, err := gate.Wait(t.Context()); err != nil {
			return err
		}
		defer time.AfterFunc(30*time.Second, func() { p.machine().Die(nil) }).Stop() // ends a wait in vain
		conn, err := p.machine().Agent.OpenSocket(added.Tag)
		if err != nil {
			return err
		}
		defer conn.Close()
		if text, err := bufio.NewReader(conn).ReadString('\n'); err != nil || text != "hello\n" {
			t.Errorf("the socket says %q, %v", text, err)
		}
		return nil
	})
	if err != nil || !s.Running() {
		t.Fatal(err)
	}
	if err := s.Sockets.Remove(added.Tag); err != nil {
		t.Error(err)
	}
}

// In a control group of its own the VM has metrics and limits; without one it has none.
func TestGroup(t *testing.T) {
	p := newPlace(t)
	prepared := p.prepare()
	if _, err := prepared.Metrics(); !errdefs.IsNotFound(err) {
		t.Errorf("Metrics = %v", err)
	}
	if err := prepared.Update(nil); err != nil {
		t.Error(err)
	}
	started := false
	err := prepared.Outside(func(attributes *syscall.SysProcAttr) error {
		started = true
		return (&exec.Cmd{Path: "/bin/true", SysProcAttr: attributes}).Run()
	})
	if err != nil || !started {
		t.Errorf("Outside = %v", err)
	}
	if size, err := sandbox.HostSize(); err != nil || size.CPUs < 1 || size.Memory < 1<<20 {
		t.Errorf("HostSize = %v, %v", size, err)
	}
}
