package spare

import (
	"encoding/json"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"reflect"
	"runtime/debug"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
)

// descriptors are how many this process has.
func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// keepLeaks keeps the collector from closing files that nobody has closed.
func keepLeaks(t *testing.T) {
	percent := debug.SetGCPercent(-1)
	t.Cleanup(func() { debug.SetGCPercent(percent) })
}

// same tells whether two files are one.
func same(t *testing.T, one, other *os.File) bool {
	t.Helper()
	first, err := one.Stat()
	if err != nil {
		t.Fatal(err)
	}
	second, err := other.Stat()
	if err != nil {
		t.Fatal(err)
	}
	return os.SameFile(first, second)
}

// arrives hands a start over to a spare that accepts, and compares it with what arrives.
func arrives(t *testing.T, w *waiter, starts <-chan *Start) {
	t.Helper()
	sent := newStart(t, "whole")
	conn := dial(t, w.socket())
	defer conn.Close()
	if err := sent.send(conn); err != nil {
		t.Fatal(err)
	}
	got := <-starts
	if got == nil {
		t.Fatal("no start arrives")
	}
	if said := answerTo(t, conn); said != accepted {
		t.Errorf("the answer is %q", said)
	}
	for what, files := range map[string][2]*os.File{
		"socket": {sent.Socket, got.Socket}, "released": {sent.Released, got.Released}, "bundle": {sent.Bundle, got.Bundle},
	} {
		if !same(t, files[0], files[1]) {
			t.Errorf("%s is another file", what)
		}
		flags, err := unix.FcntlInt(files[1].Fd(), unix.F_GETFD, 0)
		if err != nil || flags&unix.FD_CLOEXEC == 0 {
			t.Errorf("%s would be inherited: flags %d, %v", what, flags, err)
		}
	}
	got.close()
	got.Socket, got.Released, got.Bundle = sent.Socket, sent.Released, sent.Bundle
	if !reflect.DeepEqual(*got, sent) {
		t.Errorf("%+v arrives, want %+v", *got, sent)
	}
	if _, more := <-starts; more {
		t.Error("a second start arrives")
	}
	if _, err := os.Lstat(w.socket()); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the socket of a spare that is used: %v", err)
	}
}

// answerTo is what a spare says over a connection before it ends it.
func answerTo(t *testing.T, conn *net.UnixConn) string {
	t.Helper()
	said := make([]byte, 512)
	n, err := conn.Read(said)
	if err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if err == nil {
		if _, err := conn.Read(make([]byte, 1)); !errors.Is(err, io.EOF) {
			t.Errorf("after the answer: %v", err)
		}
	}
	return string(said[:n])
}

// A start that is whole arrives as it was sent, once.
func TestStart(t *testing.T) {
	w, starts := listen(t, poolAt(t.TempDir()), "1"), make(chan *Start)
	go w.accept(starts)
	arrives(t, w, starts)
}

// malformed are messages that are no starts, and a word of the answer to each.
func malformed(t *testing.T) map[string]message {
	t.Helper()
	whole := newStart(t, "malformed")
	socket, pipe, dir := whole.Socket, whole.Released, whole.Bundle
	encode := func(dir string) []byte {
		start := whole
		start.Dir = dir
		data, err := json.Marshal(start)
		if err != nil {
			t.Fatal(err)
		}
		return data
	}
	data := encode(whole.Dir)
	return map[string]message{
		"empty":             {nil, files3(socket, pipe, dir), "EOF"},
		"not JSON":          {[]byte("{"), files3(socket, pipe, dir), "JSON"},
		"JSON of another":   {[]byte(`["a"]`), files3(socket, pipe, dir), "unmarshal"},
		"null":              {[]byte("null"), files3(socket, pipe, dir), "no such file"},
		"no descriptor":     {data, nil, "0 descriptors"},
		"one":               {data, []*os.File{socket}, "1 descriptors"},
		"two":               {data, []*os.File{socket, pipe}, "2 descriptors"},
		"four":              {data, []*os.File{socket, pipe, dir, dir}, "4 descriptors"},
		"ten":               {data, []*os.File{socket, pipe, dir, dir, dir, dir, dir, dir, dir, dir}, "is not whole"},
		"no socket":         {data, files3(pipe, pipe, dir), "descriptor 0"},
		"no pipe":           {data, files3(socket, socket, dir), "descriptor 1"},
		"no directory":      {data, files3(socket, pipe, pipe), "descriptor 2"},
		"another order":     {data, files3(dir, pipe, socket), "descriptor 0"},
		"another directory": {encode(t.TempDir()), files3(socket, pipe, dir), "was mounted after"},
		"no such directory": {encode(whole.Dir + "/none"), files3(socket, pipe, dir), "no such file"},
	}
}

func files3(first, second, third *os.File) []*os.File { return []*os.File{first, second, third} }

// A message is sent to a spare, whose answer says a word.
type message struct {
	data  []byte
	files []*os.File
	says  string
}

