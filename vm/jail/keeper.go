package jail

import (
	"bytes"
	"errors"
	"fmt"
	"io"
	"math"
	"os"
	"os/exec"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
	"github.com/msb-runtime/containerd-shim-msb/vm/jail/entry"
)

// loading is how long a cooperating process may take to load its libraries.
const loading = 20 * time.Second

// Start starts a process in its jail and returns when it is confined. After an
// error nothing of it is left.
func Start(spec Spec) (*Process, error) {
	p := &Process{output: spec.Output, exited: make(chan struct{})}
	started := make(chan error)
	thread.Go(func() { p.keep(spec, started) })
	if err := <-started; err != nil {
		return nil, err
	}
	return p, nil
}

// keep is the life of a process, on a thread of its own. The death signal comes
// when the *thread* that forked ends (prctl(2), PR_SET_PDEATHSIG), so the thread
// stays until the process is gone; then the mount namespace goes with it.
func (p *Process) keep(spec Spec, started chan<- error) {
	if err := p.start(spec); err != nil {
		started <- err
		return
	}
	started <- nil
	p.wait()
}

func (p *Process) wait() {
	_ = p.cmd.Wait()
	close(p.exited)
}

func (p *Process) start(spec Spec) (err error) {
	// Whatever this process was started with is not for its children.
	if err := unix.CloseRange(FirstFile, math.MaxUint32, unix.CLOSE_RANGE_CLOEXEC); err != nil {
		return os.NewSyscallError("close_range", err)
	}
	if spec.Network != nil {
		if err := unix.Setns(int(spec.Network.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("joining the network namespace: %w", err)
		}
	}
	var root *builtRoot
	if spec.Root != nil {
		if root, err = build(*spec.Root); err != nil {
			return fmt.Errorf("building the jail: %w", err)
		}
		defer root.close()
		if !spec.Cooperates {
			if err := root.enter(); err != nil {
				return err
			}
		}
	}
	if spec.NoSetuidFixup {
		if err := noSetuidFixup(); err != nil {
			return err
		}
	}
	if err := dropCapabilities(spec.Capabilities); err != nil {
		return err
	}
	if spec.NoNewPrivileges {
		if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
			return os.NewSyscallError("prctl(PR_SET_NO_NEW_PRIVS)", err)
		}
	}
	if spec.Filter {
		if err := spareTheShared(); err != nil {
			return err
		}
	}
	control, theirs, err := socketPair()
	if err != nil {
		return err
	}
	defer control.Close()
	err = p.launch(spec, theirs)
	theirs.Close()
	if err != nil {
		return fmt.Errorf("starting %s: %w", spec.Program, err)
	}
	if err := p.confine(spec, root, control); err != nil {
		p.Kill()
		p.wait()
		return err
	}
	return nil
}

// launch forks and executes.
func (p *Process) launch(spec Spec, control *os.File) error {
	return Program{spec.Program, spec.Opened}.execute(func(path string) error {
		p.cmd = command(path, spec, control)
		return p.cmd.Start()
	})
}

// command is what executes a path as the program.
func command(path string, spec Spec, control *os.File) *exec.Cmd {
	cmd := exec.Command(path, spec.Args...)
	cmd.Args[0] = spec.Program
	cmd.Env = []string{"PATH=/usr/sbin:/usr/bin:/sbin:/bin"}
	cmd.Dir = "/"
	cmd.Stdin = bytes.NewReader(spec.Input)
	cmd.Stdout, cmd.Stderr = spec.Output, spec.Output
	cmd.ExtraFiles = spec.Files
	if spec.Cooperates {
		cmd.ExtraFiles = append(cmd.ExtraFiles[:len(spec.Files):len(spec.Files)], control)
		cmd.Env = append(cmd.Env, fmt.Sprintf("%s=%d", entry.Control, FirstFile+len(spec.Files)))
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Pdeathsig: unix.SIGKILL, Cloneflags: spec.Namespaces}
	// Who keeps a pipe of the child open after its end does not keep us.
	cmd.WaitDelay = time.Second
	return cmd
}

