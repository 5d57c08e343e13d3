package fake

import (
	"fmt"
	"io"
	"strconv"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
)

// Programs are what the containers of an Agent can run, by the first of the process's
// arguments (process.args of the OCI runtime configuration). A program ends when it is
// killed: by SIGKILL, and by the signals whose default is to end a process, of which its
// status then tells (128 + signal).
//
//	sleep [DURATION]    does nothing, for ever or for a time ("20ms")
//	pause               the same, as containers of pods call it
//	exit STATUS         ends at once with a status
//	echo TEXT…          writes the text and a new line, and ends
//	complain TEXT…      the same on stderr
//	cat                 copies stdin to stdout until its end, and ends
//	flood BYTES         writes so many bytes, and ends
//	ignores-term        as sleep, and only SIGKILL ends it
//	sbin/crun           does nothing: it is of the guest's disk, and never starts
//
// Any other program is missing: runc fails to create a container of it, and to start an
// exec ("missing" is kept for that).
var Programs = []string{"sleep", "pause", "exit", "echo", "complain", "cat", "flood", "ignores-term"}

// programs are what a name stands for; the result is the exit status.
var programs = map[string]func(*process) uint32{
	"sleep":        sleep,
	"pause":        sleep,
	"ignores-term": sleep,
	// daemon ends, and leaves a child with its streams.
	"daemon": func(p *process) uint32 {
		p.kept = true
		return 0
	},
	"exit": func(p *process) uint32 {
		status, _ := strconv.ParseUint(p.argument(), 10, 32)
		return uint32(status)
	},
	"echo":     func(p *process) uint32 { return say(p.stdout, p.args[1:]) },
	"complain": func(p *process) uint32 { return say(p.stderr, p.args[1:]) },
	"cat":      cat,
	"flood":    flood,

	strings.TrimPrefix(api.Crun, "/"): func(*process) uint32 { return 0 },
}

func sleep(p *process) uint32 {
	d, err := time.ParseDuration(p.argument())
	if err != nil {
		<-p.killed
		return 0
	}
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-p.killed:
	}
	return 0
}

func say(out *output, words []string) uint32 {
	_, _ = fmt.Fprintln(out, strings.Join(words, " "))
	return 0
}

func cat(p *process) uint32 {
	if p.stdin == nil {
		return 0
	}
	if _, err := io.Copy(p.stdout, p.stdin.r); err != nil {
		return 1
	}
	return 0
}

func flood(p *process) uint32 {
	left, _ := strconv.ParseInt(p.argument(), 10, 64)
	chunk := []byte(strings.Repeat("0123456789abcde\n", 4<<10))
	for left > 0 {
		n, err := p.stdout.Write(chunk[:min(left, int64(len(chunk)))])
		if err != nil {
			return 1
		}
		left -= int64(n)
	}
	return 0
}

// A process is a container's init or an exec. What is not said to be guarded does not
// change once the process has started.
type process struct {
	container *container
	execID    string // "" is init
	args      []string
	files     [3]string // stdin, stdout and stderr, as the host named them
	terminal  bool
	pid       uint32 // guarded by tasks.mu
	stdin     *input
	stdout    *output
	stderr    *output

	status processStatus // guarded by tasks.mu
	dying  bool          // it has been killed; guarded by tasks.mu
	fatal  uint32        // status of a killed one; readable after killed
	killed chan struct{} // closed when it is to end
	kept   bool          // a child has its streams, and runs on

	exited chan struct{} // closed when it has ended, or will never start
	exit   uint32        // readable after exited
	at     time.Time     // readable after exited
	told   chan struct{} // closed when the event of its end has been sent
}

type processStatus int

const (
	created processStatus = iota
	running
	stopped
)

func newProcess(c *container, execID string, args []string) *process {
	return &process{
		container: c, execID: execID, args: args,
		killed: make(chan struct{}), exited: make(chan struct{}), told: make(chan struct{}),
	}
}

// id is what events call the process.
func (p *process) id() string {
	if p.execID != "" {
		return p.execID
	}
	return p.container.id
}

func (p *process) argument() string {
	if len(p.args) < 2 {
		return ""
	}
	return p.args[1]
}

// lookPath fails as runc does for a program that is not there.
func (p *process) lookPath() error {
	name := ""
	if len(p.args) > 0 {
		name = strings.TrimPrefix(p.args[0], "/")
	}
	if programs[name] == nil {
		return fmt.Errorf("unable to start container process: error during container init: exec: %q: executable file not found in $PATH", name)
	}
	return nil
}

// open connects the process with its standard streams.
func (p *process) open(s *streams) (err error) {
	if p.stdin, err = s.input(p.files[0]); err != nil {
		return err
	}
	if p.stdout, err = s.output(p.files[1]); err != nil {
		return err
	}
	p.stderr, err = s.output(p.files[2])
	return err
}

// run is the process's life. It returns the exit status.
func (p *process) run() uint32 {
	status := programs[strings.TrimPrefix(p.args[0], "/")](p)
	select {
	case <-p.killed:
		return p.fatal
	default:
		return status
	}
}

// end lets the process end with a status. The caller holds tasks.mu.
func (p *process) end(status uint32) {
	if p.dying {
		return
	}
	p.dying, p.fatal = true, status
	close(p.killed)
	if p.stdin != nil {
		p.stdin.r.Close()
	}
	p.stdout.interrupt()
	p.stderr.interrupt()
}

// neverStarts ends the wait for an exec that runc did not start: its state stays, and its
// streams stay open. The caller holds tasks.mu.
func (p *process) neverStarts() {
	select {
	case <-p.exited:
	default:
		close(p.exited)
	}
}

// closeStdio is what the kernel does for a process that has ended.
func (p *process) closeStdio() {
	if p.kept {
		return
	}
	if p.stdin != nil {
		p.stdin.r.Close()
	}
	for _, out := range []*output{p.stdout, p.stderr} {
		if out != nil {
			out.end()
		}
	}
}

// survives tells whether a signal does not end the process (signal(7)).
func (p *process) survives(signal uint32) bool {
	switch unix.Signal(signal) {
	case unix.SIGKILL:
		return false
	case 0, unix.SIGCHLD, unix.SIGCONT, unix.SIGURG, unix.SIGWINCH, unix.SIGSTOP, unix.SIGTSTP, unix.SIGTTIN, unix.SIGTTOU:
		return true
	}
	return len(p.args) > 0 && p.args[0] == "ignores-term"
}
