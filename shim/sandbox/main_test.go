package sandbox_test

import (
	"context"
	"errors"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/log"
	"github.com/moby/sys/mountinfo"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/guest"
	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
	"github.com/msb-runtime/containerd-shim-msb/shim/network"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
	"github.com/msb-runtime/containerd-shim-msb/test/fake"
	"github.com/msb-runtime/containerd-shim-msb/test/rig"
	"github.com/msb-runtime/containerd-shim-msb/vm"
	"github.com/msb-runtime/containerd-shim-msb/vm/jail"
)

func TestMain(m *testing.M) {
	log.L.Logger.SetOutput(io.Discard)
	rig.Main(m)
}

// A place is what a test makes sandboxes of, on the fake machine. What a test changes, it
// changes before the sandbox is prepared.
type place struct {
	t        *testing.T
	bundle   string
	driver   *fake.Driver
	platform sandbox.Platform
	config   sandbox.Config
	network  *join

	mu     sync.Mutex
	stands []*stand // guarded by mu
	ended  []string // what was undone, in order; guarded by mu
}

func newPlace(t *testing.T) *place {
	p := &place{
		t: t, bundle: t.TempDir(), driver: new(fake.Driver),
		config: sandbox.Config{Size: spec.Size{CPUs: 2, Memory: 64 << 20}},
	}
	p.network = &join{place: p}
	p.platform = sandbox.Platform{
		Kit: "/kit", Drivers: []vm.Driver{p.driver}, BootTimeout: time.Minute, Budgets: guest.DefaultBudgets,
		OpenNetwork: func(_ mountns.Namespace, path string) (sandbox.Network, error) {
			p.network.path, p.network.open = path, true
			return p.network, p.network.openErr
		},
		Placeholder: p.placeholder,
	}
	t.Cleanup(p.wantNothing)
	return p
}

// prepare makes the sandbox's place, which is closed with the test at the latest.
func (p *place) prepare() *sandbox.Prepared {
	p.t.Helper()
	prepared, err := sandbox.Prepare(p.bundle, p.platform, p.config)
	if err != nil {
		p.t.Fatal(err)
	}
	p.t.Cleanup(func() {
		if err := prepared.Close(); err != nil {
			p.t.Errorf("Close = %v", err)
		}
	})
	return prepared
}

func (p *place) boot() *sandbox.Sandbox {
	p.t.Helper()
	booted, err := p.prepare().Boot(p.t.Context(), nothingBeside)
	if err != nil {
		p.t.Fatal(err)
	}
	return booted
}

func nothingBeside(sandbox.Placeholders) error { return nil }

// machine is the last that was started; nil if none was.
func (p *place) machine() *fake.Machine {
	if all := p.driver.Machines(); len(all) > 0 {
		return all[len(all)-1]
	}
	return nil
}

// undone notes that something was taken away, and whether the machine ran then.
func (p *place) undone(what string) {
	running := "no VM"
	if machine := p.machine(); machine != nil {
		select {
		case <-machine.Done():
		default:
			running = "a VM"
		}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	p.ended = append(p.ended, what+" with "+running)
}

// wantNothing fails the test if anything of a sandbox is left.
func (p *place) wantNothing() {
	p.t.Helper()
	mounts, err := mountinfo.GetMounts(mountinfo.PrefixFilter(p.bundle))
	if err != nil || len(mounts) > 0 {
		p.t.Errorf("%d mounts are left, %v", len(mounts), err)
	}
	entries, err := os.ReadDir(p.bundle)
	if err != nil && !errors.Is(err, os.ErrNotExist) || len(entries) > 0 {
		p.t.Errorf("in the bundle are left: %v, %v", entries, err)
	}
	for _, machine := range p.driver.Machines() {
		select {
		case <-machine.Done():
		default:
			p.t.Error("a machine is left")
		}
	}
	for _, stand := range p.stands {
		if !stand.over {
			p.t.Errorf("placeholder %d is left", stand.pid)
		}
	}
	if p.network.open && p.network.openErr == nil {
		p.t.Error("the network is left")
	}
}

// A join is a network that is none.
type join struct {
	place                       *place
	path                        string
	open                        bool
	openErr, followErr, syncErr error
	network                     vm.Network
	synced, followed            int
}

func (j *join) VM() vm.Network { return j.network }

func (j *join) Follow(context.Context, network.Guest) error {
	j.followed++
	return j.followErr
}

func (j *join) Sync(ctx context.Context, guest network.Guest) error {
	j.synced++
	if j.syncErr != nil {
		return j.syncErr
	}
	_, err := guest.SetNetwork(ctx, &api.SetNetworkRequest{})
	return err
}

func (j *join) Move(_ mountns.Namespace, path string) error {
	j.path = path
	return j.openErr
}

func (j *join) Close() error {
	j.open = false
	j.place.undone("network")
	return nil
}

// A stand is a placeholder that is no process.
type stand struct {
	place *place
	pid   int
	root  string
	over  bool
}

func (p *place) placeholder(_ jail.Program, root *jail.Root, _ *os.File) (sandbox.Process, error) {
	p.mu.Lock()
	defer p.mu.Unlock()
	s := &stand{place: p, pid: 1000 + len(p.stands), root: strings.TrimPrefix(root.Dir, p.bundle)}
	p.stands = append(p.stands, s)
	return s, nil
}

func (s *stand) Pid() int                { return s.pid }
func (s *stand) Exited() <-chan struct{} { return nil }

func (s *stand) End(time.Duration) {
	s.over = true
	s.place.undone("placeholder")
}
