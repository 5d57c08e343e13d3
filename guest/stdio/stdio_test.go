package stdio

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/test/itself"
)

// inside marks the test's program when it runs in a mount namespace of its own.
const inside = "MSB_TEST_INSIDE"

// TestMain runs the tests where /run is empty, as it is in the guest: the FIFOs
// have their places there, and are opened by threads of every kind.
func TestMain(m *testing.M) {
	if os.Getenv(inside) != "" {
		err := errors.Join(
			unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("tmpfs", "/run", "tmpfs", 0, ""))
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			os.Exit(1)
		}
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), inside+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: syscall.CLONE_NEWNS}
	if err := cmd.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "these tests mount and need root:", err)
		os.Exit(1)
	}
}

// patience is how long a test waits for what must come.
const patience = time.Minute

// connection returns both ends of one.
func connection(t *testing.T) (host, guest net.Conn) {
	t.Helper()
	host, guest = itself.Connection(t)
	t.Cleanup(func() { host.Close(); guest.Close() })
	return host, guest
}

// join opens a stream, and tells when it has ended on the guest's side.
func join(t *testing.T, streams *Streams, id string, direction api.StdioStream_Direction) (host net.Conn, ended <-chan struct{}) {
	t.Helper()
	host, guest := connection(t)
	if err := host.SetDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	done := make(chan struct{})
	stream := &api.StdioStream{Id: id, Direction: direction}
	go func() {
		defer close(done)
		header, err := api.AcceptStream(guest)
		if err != nil {
			t.Error(err)
			return
		}
		streams.Join(t.Context(), guest, header.GetStdio())
	}()
	if err := api.OpenStream(host, &api.StreamHeader{Purpose: &api.StreamHeader_Stdio{Stdio: stream}}); err != nil {
		t.Fatal(err)
	}
	return host, done
}