// confine does what can only be done to a process that exists, and lets a
// cooperating one go on.
func (p *Process) confine(spec Spec, root *builtRoot, control *os.File) error {
	for _, limit := range spec.Limits {
		value := unix.Rlimit{Cur: limit.Value, Max: limit.Value}
		if err := unix.Prlimit(p.Pid(), limit.Resource, &value, nil); err != nil {
			return fmt.Errorf("limiting resource %d of %s to %d: %w", limit.Resource, spec.name(), limit.Value, err)
		}
	}
	if !spec.Cooperates {
		return nil
	}
	if err := awaitLoaded(control, spec); err != nil {
		return err
	}
	if root != nil {
		if err := root.descriptors(p.Pid()); err != nil {
			return err
		}
		if err := root.enter(); err != nil {
			return err
		}
	}
	return release(control, spec)
}

// dropCapabilities takes from the bounding set of this thread, which its children
// inherit, all that is not to be kept.
func dropCapabilities(keep []uintptr) error {
	if keep == nil {
		return nil
	}
	kept := make(map[uintptr]bool)
	for _, capability := range keep {
		kept[capability] = true
	}
	for capability := uintptr(0); ; capability++ {
		_, err := unix.PrctlRetInt(unix.PR_CAPBSET_READ, capability, 0, 0, 0)
		if errors.Is(err, unix.EINVAL) {
			return nil // the kernel knows no more of them
		}
		if err != nil {
			return os.NewSyscallError("prctl(PR_CAPBSET_READ)", err)
		}
		if kept[capability] {
			continue
		}
		if err := unix.Prctl(unix.PR_CAPBSET_DROP, capability, 0, 0, 0); err != nil {
			return os.NewSyscallError("prctl(PR_CAPBSET_DROP)", err)
		}
	}
}

// Bits of the securebits of a thread (linux/securebits.h).
const secbitNoSetuidFixup = 1 << 2

// noSetuidFixup sets the bit on this thread, whose children inherit it. It takes
// CAP_SETPCAP, which they need not have.
func noSetuidFixup() error {
	bits, err := unix.PrctlRetInt(unix.PR_GET_SECUREBITS, 0, 0, 0, 0)
	if err != nil {
		return os.NewSyscallError("prctl(PR_GET_SECUREBITS)", err)
	}
	if err := unix.Prctl(unix.PR_SET_SECUREBITS, uintptr(bits|secbitNoSetuidFixup), 0, 0, 0); err != nil {
		return os.NewSyscallError("prctl(PR_SET_SECUREBITS)", err)
	}
	return nil
}

func socketPair() (ours, theirs *os.File, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC|unix.SOCK_NONBLOCK, 0)
	if err != nil {
		return nil, nil, os.NewSyscallError("socketpair", err)
	}
	// The other side waits without a poller of its own.
	if err := unix.SetNonblock(fds[1], false); err != nil {
		unix.Close(fds[0])
		unix.Close(fds[1])
		return nil, nil, err
	}
	return os.NewFile(uintptr(fds[0]), "control"), os.NewFile(uintptr(fds[1]), "control"), nil
}

// awaitLoaded reads what the process says: that it has loaded what it needs, or
// why it cannot.
func awaitLoaded(control *os.File, spec Spec) error {
	if err := control.SetReadDeadline(time.Now().Add(loading)); err != nil {
		return err
	}
	word := make([]byte, 1)
	if _, err := io.ReadFull(control, word); err != nil {
		return fmt.Errorf("%s did not get as far as its jail: %w (%w)", spec.name(), err, errdefs.ErrUnavailable)
	}
	if word[0] == entry.Loaded {
		return nil
	}
	reason, err := io.ReadAll(io.LimitReader(control, 4096))
	if err != nil {
		return err
	}
	return fmt.Errorf("%s: %w", reason, errdefs.ErrFailedPrecondition)
}

// release tells the process that it is in its jail, and its filter.
func release(control *os.File, spec Spec) error {
	filter, err := spec.filter()
	if err != nil {
		return err
	}
	answer, err := entry.Answer(filter)
	if err != nil {
		return err
	}
	if _, err := control.Write(answer); err != nil {
		return fmt.Errorf("%s ended before it was in its jail: %w (%w)", spec.name(), err, errdefs.ErrUnavailable)
	}
	return nil
}
