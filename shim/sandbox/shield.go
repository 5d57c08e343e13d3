package sandbox

import (
	"errors"
	"fmt"
	"os"
	"sync"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/msb-runtime/containerd-shim-msb/shim/share"
	"github.com/msb-runtime/containerd-shim-msb/shim/shield"
	"github.com/msb-runtime/containerd-shim-msb/vm"
	"github.com/msb-runtime/containerd-shim-msb/vm/jail"
)

var errShieldBroken = fmt.Errorf("msb-shield, which serves the mounted files, has ended: %w", errdefs.ErrUnavailable)

// shieldOnDemand is the VM's shield. It starts with the first file that needs it:
// most containers have none.
type shieldOnDemand struct {
	program jail.Program  // msb-shield
	dir     string        // where it is mounted
	broken  chan struct{} // closed when it has ended before close

	mu     sync.Mutex
	shield *shield.Shield
	closed bool
}

var _ share.Shield = (*shieldOnDemand)(nil)

func newShield(program jail.Program, dir string) *shieldOnDemand {
	return &shieldOnDemand{program: program, dir: dir, broken: make(chan struct{})}
}

// Add implements share.Shield.
func (s *shieldOnDemand) Add(name string, file, dir *os.File, base string) (*os.File, error) {
	running, err := s.start()
	if err != nil {
		return nil, err
	}
	return running.Add(name, file, dir, base)
}

// AddFixed implements share.Shield.
func (s *shieldOnDemand) AddFixed(name string, file *os.File) (*os.File, error) {
	running, err := s.start()
	if err != nil {
		return nil, err
	}
	return running.AddFixed(name, file)
}

// Remove implements share.Shield.
func (s *shieldOnDemand) Remove(name string) error {
	running, err := s.start()
	if err != nil {
		return err
	}
	return running.Remove(name)
}

func (s *shieldOnDemand) start() (*shield.Shield, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.shield != nil {
		return s.shield, nil
	}
	if s.closed { // while a container was still being given its files
		return nil, fmt.Errorf("the VM was stopped: %w", errdefs.ErrFailedPrecondition)
	}
	if err := os.Mkdir(s.dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	console := vm.NewConsole(func(line string) { log.L.WithField("source", "msb-shield").Info(line) })
	running, err := shield.Start(s.program, s.dir, console)
	if err != nil {
		return nil, err
	}
	s.shield = running
	go s.watch(running)
	return running, nil
}

// watch tells when the shield has ended by itself: files of a container answer
// nothing but errors from then on.
func (s *shieldOnDemand) watch(running *shield.Shield) {
	<-running.Done()
	s.mu.Lock()
	closed := s.closed
	s.mu.Unlock()
	if !closed {
		close(s.broken)
	}
}

// close ends the shield, if it runs.
func (s *shieldOnDemand) close() error {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closed = true
	if s.shield == nil {
		return nil
	}
	return s.shield.Close()
}
