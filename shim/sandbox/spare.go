package sandbox

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"sync"

	"github.com/containerd/log"

	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
	"github.com/msb-runtime/containerd-shim-msb/shim/trace"
	"github.com/msb-runtime/containerd-shim-msb/shim/undo"
)

// A Spare is a VM that has booted before anybody needed it. No container was ever in it, and
// nothing is shared with it. It becomes the VM of one bundle, or is closed. A nil Spare is
// none.
type Spare struct {
	sandbox *Sandbox

	mu    sync.Mutex
	taken bool // guarded by mu
}

// BootSpare boots a spare of a size, with a network namespace of its own. Its trees are below
// dir, which is the caller's, for as long as the VM lives; then remove is called, after an
// error, too.
func BootSpare(ctx context.Context, dir string, remove func() error, platform Platform, size spec.Size) (_ *Spare, err error) {
	// Nobody waits for it, and it boots with a low priority: until it is used, its guest has
	// for each call what it has for the boot.
	platform.Budgets = platform.Budgets.AtLeast(platform.BootTimeout)
	p := &Prepared{
		dir: filepath.Join(dir, TreesDir), platform: platform, config: Config{Size: size},
		record: Record{Spare: dir}, undo: new(undo.Stack),
	}
	p.undo.Add(remove)
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	if err := p.openTrees(); err != nil {
		return nil, err
	}
	s, console, err := p.launch(ctx)
	if err != nil {
		return nil, err
	}
	defer s.endWith(ctx)()
	if err := s.connectExplained(ctx, console); err != nil {
		return nil, err
	}
	if err := s.warm(ctx); err != nil {
		return nil, err
	}
	p.spare = s
	return &Spare{sandbox: s}, nil
}

// Done is closed when the VM has ended.
func (s *Spare) Done() <-chan struct{} { return s.sandbox.Done() }

// lives tells whether the VM has not ended. Done tells that, too, but later.
func (s *Spare) lives() bool { return s.sandbox.Running() && runs(s.sandbox.Pid()) }

// Close ends the spare, if it has not become the VM of a bundle.
func (s *Spare) Close() error {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	taken := s.taken
	s.taken = true
	s.mu.Unlock()
	if taken {
		return nil
	}
	return s.sandbox.Close()
}

// take is the spare's place, once, for a VM that is to be as config says; nil if there is
// none, or if it does not fit and was closed. "start" looks for one only for what it knows to
// fit. It does not know what a sandbox of the Sandbox API is to have.
func (s *Spare) take(config Config) *Prepared {
	if s == nil {
		return nil
	}
	if !s.fits(config) {
		if err := s.Close(); err != nil {
			log.L.WithError(err).Warn("ending a spare that does not fit")
		}
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.taken {
		return nil
	}
	s.taken = true
	return s.sandbox.Prepared
}

func (s *Spare) fits(config Config) bool {
	return s.lives() && config.Size == s.sandbox.Size() && config.TakesSpare()
}

// TakesSpare tells whether a VM of the size that has booted already can be the one that config
// says: not with the host's network or a user namespace, which are decided when a VM boots.
func (c Config) TakesSpare() bool { return !c.Network.Host && c.Users.IsZero() }

// become makes the place of a spare that of a bundle's VM. VMM and file servers move into its
// control group, too. What is made for the bundle is undone after what the spare had.
func (p *Prepared) become(bundle string, platform Platform, config Config) error {
	p.platform = platform
	spares := p.undo
	p.undo = new(undo.Stack)
	defer func() { p.undo.Add(spares.Run) }()
	others, err := Descendants(os.Getpid())
	if err != nil {
		return fmt.Errorf("finding the processes of a spare: %w", err)
	}
	return p.claim(bundle, config, others...)
}

// bootSpare is Boot of a VM that runs: what is its bundle's is joined with it.
func (p *Prepared) bootSpare(ctx context.Context, launched func(Placeholders) error) (_ *Sandbox, err error) {
	ctx, phase := trace.Begin(ctx, "spare")
	defer phase.End(&err)
	s := p.spare
	defer s.endWith(ctx)()
	s.Guest.SetBudgets(p.platform.Budgets)
	if err := s.own(ctx); err != nil {
		return nil, err
	}
	if err := s.moveNetwork(); err != nil {
		return nil, err
	}
	if err := launched(s.Placeholders); err != nil {
		return nil, err
	}
	return s, s.connectNetwork(ctx)
}

// moveNetwork takes the VM's network into the namespace that its bundle names, if it does.
func (s *Sandbox) moveNetwork() error {
	if path := s.config.Network.Path; path != "" {
		if err := s.network.joined.Move(s.platform.Mounts, path); err != nil {
			return err
		}
		s.network.vm = s.network.joined.VM()
		s.Placeholders = s.placeholders(s.network)
	}
	return nil
}
