package task_test

import (
	"context"
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	tasktypes "github.com/containerd/containerd/api/types/task"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/fake"
	"github.com/msb-runtime/containerd-shim-msb/test/rig"
)

// patience is how long something may take that is to happen.
const patience = time.Minute

// An exec goes through all of its states.
func TestExec(t *testing.T) {
	c := open(t)
	c.Run("c", "sleep")
	c.must(c.exec("c", "e", "exit", "7"))
	c.expectState("c", "e", tasktypes.Status_CREATED)
	c.must(c.start("c", "e"))
	c.expectExit("c", "e", 7)
	c.expectState("c", "e", tasktypes.Status_STOPPED)
	c.expectDelete("c", "e", 7)
	if _, err := c.delete("c", "e"); !errdefs.IsNotFound(err) {
		t.Errorf("a second Delete: %v", err)
	}
	if _, err := c.state("c", "e"); !errdefs.IsNotFound(err) {
		t.Errorf("State of a deleted exec: %v", err)
	}
	c.run("c", "e", "sleep") // the id is free
	c.remove("c")
	c.expectTopics("create start exec-added exec-started exit exec-added exec-started exit exit delete")
	c.expectNothing()
}

// What cannot be an exec is refused, and takes no id.
func TestExecRefuses(t *testing.T) {
	c := open(t)
	c.Run("c", "sleep")
	c.must(c.exec("c", "e", "sleep"))
	for _, id := range []string{"", "e"} {
		if err := c.exec("c", id, "sleep"); !errdefs.IsAlreadyExists(err) {
			t.Errorf("Exec with the id %q: %v", id, err)
		}
	}
	request := c.execRequest("c", "new", "sleep")
	request.Spec.Value = []byte("no JSON")
	if _, err := c.Tasks.Exec(c.ctx, request); err == nil {
		t.Error("a process that is none was added")
	}
	request = c.execRequest("c", "new", "sleep")
	request.Stdout = "strange://x"
	if _, err := c.Tasks.Exec(c.ctx, request); err == nil {
		t.Error("a process with strange streams was added")
	}
	c.must(c.exec("c", "new", "sleep"))
	c.expectTopics("create start exec-added exec-added")
}

// Events call a container's init by the container's id, so no exec can have it: its end
// would be taken for the container's.
func TestExecWithTheContainersID(t *testing.T) {
	c := open(t)
	c.Run("c", "sleep")
	if err := c.exec("c", "c", "sleep"); !errdefs.IsAlreadyExists(err) {
		t.Errorf("Exec = %v", err)
	}
	c.expectState("c", "", tasktypes.Status_RUNNING)
}

// An exec whose program is missing does not start and is deleted; who waits for it learns
// of that.
func TestExecOfMissingProgram(t *testing.T) {
	c := open(t)
	c.Run("c", "sleep")
	c.must(c.exec("c", "e", "missing"))
	if err := c.start("c", "e"); err == nil {
		t.Fatal("a missing program was started")
	}
	c.expectState("c", "e", tasktypes.Status_CREATED)
	waited := make(chan error, 1)
	go func() { _, err := c.wait("c", "e"); waited <- err }()
	for c.Pod.Member("c") == nil {
		time.Sleep(time.Millisecond)
	}
	if _, err := c.delete("c", "e"); err != nil {
		t.Errorf("Delete = %v", err)
	}
	select {
	case err := <-waited:
		if err != nil && !errdefs.IsNotFound(err) { // it asked too late
			t.Errorf("Wait = %v", err)
		}
	case <-time.After(patience):
		t.Error("Wait for an exec that was deleted does not return")
	}
	c.remove("c")
	c.expectTopics("create start exec-added exit delete")
	c.expectNothing()
}

// Execs that never ran have not exited when their container is deleted, and nobody waits
// for them any longer.
func TestExecNeverStarted(t *testing.T) {
	bubble(t, func(c client) {
		c.Run("c", "sleep")
		c.must(c.exec("c", "e", "sleep"))
		waited := make(chan uint32, 1)
		go func() {
			exit, _ := c.wait("c", "e")
			waited <- exit.GetExitStatus()
		}()
		time.Sleep(time.Second)
		c.remove("c")
		if status := <-waited; status != killed {
			t.Errorf("Wait = %d", status)
		}
		c.expectTopics("create start exec-added exit delete")
	})
}

// fifo makes one, and its reader.
func fifo(t *testing.T) (string, *os.File) {
	t.Helper()
	path := filepath.Join(t.TempDir(), "fifo")
	if err := unix.Mkfifo(path, 0o600); err != nil {
		t.Fatal(err)
	}
	reader, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { reader.Close() })
	return path, reader
}

