package spare

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
)

// A State is what a spare is in.
type State string

// The states of a spare that is no daemon.
const (
	Booting State = "booting"
	Waiting State = "waiting"
	Ending  State = "ending"
	Dead    State = "dead" // it was killed: its directory is left
)

// A Listed is a spare that is no daemon.
type Listed struct {
	Dir   string
	Size  spec.Size
	Pid   int
	State State
	// Address is that of its containerd; empty of a dead one.
	Address string
}

// List is all of them below a root. It locks nothing, and makes nothing.
func List(root string) (all []Listed, err error) {
	if _, err := os.ReadDir(root); err != nil {
		if errors.Is(err, fs.ErrNotExist) {
			return nil, nil
		}
		return nil, err
	}
	dirs, err := filepath.Glob(filepath.Join(root, "*", "*"))
	if err != nil {
		return nil, err
	}
	for _, dir := range dirs {
		l := Listed{Dir: dir}
		name := filepath.Base(dir)
		if n, _ := fmt.Sscanf(name, "%dx%d-%d", &l.Size.CPUs, &l.Size.Memory, &l.Pid); n != 3 || name != fmt.Sprint(prefix(l.Size), l.Pid) {
			continue
		}
		if l.look() {
			all = append(all, l)
		}
	}
	return all, nil
}

// look finds out the state. It returns false for what is a daemon, or has gone.
func (l *Listed) look() bool {
	has := func(name string) bool {
		_, err := os.Lstat(filepath.Join(l.Dir, name))
		return err == nil
	}
	waits, listens := has(waitingFile), has(socketFile)
	title, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", l.Pid)) // it may have ended
	var titled bool
	l.Address, titled = addressOf(title)
	switch {
	case !has(lockFile):
		return false
	case !holds(l.Pid, l.Dir):
		l.Address, l.State = "", Dead
	case !titled:
		return false
	case !waits:
		l.State = Ending
	case listens:
		l.State = Waiting
	default:
		l.State = Booting
	}
	return true
}

// addressOf is containerd's address in the arguments of a spare (proc_pid_cmdline(5)). Those
// of a daemon are others.
func addressOf(title []byte) (address string, isSpare bool) {
	args := strings.Split(string(title), "\x00")
	if len(args) < 4 || args[1] != "-address" || args[3] != "spare" {
		return "", false
	}
	return args[2], true
}

// holds tells whether it is this process that holds the lock of a spare's directory, and not
// another that has its number now (proc_pid_fdinfo(5), lock).
func holds(pid int, dir string) bool {
	path := filepath.Join(dir, lockFile)
	end := strings.Join(strings.Split(path, "/")[max(0, strings.Count(path, "/")-2):], "/")
	file, err := os.Stat(path)
	if err != nil {
		return false
	}
	process := fmt.Sprintf("/proc/%d", pid)
	descriptors, _ := os.ReadDir(process + "/fd") // it may have ended
	for _, fd := range descriptors {
		open := filepath.Join(process, "fd", fd.Name())
		// Only what has such a name is looked at: to do so may hang with other file systems.
		if name, err := os.Readlink(open); err != nil || !strings.HasSuffix(name, "/"+end) {
			continue
		}
		if same, err := os.Stat(open); err != nil || !os.SameFile(same, file) {
			continue
		}
		info, err := os.ReadFile(filepath.Join(process, "fdinfo", fd.Name()))
		if err == nil && strings.Contains(string(info), "FLOCK") {
			return true
		}
	}
	return false
}

// ErrUsed says that a start was handed over to a spare before it could be ended.
var ErrUsed = errors.New("the spare is a container's now")

// End has a spare end in order, and waits until it has. Whatever comes in between, nothing is
// signalled but the spare, and it only as long as it is no daemon: what holds its lock is held
// by descriptor, and once its place is claimed no start is accepted. One that ends already is
// waited for.
func (l Listed) End(ctx context.Context) error {
	fd, err := unix.PidfdOpen(l.Pid, 0)
	if errors.Is(err, unix.ESRCH) {
		return nil
	}
	if err != nil {
		return os.NewSyscallError("pidfd_open", err)
	}
	defer unix.Close(fd)
	if !holds(l.Pid, l.Dir) {
		return nil // it has ended
	}
	if l.State != Ending {
		if err := claim(l.Dir); errors.Is(err, fs.ErrNotExist) {
			return ErrUsed
		} else if err != nil {
			return err
		}
		if err := unix.PidfdSendSignal(fd, unix.SIGTERM, nil, 0); err != nil && !errors.Is(err, unix.ESRCH) {
			return os.NewSyscallError("pidfd_send_signal", err)
		}
	}
	return l.await(ctx, fd)
}

// await waits for the end of the process of a pidfd, unless it becomes a daemon.
func (l Listed) await(ctx context.Context, fd int) error {
	const interval = 200 * time.Millisecond
	for {
		step, cancel := context.WithTimeout(ctx, interval)
		err := sandbox.AwaitExit(step, fd)
		cancel()
		if !errors.Is(err, context.DeadlineExceeded) || ctx.Err() != nil {
			return err
		}
		title, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", l.Pid))
		if _, isSpare := addressOf(title); !isSpare && len(title) > 0 {
			return ErrUsed
		}
	}
}

// Sweep takes away what dead spares have left below a root.
func Sweep(root string) error {
	all, err := lock(filepath.Join(root, lockFile), unix.LOCK_EX)
	if err != nil {
		return err
	}
	return errors.Join(sweep(root), all.Close())
}
