package shell

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/protodelim"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/test/itself"
)

// tell tells what a program sees of its terminal, and each size that it gets.
func tell() {
	changed := make(chan os.Signal, 8)
	signal.Notify(changed, unix.SIGWINCH)
	tty, err := os.OpenFile("/dev/tty", os.O_RDWR, 0)
	if err != nil {
		fmt.Println(err)
		os.Exit(2)
	}
	session, _ := unix.Getsid(0)
	foreground, _ := unix.IoctlGetInt(int(tty.Fd()), unix.TIOCGPGRP)
	leads := session == os.Getpid() && foreground == unix.Getpgrp()
	for {
		size, err := unix.IoctlGetWinsize(int(os.Stderr.Fd()), unix.TIOCGWINSZ)
		if err != nil {
			os.Exit(2)
		}
		fmt.Printf("%s %v %d %d\n", os.Getenv("TERM"), leads, size.Row, size.Col)
		if size.Row == 1 {
			os.Exit(5)
		}
		<-changed
	}
}

// awaitHangup puts another program in the foreground, as a shell does. Each of both makes a file when it
// is sent SIGHUP, and the leader waits for the other's.
func awaitHangup() {
	name := filepath.Join(os.Getenv("TOOLS"), "hung-up-")
	hungUps := make(chan os.Signal, 1)
	signal.Notify(hungUps, unix.SIGHUP)
	if len(os.Args) > 1 { // it is the one in the foreground
		fmt.Println("waiting")
		<-hungUps
		_ = os.WriteFile(name+"foreground", nil, 0o600)
		time.Sleep(time.Hour) // and does not end by itself
		os.Exit(2)
	}
	cmd := exec.Command(filepath.Join(os.Getenv("TOOLS"), hungUp), "foreground")
	cmd.Stdin, cmd.Stdout = os.Stdin, os.Stdout
	cmd.SysProcAttr = &syscall.SysProcAttr{Foreground: true}
	if err := cmd.Start(); err != nil {
		os.Exit(2)
	}
	<-hungUps
	for deadline := time.Now().Add(patience); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if _, err := os.Stat(name + "foreground"); err == nil {
			_ = os.WriteFile(name+"leader", nil, 0o600)
			os.Exit(0)
		}
	}
}

// A seat is who sits before a program's terminal, at the host's side.
type seat struct {
	t        *testing.T
	in, out  *os.File // the FIFOs' other ends
	conn     net.Conn
	received *bufio.Reader
	shown    *bufio.Reader
}

// sit makes the streams of a terminal, and serves a program there meanwhile.
func sit(t *testing.T, share, name string, host func(*seat)) {
	t.Helper()
	stream := &api.ShellStream{
		Share: share, Args: []string{name}, Stdin: "in", Stdout: "out",
		Terminal: &api.Terminal{Term: "vt100", Size: &api.WindowSize{Rows: 24, Columns: 80}},
	}
	if err := os.MkdirAll(filepath.Dir(api.StdioPath("in")), 0o700); err != nil {
		t.Fatal(err)
	}
	s := &seat{t: t}
	for id, end := range map[string]**os.File{"in": &s.in, "out": &s.out} {
		if err := unix.Mkfifo(api.StdioPath(id), 0o600); err != nil {
			t.Fatal(err)
		}
		var err error
		if *end, err = os.OpenFile(api.StdioPath(id), os.O_RDWR, 0); err != nil {
			t.Fatal(err)
		}
		defer (*end).Close()
	}
	far, near := itself.Connection(t)
	s.conn, s.received, s.shown = far, bufio.NewReader(far), bufio.NewReader(s.out)
	done := make(chan struct{})
	go func() {
		defer close(done)
		defer far.Close()
		var reply api.StreamReply
		if err := protodelim.UnmarshalFrom(s.received, &reply); err != nil || reply.Error != "" {
			t.Error(err, reply.Error)
			return
		}
		host(s)
	}()
	Serve(t.Context(), near, stream)
	<-done
}

func (s *seat) expect(want string) {
	s.t.Helper()
	if err := s.out.SetReadDeadline(time.Now().Add(patience)); err != nil {
		s.t.Error(err)
	}
	if line, err := s.shown.ReadString('\n'); line != want+"\r\n" {
		s.t.Errorf("the terminal shows %q, %v, want %q", line, err, want)
	}
}

func (s *seat) typeKeys(keys string) {
	s.t.Helper()
	if _, err := io.WriteString(s.in, keys); err != nil {
		s.t.Error(err)
	}
}