// expectOutput reads a FIFO to its end.
func expectOutput(t *testing.T, reader *os.File, want string) {
	t.Helper()
	if err := reader.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(reader); err != nil || string(got) != want {
		t.Errorf("output %q, %v, want %q", got, err, want)
	}
}

// The client of an exec that does not start sees the end of its output at once.
func TestFailedStartEndsOutput(t *testing.T) {
	c := open(t)
	c.Run("c", "sleep")
	request := c.execRequest("c", "e", "missing")
	path, reader := fifo(t)
	request.Stdout = path
	_, err := c.Tasks.Exec(c.ctx, request)
	c.must(err)
	if err := c.start("c", "e"); err == nil {
		t.Fatal("a missing program was started")
	}
	expectOutput(t, reader, "")
	if _, err := c.delete("c", "e"); err != nil {
		t.Errorf("Delete = %v", err)
	}
}

// All output has been handed over when Delete returns, and input ends with CloseIO.
func TestStreams(t *testing.T) {
	c := open(t)
	request := c.Request("c", rig.Spec("echo", "init"))
	initPath, initOutput := fifo(t)
	request.Stdout = initPath
	_, err := c.Tasks.Create(c.ctx, request)
	c.must(err)
	c.must(c.start("c", ""))
	c.expectExit("c", "", 0)
	c.expectDelete("c", "", 0)
	expectOutput(t, initOutput, "init\n")
	c.expectNothing()
}

// No process is there before its client has opened its end of the output: all of it arrives, also at a
// client that opens its end late and gives that up when the process has ended.
func TestClientsTurn(t *testing.T) {
	c := open(t)
	c.Tasks.ClientsTurn = time.Hour
	output := func(name string) string {
		path := filepath.Join(t.TempDir(), name)
		c.must(unix.Mkfifo(path, 0o600))
		return path
	}
	late := func(path string, request func() error) *os.File {
		asked := make(chan error, 1)
		go func() { asked <- request() }()
		select {
		case err := <-asked:
			t.Fatalf("a process without its client: %v", err)
		case <-time.After(100 * time.Millisecond):
		}
		reader, err := os.OpenFile(path, os.O_RDONLY|unix.O_NONBLOCK, 0)
		c.must(err)
		c.must(<-asked)
		return reader
	}
	create := c.Request("c", rig.Spec("sleep"))
	create.Stdout = output("init")
	late(create.Stdout, func() error { _, err := c.Tasks.Create(c.ctx, create); return err }).Close()
	c.must(c.start("c", ""))
	exec := c.execRequest("c", "e", "echo", "exec")
	exec.Stdout = output("exec")
	reader := late(exec.Stdout, func() error { _, err := c.Tasks.Exec(c.ctx, exec); return err })
	defer reader.Close()
	c.must(c.start("c", "e"))
	c.expectExit("c", "e", 0)
	c.expectDelete("c", "e", 0)
	expectOutput(t, reader, "exec\n")
}

// An exec whose client never comes does not outlive its container.
func TestClientNeverComes(t *testing.T) {
	c := open(t)
	c.Tasks.ClientsTurn = time.Hour
	c.Run("c", "sleep")
	exec := c.execRequest("c", "e", "echo", "exec")
	exec.Stdout = filepath.Join(t.TempDir(), "fifo")
	c.must(unix.Mkfifo(exec.Stdout, 0o600))
	asked := make(chan error, 1)
	go func() { _, err := c.Tasks.Exec(c.ctx, exec); asked <- err }()
	time.Sleep(100 * time.Millisecond) // that it waits; else it finds no container, which is right, too
	c.remove("c")
	if err := <-asked; !errdefs.IsNotFound(err) {
		t.Errorf("Exec = %v", err)
	}
}

// What a client writes arrives, and its end once CloseIO tells of it.
func TestInput(t *testing.T) {
	c := open(t)
	c.Run("c", "sleep")
	request := c.execRequest("c", "e", "cat")
	output, reader := fifo(t)
	input := filepath.Join(t.TempDir(), "stdin")
	c.must(unix.Mkfifo(input, 0o600))
	request.Stdin, request.Stdout = input, output
	_, err := c.Tasks.Exec(c.ctx, request)
	c.must(err)
	c.must(c.start("c", "e"))
	writer, err := os.OpenFile(input, os.O_WRONLY, 0)
	c.must(err)
	_, err = writer.WriteString("meow")
	c.must(err)
	c.must(writer.Close())
	_, err = c.Tasks.CloseIO(c.ctx, &taskapi.CloseIORequest{ID: "c", ExecID: "e", Stdin: true})
	c.must(err)
	c.expectExit("c", "e", 0)
	c.expectDelete("c", "e", 0)
	expectOutput(t, reader, "meow")
}

