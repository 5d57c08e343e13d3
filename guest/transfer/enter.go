package transfer

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
)

// Enter returns what runs a function on a thread in the mount namespace of a container,
// which stays until done is called.
func (r *Roots) Enter(container string) (in func(func() error) error, done func(), err error) {
	kept, err := r.use(container)
	if err != nil {
		return nil, nil, err
	}
	in = func(f func() error) error { return r.guide.in(kept.namespace, f) }
	return in, kept.transferring.Done, nil
}

// A guide is a thread that enters the namespaces of containers, and comes back. It stays for
// as long as the agent does: a thread that ended could be one from which crun was started,
// which the kernel would then kill (prctl(2), PR_SET_PDEATHSIG).
type guide struct {
	once sync.Once
	own  *os.File // the agent's mount namespace
	err  error    // of the thread's start
	jobs chan func()
}

// in runs f in a mount namespace.
func (g *guide) in(namespace *os.File, f func() error) error {
	g.once.Do(g.start)
	if g.err != nil {
		return g.err
	}
	result := make(chan error)
	g.jobs <- func() { result <- g.visit(namespace, f) }
	return <-result
}

func (g *guide) start() {
	if g.own, g.err = os.Open("/proc/self/ns/mnt"); g.err != nil {
		return
	}
	g.jobs = make(chan func())
	started := make(chan error)
	thread.Go(func() {
		// A thread that shares its root with others cannot change it (setns(2)).
		started <- os.NewSyscallError("unshare", unix.Unshare(unix.CLONE_FS))
		for job := range g.jobs {
			job()
		}
	})
	g.err = <-started
}

// visit is called on the guide's thread.
func (g *guide) visit(namespace *os.File, f func() error) (err error) {
	if err := unix.Setns(int(namespace.Fd()), unix.CLONE_NEWNS); err != nil {
		return fmt.Errorf("entering a container's mount namespace: %w", os.NewSyscallError("setns", err))
	}
	defer func() {
		if failed := unix.Setns(int(g.own.Fd()), unix.CLONE_NEWNS); failed != nil {
			err = errors.Join(err, fmt.Errorf("leaving a container's mount namespace: %w", os.NewSyscallError("setns", failed)))
		}
	}()
	return f()
}