// send sends a message also if it is empty: for Go's own functions that is one byte.
func (m message) send(conn *net.UnixConn) error {
	var fds []int
	for _, file := range m.files {
		fds = append(fds, int(file.Fd()))
	}
	rights := unix.UnixRights(fds...)
	if len(fds) == 0 {
		rights = nil
	}
	if len(m.data) > 0 {
		_, _, err := conn.WriteMsgUnix(m.data, rights, nil)
		return err
	}
	header := unix.Msghdr{Control: &rights[0]}
	header.SetControllen(len(rights))
	raw, err := conn.SyscallConn()
	if err != nil {
		return err
	}
	var number unix.Errno
	err = raw.Control(func(fd uintptr) {
		_, _, number = unix.Syscall(unix.SYS_SENDMSG, fd, uintptr(unsafe.Pointer(&header)), 0)
	})
	if number != 0 {
		return number
	}
	return err
}

// What is no start is refused with a reason. The spare keeps nothing of it, and waits on.
func TestMalformed(t *testing.T) {
	keepLeaks(t)
	messages := malformed(t)
	w, starts := listen(t, poolAt(t.TempDir()), "1"), make(chan *Start)
	go w.accept(starts)
	// What the runtime opens once, it has after a first connection.
	conn := dial(t, w.socket())
	if err := messages["one"].send(conn); err != nil {
		t.Fatal(err)
	}
	answerTo(t, conn)
	conn.Close()
	before := descriptors(t)
	for name, message := range messages {
		conn := dial(t, w.socket())
		if err := message.send(conn); err != nil {
			t.Errorf("%s: %v", name, err)
		}
		if said := answerTo(t, conn); !strings.Contains(said, message.says) {
			t.Errorf("%s: the answer is %q; it does not say %q", name, said, message.says)
		}
		conn.Close()
		if after := descriptors(t); after != before {
			t.Errorf("%s: %d descriptors are left, there were %d", name, after, before)
			before = after
		}
	}
	arrives(t, w, starts)
}

// Whoever goes away, at whatever step, takes nothing from the next one.
func TestGoneAway(t *testing.T) {
	keepLeaks(t)
	whole := newStart(t, "gone")
	w, starts := listen(t, poolAt(t.TempDir()), "1"), make(chan *Start)
	before := descriptors(t)
	// They have all gone before the spare looks at the first of them.
	for _, step := range []func(*net.UnixConn) error{
		func(*net.UnixConn) error { return nil },
		func(conn *net.UnixConn) error { return conn.CloseWrite() },
		func(conn *net.UnixConn) error { _, err := conn.Write([]byte("{")); return err },
		whole.send,
		func(conn *net.UnixConn) error { return errors.Join(whole.send(conn), conn.CloseRead()) },
	} {
		conn := dial(t, w.socket())
		if err := step(conn); err != nil {
			t.Error(err)
		}
		conn.Close()
	}
	// This one stays, and does not read why it is refused.
	silent := dial(t, w.socket())
	if _, err := silent.Write([]byte("{")); err != nil {
		t.Error(err)
	}
	go w.accept(starts)
	sent := newStart(t, "whole")
	conn := dial(t, w.socket())
	if err := sent.send(conn); err != nil {
		t.Fatal(err)
	}
	got := <-starts
	if got == nil || got.Args[0] != "whole" {
		t.Fatalf("%+v arrives", got)
	}
	got.close()
	if _, more := <-starts; more {
		t.Error("a second start arrives")
	}
	sent.close()
	conn.Close()
	silent.Close()
	// The listener is closed; the other end of the second start's pipe is open.
	if after := descriptors(t); after != before-1+1 {
		t.Errorf("%d descriptors are left, there were %d", after, before)
	}
}

// A spare that is of no use any more serves a start that came in time, and says when there
// will be none.
func TestGiveUp(t *testing.T) {
	w, starts := listen(t, poolAt(t.TempDir()), "1"), make(chan *Start)
	go w.accept(starts)
	if start := w.giveUp(starts); start != nil {
		t.Errorf("%+v arrives", start)
	}
	w, starts = listen(t, poolAt(t.TempDir()), "1"), make(chan *Start)
	sent := newStart(t, "in time")
	conn := dial(t, w.socket())
	defer conn.Close()
	if err := sent.send(conn); err != nil {
		t.Fatal(err)
	}
	go w.accept(starts)
	answerTo(t, conn) // it is accepted
	start := w.giveUp(starts)
	if start == nil {
		t.Fatal("the start is lost")
	}
	start.close()
}

// Nobody but root hands a start over.
func TestPeer(t *testing.T) {
	var pair [2]int
	err := thread.Run(func() (err error) {
		// This thread's only: it ends with the function.
		if _, _, number := unix.RawSyscall(unix.SYS_SETRESUID, ^uintptr(0), 65534, ^uintptr(0)); number != 0 {
			return number
		}
		pair, err = unix.Socketpair(unix.AF_UNIX, unix.SOCK_SEQPACKET|unix.SOCK_CLOEXEC, 0)
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	var conns []*net.UnixConn
	for _, fd := range pair {
		file := os.NewFile(uintptr(fd), "pair")
		conn, err := net.FileConn(file)
		file.Close()
		if err != nil {
			t.Fatal(err)
		}
		defer conn.Close()
		conns = append(conns, conn.(*net.UnixConn))
	}
	if err := newStart(t, "another").send(conns[0]); err != nil {
		t.Fatal(err)
	}
	if start, err := answer(conns[1], &place{}); !errors.Is(err, errNotRoot) {
		t.Errorf("%+v is taken: %v", start, err)
	}
	if n, err := conns[0].Read(make([]byte, 1)); n > 0 || err == nil {
		t.Errorf("it is told %d bytes, %v", n, err)
	}
}