// A process whose input cannot be opened runs, and is at the end of it.
func TestInputThatCannotBeOpened(t *testing.T) {
	c := open(t)
	c.Run("c", "sleep")
	request := c.execRequest("c", "e", "cat")
	request.Stdin = filepath.Join(t.TempDir(), "nothing")
	_, err := c.Tasks.Exec(c.ctx, request)
	c.must(err)
	c.must(c.start("c", "e"))
	c.must(c.kill("c", "e"))
	c.expectExit("c", "e", killed)
	c.expectDelete("c", "e", killed)
}

// What needs nothing of each other is asked of the guest at once: the three streams of a process,
// and the exec, or the container's bundle.
func TestAskedAtOnce(t *testing.T) {
	withStreams := func(stdin, stdout, stderr *string) {
		dir := t.TempDir()
		for name, path := range map[string]*string{"in": stdin, "out": stdout, "err": stderr} {
			*path = filepath.Join(dir, name)
			if err := unix.Mkfifo(*path, 0o600); err != nil {
				t.Fatal(err)
			}
			if name == "in" {
				continue
			}
			reader, err := os.OpenFile(*path, os.O_RDONLY|unix.O_NONBLOCK, 0)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { reader.Close() })
		}
	}
	for beside, call := range map[string]func(client) error{
		"Task.Exec": func(c client) error {
			request := c.execRequest("c", "e", "cat")
			withStreams(&request.Stdin, &request.Stdout, &request.Stderr)
			_, err := c.Tasks.Exec(c.ctx, request)
			return err
		},
		"Guest.CreateBundle": func(c client) error {
			request := c.Request("d", member("cat"))
			withStreams(&request.Stdin, &request.Stdout, &request.Stderr)
			_, err := c.Tasks.Create(c.ctx, request)
			return err
		},
	} {
		t.Run(beside, func(t *testing.T) {
			c := open(t)
			c.pod()
			c.joinPod("c", "sleep")
			c.must(c.start("c", ""))
			streams, other := c.Agent().Gate("Stdio"), c.Agent().Gate(beside)
			done := make(chan error, 1)
			go func() { done <- call(c) }()
			waiting, cancel := context.WithTimeout(c.ctx, patience)
			defer cancel()
			for _, gate := range []*fake.Gate{streams, streams, streams, other} {
				if _, err := gate.Wait(waiting); err != nil {
					t.Fatal(err)
				}
			}
			streams.Open()
			other.Open()
			c.must(<-done)
		})
	}
}

// An exec whose streams the guest does not open is not there, neither for containerd nor in the
// guest, and its id is free.
func TestExecWithoutStreams(t *testing.T) {
	c := open(t)
	c.Run("c", "sleep")
	path, reader := fifo(t)
	for _, refused := range []struct {
		behaviour fake.Behaviour
		calls     int // of the exec's deletion
	}{{fake.Honest, 1}, {fake.Fail(errors.New("not now")), 0}} {
		c.Agent().On("Stdio", fake.Times(1, fake.Fail(errors.New("no room"))))
		c.Agent().On("Exec", fake.Times(1, refused.behaviour))
		deleted := len(c.Agent().Calls("Task.Delete"))
		request := c.execRequest("c", "e", "echo", "it runs")
		request.Stdout = path
		if _, err := c.Tasks.Exec(c.ctx, request); err == nil || !strings.Contains(err.Error(), "no room") {
			t.Errorf("Exec = %v", err)
		}
		if n := len(c.Agent().Calls("Task.Delete")) - deleted; n != refused.calls {
			t.Errorf("the guest was asked to delete the exec %d times, not %d", n, refused.calls)
		}
		if _, err := c.state("c", "e"); !errdefs.IsNotFound(err) {
			t.Errorf("State = %v", err)
		}
	}
	request := c.execRequest("c", "e", "echo", "it runs")
	request.Stdout = path
	_, err := c.Tasks.Exec(c.ctx, request)
	c.must(err)
	c.must(c.start("c", "e"))
	c.expectExit("c", "e", 0)
	c.expectDelete("c", "e", 0)
	expectOutput(t, reader, "it runs\n")
	c.remove("c")
	c.expectTopics("create start exec-added exec-started exit exit delete")
	c.expectNothing()
}
