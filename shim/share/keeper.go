package share

import (
	"errors"
	"fmt"
	"maps"
	"os"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
)

// keeper covers hidden paths again. A cover is on a thing, not on a name: what is renamed on
// the host takes its cover along, and when a thing is removed there, or something is renamed
// over it, as editors save, the kernel takes the cover away (rename(2) of a mount point of
// another mount namespace, since Linux 3.18). Both leave what has the name next uncovered.
//
// The kernel tells of a mount that has gone at once (proc_pid_mountinfo(5), poll). Of a name
// that moved on it does not tell, so the paths are looked at now and then, too.
type keeper struct {
	covers   *covers
	interval time.Duration
	broken   chan error // has room for one

	mu     sync.Mutex
	shares map[string]Hidden // by where they are; guarded by mu
	wake   *os.File          // an eventfd; nil until there is a share; guarded by mu
	closed bool              // guarded by mu
}

// keepInterval is how long a hidden name may be of something that is not covered. After a
// mount has come or gone it is looked again after keepSoon, and then after twice as long as
// before: what was removed is often made anew. To look at all of many takes long; the keeper
// then rests, keepRest times as long while there are changes, keepPause times as long
// otherwise.
const (
	keepInterval = time.Second
	keepSoon     = time.Millisecond
	keepRest     = 10
	keepPause    = 100
)

func newKeeper(covers *covers) *keeper {
	return &keeper{covers: covers, interval: keepInterval, broken: make(chan error, 1), shares: make(map[string]Hidden)}
}

// Broken has an error when something that was to be hidden cannot be hidden again. The VM
// should be ended.
func (t *Trees) Broken() <-chan error { return t.keeper.broken }

// keep hides what is hidden in a share that is in its place from now on, until close.
func (k *keeper) keep(at string, hidden Hidden) error {
	if err := k.start(at, hidden); err != nil {
		return err
	}
	return classify(k.covers.hide(at, hidden))
}

func (k *keeper) start(at string, hidden Hidden) error {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.closed {
		return fmt.Errorf("the VM was stopped: %w", errdefs.ErrFailedPrecondition)
	}
	k.shares[at] = hidden
	if k.wake != nil {
		return nil
	}
	mounts, err := openMounts()
	if err != nil {
		return err
	}
	wake, err := unix.Eventfd(0, unix.EFD_CLOEXEC)
	if err != nil {
		return errors.Join(os.NewSyscallError("eventfd", err), mounts.Close())
	}
	k.wake = os.NewFile(uintptr(wake), "eventfd")
	go k.run(mounts)
	return nil
}

// openMounts opens the list of this namespace's mounts. Not with os.Open, which has Go's
// runtime poll it: a change is told to one who polls, and to no other.
func openMounts() (*os.File, error) {
	const path = "/proc/self/mountinfo"
	fd, err := unix.Open(path, unix.O_RDONLY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, &os.PathError{Op: "open", Path: path, Err: err}
	}
	return os.NewFile(uintptr(fd), path), nil
}

// close ends the keeper, without waiting for a file system that does not answer.
func (k *keeper) close() {
	k.mu.Lock()
	defer k.mu.Unlock()
	if k.wake != nil && !k.closed {
		_, _ = k.wake.Write([]byte{1, 0, 0, 0, 0, 0, 0, 0})
	}
	k.closed = true
	clear(k.shares)
}

// run looks at all shares whenever a mount has come or gone, and now and then.
func (k *keeper) run(mounts *os.File) {
	defer mounts.Close()
	defer k.wake.Close()
	stop := unix.PollFd{Fd: int32(k.wake.Fd()), Events: unix.POLLIN}
	change := unix.PollFd{Fd: int32(mounts.Fd()), Events: unix.POLLPRI}
	pause := keepSoon
	for {
		start := time.Now()
		replaced, err := k.pass()
		if err != nil {
			k.broken <- err
			return
		}
		took := time.Since(start)
		if stopped, _ := wait(keepRest*took, stop); stopped {
			return
		}
		stopped, changed := wait(pause, stop, change)
		switch {
		case stopped:
			return
		case changed, replaced:
			pause = keepSoon
		default:
			pause = min(2*pause, max(k.interval, keepPause*took))
		}
	}
}

// wait waits for something, and tells whether it is the first, or another.
func wait(timeout time.Duration, fds ...unix.PollFd) (first, other bool) {
	// An error is an interruption, or want of memory: what then follows is a look too many.
	n, _ := unix.Poll(fds, int(timeout.Milliseconds()))
	first = fds[0].Revents != 0
	return first, n > 0 && !first
}

// pass covers what is not covered in any share, and tells whether something is replaced all
// the time.
func (k *keeper) pass() (replaced bool, err error) {
	k.mu.Lock()
	shares := maps.Clone(k.shares)
	k.mu.Unlock()
	for at, hidden := range shares {
		again, err := k.covers.again(at, hidden)
		if err != nil && k.has(at) {
			return false, fmt.Errorf("what is to be hidden in a mounted directory cannot be any more: %w", err)
		}
		replaced = replaced || again
	}
	return replaced, nil
}

// has tells whether a share is still to be kept.
func (k *keeper) has(at string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	_, kept := k.shares[at]
	return kept
}
