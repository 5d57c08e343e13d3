package e2e

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

// Who hands over to a spare is killed before its message, before the answer, and after it; or
// the spare's VM is, meanwhile. The spare goes on waiting, or ends with all that it has; the next
// start works.
func TestSpareHandOver(t *testing.T) {
	nothingLeft(t)
	endSpares(t) // those of other tests
	file := config(t, t.TempDir(), fmt.Sprintf("vm.boot_timeout = %q\nspare.count = 2", harness.Patience))[1]
	t.Cleanup(func() { endSpares(t) })
	start(t, spared(file), sleeper...)
	waitFor(t, "two spares", func() bool { return len(host.Spares()) == 2 })
	both := host.Spares()

	t.Run("before the message", func(t *testing.T) {
		for _, spare := range both {
			newStarter(t, spare).kill()
		}
	})
	t.Run("before the answer", func(t *testing.T) {
		for _, spare := range both {
			stop(t, spare)
			s := newStarter(t, spare)
			s.send()
			s.kill()
		}
		id := fmt.Sprintf("killed-%d", time.Now().UnixNano())
		ran := runBeside(id, file)
		awaitStarter(t, id, 2*len(both), ran)
		if pid := findStart(id); pid != 0 {
			_ = unix.Kill(pid, unix.SIGKILL)
		}
		<-ran
		resume(t, both...)
		if now := host.Spares(); len(now) != len(both) {
			t.Errorf("spares %v have become %v", both, now)
		}
	}) // what follows finds out whether they wait
	t.Run("after the answer", func(t *testing.T) {
		s, spare := newStarter(t, both[0]), both[0]
		vmm := vmmOf(t, spare)
		s.send()
		if got := s.answer(); got != "accepted" {
			t.Fatalf("the spare answers %q", got)
		}
		socket := s.bind()
		s.kill()
		gone(t, spare, vmm)
		if _, err := os.Lstat(socket); !errors.Is(err, fs.ErrNotExist) {
			t.Errorf("the shim's socket is left: %v", err)
		}
	})
	t.Run("the VMM", func(t *testing.T) {
		spare := both[1]
		vmm := vmmOf(t, spare)
		stop(t, spare)
		if err := unix.Kill(vmm, unix.SIGKILL); err != nil {
			t.Fatal(err)
		}
		waitFor(t, "the VMM to end", func() bool { // its parent is stopped, and does not wait for it
			stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", vmm))
			return err != nil || strings.Contains(string(stat), ") Z ")
		})
		id := fmt.Sprintf("without-%d", time.Now().UnixNano())
		ran := runBeside(id, file)
		awaitStarter(t, id, 1, ran)
		resume(t, spare)
		if got := <-ran; got != "hello\n" {
			t.Errorf("the container: %s", got)
		}
		gone(t, spare, vmm)
	})
}

// runBeside runs a container whose VM may be a spare, and says what that printed.
func runBeside(id, file string) <-chan string {
	ran := make(chan string, 1)
	go func() {
		stdout, stderr, _ := host.Run(id, []string{"--runtime-config-path", file}, "echo", "hello")
		ran <- stdout + stderr
	}()
	return ran
}

// awaitStarter waits until a container's start has connected to a spare that is stopped, where
// there were some sockets of spares before. On a slow machine it may do without before that is
// seen.
func awaitStarter(t *testing.T, id string, before int, ran <-chan string) {
	t.Helper()
	waitFor(t, "start to connect to a spare", func() bool {
		return connections(t) > before || findStart(id) == 0 && findShim(id) != 0 || len(ran) > 0
	})
}

// findStart is the process that containerd has called to start a container's shim, 0 when
// there is none.
func findStart(id string) int {
	pid := findShim(id)
	if command, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid)); !strings.HasSuffix(string(command), "\x00start\x00") {
		return 0
	}
	return pid
}

// connections is how many sockets have the name of a spare's: those that listen, and those
// that were connected to them (unix(7)).
func connections(t *testing.T) int {
	return strings.Count(content(t, fmt.Sprintf("/proc/%d/net/unix", host.Pid())), " /run/msb/spares/")
}