// process opens the FIFO of a stream as the task service does.
func process(t *testing.T, id string, flags int) *os.File {
	t.Helper()
	file, err := os.OpenFile(api.StdioPath(id), flags, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return file
}

func mustEnd(t *testing.T, what string, ended <-chan struct{}) {
	t.Helper()
	select {
	case <-ended:
	case <-time.After(patience):
		t.Fatalf("%s does not end", what)
	}
}

func gone(t *testing.T, id string) {
	t.Helper()
	if _, err := os.Lstat(api.StdioPath(id)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the FIFO is left: %v", err)
	}
}

// The process sees the end of its input.
func TestInput(t *testing.T) {
	host, ended := join(t, New(), "in", api.StdioStream_INPUT)
	stdin := process(t, "in", os.O_RDONLY)
	const size = 1 << 20
	sent := make(chan error, 1)
	go func() {
		_, err := io.WriteString(host, strings.Repeat("x", size))
		host.Close()
		sent <- err
	}()
	got, err := io.ReadAll(stdin)
	if err != nil || len(got) != size {
		t.Errorf("the process read %d bytes, %v", len(got), err)
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
	mustEnd(t, "the stream", ended)
	gone(t, "in")
}

// A host that gives the stream up ends the process's input, too.
func TestInputBreaksOff(t *testing.T) {
	host, ended := join(t, New(), "in", api.StdioStream_INPUT)
	stdin := process(t, "in", os.O_RDONLY)
	host.Close()
	if got, err := io.ReadAll(stdin); err != nil || len(got) != 0 {
		t.Errorf("the process read %q, %v", got, err)
	}
	mustEnd(t, "the stream", ended)
	gone(t, "in")
}

// A process that closes its stdin ends the stream, which the host sees.
func TestProcessClosesStdin(t *testing.T) {
	host, ended := join(t, New(), "in", api.StdioStream_INPUT)
	process(t, "in", os.O_RDONLY).Close()
	go func() { _, _ = io.WriteString(host, "x") }()
	mustEnd(t, "the stream", ended)
	if _, err := host.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
		t.Errorf("the host reads %v", err)
	}
	gone(t, "in")
}

func TestOutput(t *testing.T) {
	host, ended := join(t, New(), "out", api.StdioStream_OUTPUT)
	stdout := process(t, "out", os.O_WRONLY)
	if _, err := stdout.WriteString("hello"); err != nil {
		t.Fatal(err)
	}
	stdout.Close()
	if got, err := io.ReadAll(host); err != nil || string(got) != "hello" {
		t.Errorf("the host read %q, %v", got, err)
	}
	mustEnd(t, "the stream", ended)
	gone(t, "out")
}

// A stream is closed by the host's word as well, whatever its process does.
func TestClose(t *testing.T) {
	streams := New()
	_, ended := join(t, streams, "out", api.StdioStream_OUTPUT)
	process(t, "out", os.O_WRONLY)
	streams.Close("out")
	streams.Close("out")
	mustEnd(t, "the stream", ended)
	gone(t, "out")
}

// A process whose input is closed by the host's word sees its end, though the host has sent nothing.
func TestCloseInput(t *testing.T) {
	streams := New()
	host, ended := join(t, streams, "in", api.StdioStream_INPUT)
	stdin := process(t, "in", os.O_RDONLY)
	streams.Close("in")
	read := make(chan struct{})
	go func() {
		defer close(read)
		if got, err := io.ReadAll(stdin); err != nil || len(got) != 0 {
			t.Errorf("the process read %q, %v", got, err)
		}
	}()
	mustEnd(t, "the process's input", read)
	host.Close()
	mustEnd(t, "the stream", ended)
	gone(t, "in")
}

// An output that nobody has opened yet has not ended.
func TestOutputBeforeItsWriter(t *testing.T) {
	pipe, err := open(t.TempDir()+"/out", false)
	if err != nil {
		t.Fatal(err)
	}
	defer pipe.Close()
	if err := pipe.(output).SetReadDeadline(time.Now().Add(firstLook)); err != nil {
		t.Fatal(err)
	}
	host, guest := connection(t)
	defer host.Close()
	if err := pipe.copy(guest); !errors.Is(err, os.ErrClosed) {
		t.Errorf("its copy ends with %v, want that it was broken off", err)
	}
}

// A host that leaves ends a stream that no process has opened, and one whose process does not end.
func TestHostLeaves(t *testing.T) {
	for name, direction := range map[string]api.StdioStream_Direction{"in": api.StdioStream_INPUT, "out": api.StdioStream_OUTPUT} {
		for _, opened := range []bool{false, true} {
			host, ended := join(t, New(), name, direction)
			if opened {
				process(t, name, os.O_RDWR)
			}
			host.Close()
			mustEnd(t, "the stream", ended)
			gone(t, name)
		}
	}
}

// The other end is opened without waiting, however the task service does it: an input for writing first,
// so that it can end it.
func TestOpensWithoutWaiting(t *testing.T) {
	for name, direction := range map[string]api.StdioStream_Direction{"in": api.StdioStream_INPUT, "out": api.StdioStream_OUTPUT} {
		host, ended := join(t, New(), name, direction)
		for _, flags := range []int{os.O_WRONLY, os.O_RDONLY} {
			file, err := os.OpenFile(api.StdioPath(name), flags|unix.O_NONBLOCK, 0)
			if err != nil { // without O_NONBLOCK it would wait
				t.Fatalf("%s: opening the other end with %#x: %v", name, flags, err)
			}
			defer file.Close()
		}
		host.Close()
		mustEnd(t, "the stream", ended)
		gone(t, name)
	}
}

// Input waits for a reader that comes late, as the task service's may, and so does its end.
func TestInputBeforeItsReader(t *testing.T) {
	defer func(last time.Duration) { lastLook = last }(lastLook)
	lastLook = patience
	for _, sent := range []string{"hello", ""} {
		host, ended := join(t, New(), "in", api.StdioStream_INPUT)
		if _, err := io.WriteString(host, sent); err != nil {
			t.Fatal(err)
		}
		if err := host.(*net.UnixConn).CloseWrite(); err != nil {
			t.Fatal(err)
		}
		time.Sleep(firstLook)
		stdin := process(t, "in", os.O_RDONLY)
		if got, err := io.ReadAll(stdin); err != nil || string(got) != sent {
			t.Errorf("the process read %q of %q, %v", got, sent, err)
		}
		mustEnd(t, "the stream", ended)
		gone(t, "in")
	}
}

// A host that sends to a process that is gone learns of it, and one that leaves waits for nobody.
func TestInputWithoutReader(t *testing.T) {
	streams := New()
	host, ended := join(t, streams, "in", api.StdioStream_INPUT)
	if _, err := io.WriteString(host, "x"); err != nil {
		t.Fatal(err)
	}
	mustEnd(t, "the stream", ended)
	gone(t, "in")
	defer func(last time.Duration) { lastLook = last }(lastLook)
	lastLook = 10 * patience // nothing else is to end it
	host, ended = join(t, streams, "in", api.StdioStream_INPUT)
	if _, err := io.WriteString(host, "x"); err != nil {
		t.Fatal(err)
	}
	// It waits for a reader when the agent is none any more (open(2), ENXIO).
	for err := error(nil); err == nil; time.Sleep(firstLook) {
		var writer *os.File
		if writer, err = os.OpenFile(api.StdioPath("in"), os.O_WRONLY|unix.O_NONBLOCK, 0); err == nil {
			writer.Close()
		}
	}
	streams.Close("in")
	mustEnd(t, "the stream", ended)
	gone(t, "in")
}