func (s *seat) exit(want uint32) {
	s.t.Helper()
	var exit api.ShellExit
	if err := protodelim.UnmarshalFrom(s.received, &exit); err != nil || exit.Status != want {
		s.t.Errorf("status %d, %v, want %d", exit.Status, err, want)
	}
}

// A program leads a session with a terminal of its own, whose size changes.
func TestTerminal(t *testing.T) {
	inGuest(t, func(share string) {
		sit(t, share, teller, func(s *seat) {
			s.expect("vt100 true 24 80")
			for _, size := range []*api.WindowSize{{Rows: 50, Columns: api.MaxWindow}, {Rows: 1, Columns: 2}} {
				if err := api.SendWindow(s.conn, size); err != nil {
					t.Error(err)
				}
				s.expect(fmt.Sprintf("vt100 true %d %d", size.Rows, size.Columns))
			}
			// One more, which may come after the end, is nobody's.
			if err := api.SendWindow(s.conn, &api.WindowSize{Rows: 1, Columns: 3}); err != nil {
				t.Error(err)
			}
			s.exit(5)
		})
	})
}

// ^C and ^D are the terminal's, and what a shell has left in the background goes with it.
func TestTerminalKeys(t *testing.T) {
	for name, c := range map[string]struct {
		program, keys, shows string
		status               uint32
	}{
		"^C":                   {reader, "ab\x03", "", 128 + uint32(unix.SIGINT)},
		"^D":                   {reader, "ab\r\x04", `read "ab\n" <nil>`, 4},
		"a job is left behind": {leaver, "", "", 3},
	} {
		t.Run(name, func(t *testing.T) {
			inGuest(t, func(share string) {
				sit(t, share, c.program, func(s *seat) {
					s.typeKeys(c.keys)
					s.exit(c.status)
					if c.shows == "" {
						return
					}
					s.expect("ab") // its echo
					s.expect(c.shows)
				})
			})
		})
	}
}

// When the host goes away the terminal hangs up: the leader and the foreground are sent SIGHUP, and
// what takes no notice is killed.
func TestHangup(t *testing.T) {
	old := grace
	defer func() { grace = old }()
	grace = time.Hour
	inGuest(t, func(share string) {
		sit(t, share, hungUp, func(s *seat) {
			s.expect("waiting")
			_ = s.conn.Close()
		})
		for _, who := range []string{"leader", "foreground"} {
			if _, err := os.Stat(filepath.Join(api.SharePath(share), "hung-up-"+who)); err != nil {
				t.Error(err)
			}
		}
	})
}

// So is a leader that goes on.
func TestHangupIgnored(t *testing.T) {
	inGuest(t, func(share string) {
		sit(t, share, deaf, func(s *seat) {
			s.expect("waiting")
			_ = s.conn.Close()
		})
	})
}

// What the host says of a terminal is checked, too.
func TestTerminalRefused(t *testing.T) {
	terminal := func(term string, rows uint32) *api.ShellStream {
		return &api.ShellStream{Share: "dm_1", Args: []string{"p"}, Stdin: "in", Stdout: "out", Terminal: &api.Terminal{Term: term, Size: &api.WindowSize{Rows: rows}}}
	}
	for name, stream := range map[string]*api.ShellStream{
		"its type": terminal("a/b", 1),
		"its size": terminal("vt100", api.MaxWindow+1),
		"stderr":   {Share: "dm_1", Args: []string{"p"}, Stdin: "in", Stdout: "out", Stderr: "err", Terminal: &api.Terminal{Term: "vt100"}},
		"no stdin": {Share: "dm_1", Args: []string{"p"}, Stdout: "out", Terminal: &api.Terminal{Term: "vt100"}},
	} {
		if _, err := command(stream); err == nil {
			t.Errorf("%s is taken", name)
		}
	}
}

func TestSessionOf(t *testing.T) {
	for stat, want := range map[string]int{
		"7 (a) S 1 5 6 34816 7 4194304":     6,
		"7 (a) R 1 5 9 (b) S 1 5 6 0":       6,
		"7 (a b) x) S -1 5 6 0":             6,
		"7 (a":                              0,
		"":                                  0,
		"7 (a) S 1 5":                       0,
		"7 (a) S one five six 34816 7 4194": 0,
	} {
		if got := sessionOf([]byte(stat)); got != want {
			t.Errorf("%q: %d, want %d", stat, got, want)
		}
	}
}