// stop stops all threads of a process.
func stop(t *testing.T, pid int) {
	t.Helper()
	if err := unix.Kill(pid, unix.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Kill(pid, unix.SIGCONT) })
	waitFor(t, "a process to stop", func() bool {
		threads, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/stat", pid))
		for _, thread := range threads {
			if stat, err := os.ReadFile(thread); err == nil && !strings.Contains(string(stat), ") T ") {
				return false
			}
		}
		return true
	})
}

func resume(t *testing.T, pids ...int) {
	t.Helper()
	for _, pid := range pids {
		if err := unix.Kill(pid, unix.SIGCONT); err != nil {
			t.Error(err)
		}
	}
}

// vmmOf is the VMM of a spare that lives.
func vmmOf(t *testing.T, spare int) int {
	t.Helper()
	vmm := findVMM(spare)
	if vmm == 0 {
		t.Fatalf("the spare %d has no VMM", spare)
	}
	return vmm
}

// gone waits until nothing of a spare is there any more.
func gone(t *testing.T, spare, vmm int) {
	t.Helper()
	waitFor(t, "a spare to end", func() bool {
		left, _ := filepath.Glob(host.SpareDir(strconv.Itoa(spare)))
		return unix.Kill(spare, 0) != nil && unix.Kill(vmm, 0) != nil && len(left) == 0
	})
}

// A starter hands over to a spare as the shim's "start" does (shim/spare/message.go).
type starter struct {
	t                       *testing.T
	conn                    *net.UnixConn
	dir                     string
	bundle, socket, release *os.File
}

// newStarter connects to a spare.
func newStarter(t *testing.T, spare int) *starter {
	t.Helper()
	sockets, _ := filepath.Glob(host.SpareDir(strconv.Itoa(spare)) + "/socket")
	if len(sockets) != 1 {
		t.Fatalf("the spare %d has the sockets %v", spare, sockets)
	}
	conn, err := net.DialUnix("unixpacket", nil, &net.UnixAddr{Net: "unixpacket", Name: sockets[0]})
	if err != nil {
		t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Now().Add(harness.Patience)); err != nil {
		t.Fatal(err)
	}
	s := &starter{t: t, conn: conn, dir: t.TempDir()}
	t.Cleanup(s.kill)
	if s.bundle, err = os.Open(s.dir); err != nil {
		t.Fatal(err)
	}
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	s.socket = os.NewFile(uintptr(fd), "socket")
	return s
}

// send sends what a daemon needs.
func (s *starter) send() {
	s.t.Helper()
	waiting, release, err := os.Pipe()
	if err != nil {
		s.t.Fatal(err)
	}
	defer waiting.Close()
	s.release = release
	message, err := json.Marshal(map[string]any{
		"Args": []string{"-namespace", harness.Namespace, "-id", "nobody", "-address", host.Address()},
		"Env":  append(os.Environ(), fmt.Sprintf("MSB_SHIM_DAEMON=%d", time.Now().UnixNano())), "Dir": s.dir,
	})
	if err != nil {
		s.t.Fatal(err)
	}
	rights := unix.UnixRights(int(s.socket.Fd()), int(waiting.Fd()), int(s.bundle.Fd()))
	if _, _, err := s.conn.WriteMsgUnix(message, rights, nil); err != nil {
		s.t.Fatal(err)
	}
}

func (s *starter) answer() string {
	s.t.Helper()
	data := make([]byte, 512)
	n, err := s.conn.Read(data)
	if err != nil {
		s.t.Fatal(err)
	}
	return string(data[:n])
}

// bind makes the file of the shim's socket.
func (s *starter) bind() string {
	s.t.Helper()
	path := filepath.Join(s.dir, "shim.sock")
	if err := errors.Join(unix.Bind(int(s.socket.Fd()), &unix.SockaddrUnix{Name: path}), unix.Listen(int(s.socket.Fd()), 1)); err != nil {
		s.t.Fatal(err)
	}
	return path
}

// kill closes what a start has that is killed.
func (s *starter) kill() {
	s.conn.Close()
	for _, file := range []*os.File{s.bundle, s.socket, s.release} {
		if file != nil {
			file.Close()
		}
	}
}
