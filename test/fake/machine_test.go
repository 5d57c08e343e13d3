package fake

import (
	"context"
	"errors"
	"io"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/test/itself"
	"github.com/msb-runtime/containerd-shim-msb/vm"
	"github.com/msb-runtime/containerd-shim-msb/vm/mux"
)

func start(t *testing.T, driver *Driver) *Machine {
	t.Helper()
	m, err := driver.Start(t.Context(), vm.Config{Console: vm.NewConsole(func(string) {}), Memory: 1})
	if err != nil {
		t.Fatal(err)
	}
	return m.(*Machine)
}

// The driver does as it is told and remembers what it did.
func TestDriver(t *testing.T) {
	itself.NothingLeft(t)
	refused := errors.New("refused")
	driver := &Driver{}
	if driver.Name() != "fake" || driver.Check(t.Context()) != nil {
		t.Error("a driver that nobody touched")
	}
	driver.As = "qemu"
	driver.Checking = func(context.Context) error { return refused }
	driver.Starting = func(_ context.Context, config vm.Config) error {
		if config.Memory == 0 {
			return refused
		}
		return nil
	}
	var prepared *Machine
	driver.Prepare = func(m *Machine) { prepared = m }
	if err := driver.Check(t.Context()); driver.Name() != "qemu" || !errors.Is(err, refused) {
		t.Errorf("Check = %v", err)
	}
	if _, err := driver.Start(t.Context(), vm.Config{}); !errors.Is(err, refused) {
		t.Errorf("Start = %v", err)
	}
	over, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := driver.Start(over, vm.Config{Memory: 1}); !errors.Is(err, context.Canceled) {
		t.Errorf("Start = %v", err)
	}
	m := start(t, driver)
	if machines := driver.Machines(); len(machines) != 1 || machines[0] != m || prepared != m || m.Config().Memory != 1 {
		t.Errorf("machines %v", machines)
	}
	if m.Pid() != os.Getpid() {
		t.Errorf("pid %d", m.Pid())
	}
	if err := errors.Join(m.Stop(t.Context()), m.Stop(t.Context()), m.Err()); err != nil {
		t.Error(err)
	}
	m.Die(nil)
	if m.Err() != nil {
		t.Error("a stopped machine has died")
	}
}

// Dial waits for the boot, for its context, or for the machine's end.
func TestBoot(t *testing.T) {
	itself.NothingLeft(t)
	told := make(chan struct{})
	m := start(t, &Driver{Boot: BootsWhen(told)})
	over, cancel := context.WithCancelCause(t.Context())
	late := errors.New("too late")
	cancel(late)
	if _, err := m.Dial(over); !errors.Is(err, late) {
		t.Errorf("Dial = %v", err)
	}
	if _, err := m.Accept(over); !errors.Is(err, late) {
		t.Errorf("Accept = %v", err)
	}
	close(told)
	if _, err := m.Dial(t.Context()); err != nil {
		t.Error(err)
	}
	if err := m.Stop(t.Context()); err != nil {
		t.Error(err)
	}

	m = start(t, &Driver{Boot: NeverBoots})
	failed := make(chan error, 1)
	go func() {
		_, err := m.Dial(context.Background())
		failed <- err
	}()
	if err := m.Stop(t.Context()); err != nil {
		t.Error(err)
	}
	if err := within(t, func() error { return <-failed }); !errdefs.IsUnavailable(err) {
		t.Errorf("Dial = %v", err)
	}

	why := errors.New("no kernel")
	m = start(t, &Driver{Boot: DiesBooting(why)})
	<-m.Done()
	if _, err := m.Dial(t.Context()); !errors.Is(err, why) || !errors.Is(m.Err(), why) {
		t.Errorf("Dial = %v, Err = %v", err, m.Err())
	}
	m = start(t, &Driver{Boot: func(context.Context, *Machine) error { return why }})
	<-m.Done()
	if !errors.Is(m.Err(), why) {
		t.Errorf("Err = %v", m.Err())
	}
}

