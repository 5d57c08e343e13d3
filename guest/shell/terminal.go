package shell

import (
	"errors"
	"os"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/internal/copying"
	"github.com/msb-runtime/containerd-shim-msb/internal/rawcall"
)

// A terminal is a program's pseudoterminal (pty(7)), with the streams of what is typed and shown
// there.
type terminal struct {
	master  *os.File
	in, out *os.File
	shown   chan struct{} // closed when the terminal is copied to out no more
}

// chunk is how much of a terminal is copied at once, in bytes: what its kernel holds.
const chunk = 4 << 10

// openTerminal makes a terminal, and returns the program's side too, which the caller closes when the
// program has it. It owns the streams.
func openTerminal(size *api.WindowSize, in, out *os.File) (_ *terminal, slave *os.File, err error) {
	// Not by containerd/console: its reads could not be ended.
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, nil, err
	}
	t := &terminal{master: master, in: in, out: out, shown: make(chan struct{})}
	err = t.control(func(fd int) error {
		if err := unix.IoctlSetPointerInt(fd, unix.TIOCSPTLCK, 0); err != nil {
			return os.NewSyscallError("TIOCSPTLCK", err)
		}
		// By the descriptor: no path leads astray.
		peer, err := rawcall.OpenPeer(fd, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
		if err != nil {
			return os.NewSyscallError("TIOCGPTPEER", err)
		}
		slave = os.NewFile(uintptr(peer), "terminal")
		return nil
	})
	if err == nil {
		err = t.resize(size)
	}
	if err != nil {
		master.Close()
		if slave != nil {
			slave.Close()
		}
		return nil, nil, err
	}
	return t, slave, nil
}

// control calls f with the descriptor, which os.File keeps for as long.
func (t *terminal) control(f func(fd int) error) error {
	raw, err := t.master.SyscallConn()
	if err != nil {
		return err
	}
	var result error
	err = raw.Control(func(fd uintptr) { result = f(int(fd)) })
	return errors.Join(err, result)
}

// resize changes the size: the group in the foreground is sent SIGWINCH.
func (t *terminal) resize(size *api.WindowSize) error {
	return t.control(func(fd int) error {
		return os.NewSyscallError("TIOCSWINSZ", unix.IoctlSetWinsize(fd, unix.TIOCSWINSZ, &unix.Winsize{Row: uint16(size.GetRows()), Col: uint16(size.GetColumns())}))
	})
}

// follow begins to copy what is typed and what is shown.
func (t *terminal) follow() {
	go func() {
		defer close(t.shown)
		_ = copying.Through(chunk, t.out, t.master)
	}()
	go func() {
		if err := copying.Through(chunk, t.master, t.in); err == nil {
			// There is no end of input but the character for it (termios(3), VEOF).
			_, _ = t.master.Write([]byte{'D' - '@'})
		}
	}()
}

// hangUp is the end of who sits before the terminal: the group in the foreground is sent SIGHUP, and
// so is the session's leader by the kernel, for whom the terminal is no more.
func (t *terminal) hangUp() {
	_ = t.control(func(fd int) error {
		group, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
		if err == nil && group > 1 {
			err = unix.Kill(-group, unix.SIGHUP)
		}
		return err
	})
	_ = t.master.Close()
}

// close hands over what has been shown until now, and closes the terminal and its streams. Somebody
// who has left the session may have it open still, and is not waited for.
func (t *terminal) close() {
	_ = t.master.SetReadDeadline(time.Unix(1, 0))
	<-t.shown
	_ = t.control(func(fd int) error {
		text := make([]byte, chunk)
		for {
			// It does not block: there is nothing more, or nobody who could print (EIO).
			n, err := rawcall.Retry(func() (int, error) { return unix.Read(fd, text) })
			if n <= 0 || err != nil {
				return err
			}
			if _, err := t.out.Write(text[:n]); err != nil {
				return err
			}
		}
	})
	t.in.Close()
	t.out.Close()
	t.master.Close()
}
