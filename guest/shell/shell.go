// Package shell runs a program for the host's operator, outside of all containers: as the agent,
// with all that the agent has. The program comes in a share, because the guest has none that
// would look around in it. Only the host opens streams to the agent, so nothing in a container
// can ask for this.
package shell

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"

	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	"github.com/containerd/errdefs"
	runc "github.com/containerd/go-runc"
	"github.com/containerd/log"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
)

// grace is how long a program whose terminal hangs up has until it is killed. A test changes it.
var grace = time.Second

// A program runs.
type program struct {
	cmd      *exec.Cmd
	exits    chan runc.Exit
	terminal *terminal // nil: it has streams
}

// Serve runs the program of a stream until that ends, by itself or because the host has closed
// the stream: then it is killed, after its terminal has hung up. Its session goes with it. It owns
// conn.
func Serve(ctx context.Context, conn net.Conn, stream *api.ShellStream) {
	defer conn.Close()
	p, err := start(stream)
	replyErr := api.ReplyStream(conn, err)
	if err == nil {
		err = p.wait(conn, replyErr != nil)
	}
	if err = errors.Join(err, replyErr); err != nil {
		log.G(ctx).WithError(err).Error("running a program of the host's operator")
	}
}

// wait waits for the end of a program, and tells the host, if that has not gone already. What the
// program leaves behind would keep its output open.
func (p *program) wait(conn net.Conn, gone bool) error {
	ended := make(chan struct{})
	go func() {
		if !gone {
			p.listen(conn)
		}
		p.end(ended)
	}()
	status, err := reaper.Default.Wait(p.cmd, p.exits)
	close(ended)
	kill(p.cmd.Process.Pid)
	if p.terminal != nil {
		p.terminal.close()
	}
	if err != nil || gone {
		return err
	}
	return api.SendExit(conn, uint32(status))
}

// listen takes what the host says, the sizes of the terminal, until it goes away.
func (p *program) listen(conn net.Conn) {
	if p.terminal == nil {
		_, _ = io.Copy(io.Discard, conn)
		return
	}
	for {
		size, err := api.ReceiveWindow(conn)
		if err != nil {
			return
		}
		_ = p.terminal.resize(size) // it may have ended
	}
}

// end ends the program, unless it has.
func (p *program) end(ended <-chan struct{}) {
	select {
	case <-ended:
		return // its number may be another's
	default:
	}
	if p.terminal != nil {
		p.terminal.hangUp()
		select {
		case <-ended:
			return
		case <-time.After(grace):
		}
	}
	kill(p.cmd.Process.Pid)
}

// command is the program, by its name in the share.
func command(stream *api.ShellStream) (*exec.Cmd, error) {
	if len(stream.Args) == 0 {
		return nil, fmt.Errorf("no program is named: %w", errdefs.ErrInvalidArgument)
	}
	err := errors.Join(api.CheckName("share", stream.Share), api.CheckName("program", stream.Args[0]))
	for _, id := range []string{stream.Stdin, stream.Stdout, stream.Stderr} {
		if id != "" {
			err = errors.Join(err, api.CheckName("stream id", id))
		}
	}
	if stream.Terminal != nil {
		err = errors.Join(err, api.CheckTerminal(stream.Terminal))
		if stream.Stdin == "" || stream.Stdout == "" || stream.Stderr != "" {
			err = errors.Join(err, fmt.Errorf("a terminal has the streams stdin and stdout: %w", errdefs.ErrInvalidArgument))
		}
	}
	if err != nil {
		return nil, err
	}
	tools := api.SharePath(stream.Share)
	cmd := exec.Command(filepath.Join(tools, stream.Args[0]))
	cmd.Args, cmd.Dir = stream.Args, "/"
	term := "dumb"
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	if stream.Terminal != nil {
		term = stream.Terminal.Term
		cmd.SysProcAttr.Setctty = true // of its stdin
	}
	cmd.Env = []string{"PATH=" + tools + ":/sbin", "HOME=/", "TERM=" + term, "TOOLS=" + tools}
	return cmd, nil
}

// start starts the program of a stream.
func start(stream *api.ShellStream) (*program, error) {
	cmd, err := command(stream)
	if err != nil {
		return nil, err
	}
	in, out, errs, err := openStreams(stream)
	if err != nil {
		return nil, err
	}
	p := &program{cmd: cmd}
	if stream.Terminal == nil {
		setStreams(cmd, in, out, errs)
		defer closeAll(in, out, errs)
	} else {
		var slave *os.File
		if p.terminal, slave, err = openTerminal(stream.Terminal.Size, in, out); err != nil {
			closeAll(in, out)
			return nil, err
		}
		defer slave.Close()
		setStreams(cmd, slave, slave, slave)
	}
	// PID 1 reaps every process.
	p.exits, err = reaper.Default.Start(cmd)
	if p.terminal != nil {
		p.terminal.follow()
		if err != nil {
			p.terminal.close()
		}
	}
	return p, err
}

// openStreams opens those that a stream names, nil where there is none. They have their other ends.
func openStreams(stream *api.ShellStream) (in, out, errs *os.File, err error) {
	for _, one := range []struct {
		id    string
		flags int
		file  **os.File
	}{
		{stream.Stdin, os.O_RDONLY, &in}, {stream.Stdout, os.O_WRONLY, &out}, {stream.Stderr, os.O_WRONLY, &errs},
	} {
		if one.id == "" {
			continue
		}
		if *one.file, err = os.OpenFile(api.StdioPath(one.id), one.flags, 0); err != nil {
			closeAll(in, out, errs)
			return nil, nil, nil, err
		}
	}
	return in, out, errs, nil
}

// setStreams gives a program its streams. A nil file in an interface would be one.
func setStreams(cmd *exec.Cmd, in, out, errs *os.File) {
	if in != nil {
		cmd.Stdin = in
	}
	if out != nil {
		cmd.Stdout = out
	}
	if errs != nil {
		cmd.Stderr = errs
	}
}

func closeAll(files ...*os.File) {
	for _, file := range files {
		_ = file.Close() // of nil an error
	}
}