// When the machine dies, all that goes over it breaks, and Err tells the console's last
// lines.
func TestDeath(t *testing.T) {
	h := boot(t, &Driver{Prepare: func(m *Machine) {
		m.config.Console = vm.NewConsole(func(string) {})
	}})
	h.run("c", "sleep")
	stream, _ := h.open("in", api.StdioStream_INPUT)
	waited := make(chan error, 1)
	go func() {
		_, err := h.tasks.Wait(context.Background(), &taskapi.WaitRequest{ID: "c"})
		waited <- err
	}()
	accepted := make(chan error, 1)
	go func() {
		_, err := h.machine.Accept(context.Background())
		accepted <- err
	}()
	h.agent.Console("it burns\n")
	h.machine.Die(nil)
	<-h.machine.Done()
	if err := h.machine.Err(); !errdefs.IsUnavailable(err) || !strings.Contains(err.Error(), "it burns") {
		t.Errorf("Err = %v", err)
	}
	if within(t, func() error { return <-waited }) == nil || within(t, func() error { return <-accepted }) == nil {
		t.Error("a call outlived the machine")
	}
	if _, err := io.Copy(io.Discard, stream); err != nil && !errors.Is(err, io.ErrClosedPipe) {
		t.Logf("a stream broke: %v", err)
	}
	if _, err := h.machine.Dial(t.Context()); !errors.Is(err, h.machine.Err()) {
		t.Errorf("Dial = %v", err)
	}
	if _, err := h.agent.OpenSocket("s"); err == nil {
		t.Error("a dead guest has opened a socket")
	}
}

// A VMM that cannot be killed is waited for as long as the caller says.
func TestUndying(t *testing.T) {
	itself.NothingLeft(t)
	m := start(t, &Driver{Undying: true, Pid: 4711})
	over, cancel := context.WithTimeout(t.Context(), time.Millisecond)
	defer cancel()
	if err := m.Stop(over); !errors.Is(err, context.DeadlineExceeded) || !strings.Contains(err.Error(), "4711") {
		t.Errorf("Stop = %v", err)
	}
	m.Die(nil)
	if err := m.Stop(t.Context()); err != nil {
		t.Error(err)
	}
}

// Input reaches the process, whose stdin ends when the stream and the task service's own
// end have; what it writes comes back. A second stream of one id is refused.
func TestInput(t *testing.T) {
	h := boot(t, &Driver{})
	stdin, inPath := h.open("in", api.StdioStream_INPUT)
	stdout, outPath := h.open("out", api.StdioStream_OUTPUT)
	_, err := h.tryDial(&api.StreamHeader{Purpose: &api.StreamHeader_Stdio{Stdio: &api.StdioStream{Id: "in"}}})
	if err == nil || !strings.Contains(err.Error(), "stream in is open") {
		t.Errorf("a second stream: %v", err)
	}
	if err := h.create(&taskapi.CreateTaskRequest{ID: "c", Stdin: inPath, Stdout: outPath}, "cat"); err != nil {
		t.Fatal(err)
	}
	if err := h.start("c", ""); err != nil {
		t.Fatal(err)
	}
	go func() {
		_, _ = io.WriteString(stdin, "one\n")
		api.CloseWrite(stdin)
	}()
	got := make([]byte, 4)
	if _, err := io.ReadFull(stdout, got); err != nil || string(got) != "one\n" {
		t.Errorf("%q, %v", got, err)
	}
	// The stream has ended, and the task service still holds its own end.
	if !itself.Eventually(func() bool { return !slices.Contains(h.agent.Left(), "input stream in") }) {
		t.Error("the input has not ended")
	}
	if r, err := h.state(t.Context()); err != nil || r.Status != tasktypes.Status_RUNNING {
		t.Errorf("State = %v, %v", r, err)
	}
	if _, err := h.tasks.CloseIO(t.Context(), &taskapi.CloseIORequest{ID: "c", Stdin: true}); err != nil {
		t.Error(err)
	}
	if rest := read(t, stdout); rest != "" {
		t.Errorf("and then %q", rest)
	}
	stdout.Close()
	h.wait("c", "")
	h.remove("c")
	if left := h.agent.Left(); len(left) != 0 {
		t.Errorf("left: %q", left)
	}
}

