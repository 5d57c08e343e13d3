package sandbox

import (
	"context"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/config"
	"github.com/msb-runtime/containerd-shim-msb/shim/guest"
	"github.com/msb-runtime/containerd-shim-msb/shim/share"
	machines "github.com/msb-runtime/containerd-shim-msb/test/fake"
	"github.com/msb-runtime/containerd-shim-msb/vm"
	"github.com/msb-runtime/containerd-shim-msb/vm/jail"
)

// patience is how long a test waits for what must come.
const patience = time.Minute

// onHostsNetwork is the place of a VM without more, and its driver.
func onHostsNetwork(t *testing.T) (*Prepared, *machines.Driver) {
	t.Helper()
	driver := new(machines.Driver)
	platform := Platform{
		Kit: t.TempDir(), Drivers: []vm.Driver{driver}, BootTimeout: time.Minute, Budgets: guest.DefaultBudgets,
		Placeholder: startPlaceholder,
	}
	var config Config
	config.Network.Host = true
	p, err := Prepare(t.TempDir(), platform, config)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p, driver
}

func nothing(Placeholders) error { return nil }

// When the shield of its files ends, the VM does: before its agent has answered, and later.
func TestShieldBroken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, driver := onHostsNetwork(t)
		driver.Boot = machines.NeverBoots
		began := time.Now()
		_, err := p.Boot(t.Context(), func(Placeholders) error {
			close(p.shield.broken)
			return nil
		})
		if !errors.Is(err, errShieldBroken) || time.Since(began) > time.Second {
			t.Errorf("after %v Boot = %v", time.Since(began), err)
		}
		q, _ := onHostsNetwork(t)
		s, err := q.Boot(t.Context(), nothing)
		if err != nil {
			t.Fatal(err)
		}
		close(q.shield.broken)
		<-s.Done()
		if !errors.Is(s.Err(), errShieldBroken) {
			t.Errorf("the VM ended: %v", s.Err())
		}
	})
}

// A shield that cannot start is an error for whoever needs it, and leaves nothing; what
// never started is closed without.
func TestShieldMissing(t *testing.T) {
	p, _ := onHostsNetwork(t)
	for range 2 {
		if file, err := p.shield.Add("a", nil, nil, ""); file != nil || err == nil {
			t.Errorf("Add = %v", err)
		}
	}
	if err := p.shield.Remove("a"); err == nil {
		t.Error("it removed a file")
	}
	select {
	case <-p.shield.broken:
		t.Error("a shield that never ran is broken")
	default:
	}
	if err := p.shield.close(); err != nil {
		t.Error(err)
	}
}

// A kit without the placeholder's program is incomplete, and the error says what to do.
func TestIncompleteKit(t *testing.T) {
	_, err := startPlaceholder(jail.OpenProgram(filepath.Join(t.TempDir(), placeholderFile)), &jail.Root{Dir: t.TempDir()}, nil)
	if !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), `the guest kit is incomplete, install it with "make install"`) {
		t.Errorf("startPlaceholder = %v", err)
	}
	kit := t.TempDir()
	if err := os.WriteFile(filepath.Join(kit, placeholderFile), []byte("no program"), 0o700); err != nil {
		t.Fatal(err)
	}
	program := jail.OpenProgram(filepath.Join(kit, placeholderFile))
	defer program.Close()
	if process, err := startPlaceholder(program, &jail.Root{Dir: t.TempDir()}, nil); err == nil || errdefs.IsFailedPrecondition(err) {
		t.Errorf("startPlaceholder = %v, %v", process, err)
	}
	p, _ := onHostsNetwork(t)
	s, err := p.Boot(t.Context(), func(stands Placeholders) error {
		_, err := stands.ForPod()
		return err
	})
	if s != nil || !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Boot = %v", err)
	}
}

// The platform is what the configuration says; a network that is not there is none.
func TestPlatformOf(t *testing.T) {
	var given config.Config
	given.Kit, given.Driver, given.VM.BootTimeout = "/kit", "qemu", config.Duration(7*time.Second)
	platform := PlatformOf(given)
	if platform.Kit != "/kit" || platform.BootTimeout != 7*time.Second || platform.Budgets != guest.DefaultBudgets || len(platform.Drivers) != 1 {
		t.Errorf("%+v", platform)
	}
	if network, err := platform.OpenNetwork(platform.Mounts, "/nowhere"); network != nil || err == nil {
		t.Errorf("OpenNetwork = %v, %v", network, err)
	}
}

// The score is the container's, or left alone; one that cannot be set is an error.
func TestAdjustOOMScore(t *testing.T) {
	score := func(n int) *int { return &n }
	for name, c := range map[string]struct {
		pid   int
		score *int
		fails bool
	}{
		"none":         {1 << 23, nil, false},
		"no process":   {1 << 23, score(1), true},
		"out of range": {os.Getpid(), score(1001), true},
	} {
		err := adjustOOMScore(context.Background(), c.pid, c.score)
		if failed := err != nil && strings.HasPrefix(err.Error(), "process.oomScoreAdj: "); failed != c.fails {
			t.Errorf("%s: %v", name, err)
		}
	}
}

// A shield that is closed before it has started does not start any more: nobody would end it.
func TestShieldClosedBefore(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "shield")
	s := newShield(jail.Program{Path: "/nonexistent"}, dir)
	if err := s.close(); err != nil {
		t.Fatal(err)
	}
	if _, err := s.Add("name", nil, nil, ""); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Add = %v", err)
	}
	if err := s.Remove("name"); !errdefs.IsFailedPrecondition(err) {
		t.Errorf("Remove = %v", err)
	}
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("its directory: %v", err)
	}
}

// When what is to be hidden cannot be hidden any more, the VM ends.
func TestVM33NotHidden(t *testing.T) {
	p, _ := onHostsNetwork(t)
	s, err := p.Boot(t.Context(), nothing)
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.WriteFile(filepath.Join(dir, ".env"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	source, err := p.OpenSource(dir)
	if err != nil {
		t.Fatal(err)
	}
	defer source.Close()
	shared, err := p.Trees.Add(source, share.Attributes{Hidden: share.Hide([]string{".env"}, nil)})
	if err != nil {
		t.Fatal(err)
	}
	// The share is taken out of the keeper's sight.
	place := filepath.Join(p.bundle, TreesDir, "pool", shared.Tag)
	if err := errors.Join(unix.Unmount(place, unix.MNT_DETACH), os.Remove(place)); err != nil {
		t.Fatal(err)
	}
	select {
	case <-s.Done():
	case <-time.After(patience):
		t.Fatal("the VM goes on")
	}
	if err := s.Err(); err == nil || !strings.Contains(err.Error(), "to be hidden in a mounted directory cannot be any more") {
		t.Errorf("the VM ended for %v", err)
	}
}
