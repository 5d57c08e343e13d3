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

	"github.com/containerd/containerd/v2/pkg/sys/reaper"
	"github.com/containerd/errdefs"
	runc "github.com/containerd/go-runc"
	"github.com/containerd/log"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
)

// Serve runs the program of a stream until that ends, by itself or because the host has closed
// the stream: then it is killed. Its process group goes with it. It owns conn.
func Serve(ctx context.Context, conn net.Conn, stream *api.ShellStream) {
	defer conn.Close()
	cmd, err := command(stream)
	var exits chan runc.Exit
	if err == nil {
		exits, err = start(cmd, stream)
	}
	replyErr := api.ReplyStream(conn, err)
	switch {
	case err != nil:
	case replyErr != nil: // the host has gone meanwhile
		kill(cmd)
		_, err = reaper.Default.Wait(cmd, exits)
		err = errors.Join(replyErr, err)
	default:
		err = wait(conn, cmd, exits)
	}
	if err != nil {
		log.G(ctx).WithError(err).Error("running a program of the host's operator")
	}
}

// kill kills a program and what it has started, but for what has a session of its own.
func kill(cmd *exec.Cmd) { _ = unix.Kill(-cmd.Process.Pid, unix.SIGKILL) }

// wait waits for the end of a program, and tells the host. What the program leaves behind would keep
// its output open.
func wait(conn net.Conn, cmd *exec.Cmd, exits chan runc.Exit) error {
	ended := make(chan struct{})
	go func() {
		_, _ = io.Copy(io.Discard, conn)
		select {
		case <-ended: // its number may be another's
		default:
			kill(cmd)
		}
	}()
	status, err := reaper.Default.Wait(cmd, exits)
	close(ended)
	kill(cmd)
	if err != nil {
		return err
	}
	return api.SendExit(conn, uint32(status))
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
	if err != nil {
		return nil, err
	}
	tools := api.SharePath(stream.Share)
	cmd := exec.Command(filepath.Join(tools, stream.Args[0]))
	cmd.Args, cmd.Dir = stream.Args, "/"
	cmd.Env = []string{"PATH=" + tools + ":/sbin", "HOME=/", "TERM=dumb", "TOOLS=" + tools}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	return cmd, nil
}

// start starts the program. Its streams have their other ends.
func start(cmd *exec.Cmd, stream *api.ShellStream) (exits chan runc.Exit, err error) {
	for _, one := range []struct {
		id    string
		flags int
		set   func(*os.File)
	}{
		{stream.Stdin, os.O_RDONLY, func(f *os.File) { cmd.Stdin = f }},
		{stream.Stdout, os.O_WRONLY, func(f *os.File) { cmd.Stdout = f }},
		{stream.Stderr, os.O_WRONLY, func(f *os.File) { cmd.Stderr = f }},
	} {
		if one.id == "" {
			continue
		}
		file, err := os.OpenFile(api.StdioPath(one.id), one.flags, 0)
		if err != nil {
			return nil, err
		}
		defer file.Close()
		one.set(file)
	}
	// PID 1 reaps every process.
	return reaper.Default.Start(cmd)
}