// A process that floods waits for its reader, and is killed all the same.
func TestFlood(t *testing.T) {
	h := boot(t, &Driver{})
	for id, args := range map[string][]string{"read": {"flood", "3145729"}, "unread": {"flood", "1000000000000"}} {
		stdout, path := h.open(id, api.StdioStream_OUTPUT)
		if err := h.create(&taskapi.CreateTaskRequest{ID: id, Stdout: path}, args...); err != nil {
			t.Fatal(err)
		}
		if err := h.start(id, ""); err != nil {
			t.Fatal(err)
		}
		status := uint32(0)
		if id == "read" {
			if n, err := io.Copy(io.Discard, stdout); n != 3145729 || err != nil {
				t.Errorf("%d bytes, %v", n, err)
			}
		} else if status = 137; h.kill(id, "", 9) != nil {
			t.Error("it was not killed")
		}
		if got := h.wait(id, ""); got != status {
			t.Errorf("exit status %d", got)
		}
		h.remove(id)
		stdout.Close()
	}
	if !itself.Eventually(func() bool { return len(h.agent.Left()) == 0 }) {
		t.Errorf("left: %q", h.agent.Left())
	}
}

// Streams that no process opens stay until they are closed.
func TestCloseStdio(t *testing.T) {
	h := boot(t, &Driver{})
	h.run("c", "sleep")
	stdout, path := h.open("out", api.StdioStream_OUTPUT)
	stdin, _ := h.open("in", api.StdioStream_INPUT)
	if err := h.exec(&taskapi.ExecProcessRequest{ID: "c", ExecID: "e", Stdout: path}, "missing"); err != nil {
		t.Fatal(err)
	}
	if h.start("c", "e") == nil {
		t.Error("a missing program runs")
	}
	if left := h.agent.Left(); len(left) != 5 {
		t.Errorf("there are %q", left)
	}
	if _, err := h.guest.CloseStdio(t.Context(), &api.CloseStdioRequest{Ids: []string{"out", "in", "nosuch"}}); err != nil {
		t.Error(err)
	}
	if rest := read(t, stdout) + read(t, stdin); rest != "" {
		t.Errorf("closed streams have %q", rest)
	}
	if left := h.agent.Left(); len(left) != 3 {
		t.Errorf("left: %q", left)
	}
}

// In a bubble of testing/synctest half a minute passes at once.
func TestBubble(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		driver := &Driver{Boot: BootsAfter(time.Minute)}
		began := time.Now()
		h := &host{t: t, machine: start(t, driver)}
		h.agent = h.machine.Agent
		h.connect()
		h.run("c", "sleep", "1h")
		h.agent.On("Kill", Late(30*time.Second))
		if err := h.kill("c", "", 9); err != nil {
			t.Error(err)
		}
		h.agent.On("Kill", Hang)
		bounded, cancel := context.WithTimeout(t.Context(), 30*time.Second)
		defer cancel()
		_, err := h.tasks.Kill(bounded, &taskapi.KillRequest{ID: "c"})
		if !errors.Is(err, context.DeadlineExceeded) && !errdefs.IsDeadlineExceeded(errgrpc.ToNative(err)) {
			t.Errorf("Kill = %v", err)
		}
		if passed := time.Since(began); passed != 2*time.Minute {
			t.Errorf("it took %v of the bubble's time", passed)
		}
		if err := h.machine.Stop(t.Context()); err != nil {
			t.Error(err)
		}
		synctest.Wait() // the test fails if anything of the machine is left
	})
}

// A guest that takes nothing is cut off after a while, of the bubble's time.
func TestStall(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := &host{t: t, machine: start(t, &Driver{})}
		h.agent = h.machine.Agent
		h.connect()
		if err := h.agent.StopReading(); err != nil {
			t.Fatal(err)
		}
		began := time.Now()
		if _, err := h.tasks.Connect(t.Context(), &taskapi.ConnectRequest{}); err == nil {
			t.Error("a guest that takes nothing has answered")
		}
		<-h.machine.Done()
		if passed := time.Since(began); passed != mux.StallTimeout || !errors.Is(h.machine.Err(), mux.ErrViolation) {
			t.Errorf("after %v: %v", passed, h.machine.Err())
		}
		synctest.Wait()
	})
}
