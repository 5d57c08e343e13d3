package sandbox_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
	"github.com/msb-runtime/containerd-shim-msb/test/fake"
	"github.com/msb-runtime/containerd-shim-msb/vm"
)

// A sandbox has all of its parts, and the record of them; Close takes them away in the
// opposite order.
func TestLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlace(t)
		p.config.Network.Path = "/run/netns/n"
		p.config.Users = spec.IDMap{UIDs: []specs.LinuxIDMapping{{ContainerID: 1, HostID: 2, Size: 3}}}
		score := 1000
		p.config.OOMScoreAdj = &score
		p.driver.Pid = victim(t)
		prepared := p.prepare()
		if prepared.Budgets() != p.platform.Budgets || prepared.Size() != p.config.Size || !prepared.Users().Equal(p.config.Users) {
			t.Error("the place is not as it was asked for")
		}
		var pod sandbox.Process
		s, err := prepared.Boot(t.Context(), func(stands sandbox.Placeholders) (err error) {
			pod, err = stands.ForPod()
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if !s.Running() || s.Err() != nil || s.Pid() != p.driver.Pid || pod.Pid() != 1000 {
			t.Errorf("running %v, %v, process %d", s.Running(), s.Err(), s.Pid())
		}
		container, err := s.ForContainer("rf_1")
		if err != nil || p.stands[0].root != "/msb" || p.stands[1].root != "/msb/pool.served/rf_1" {
			t.Errorf("placeholders at %q and %q, %v", p.stands[0].root, p.stands[1].root, err)
		}
		wantRecord(t, p)
		wantConfig(t, p)
		container.End(0)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		want := "[placeholder with a VM placeholder with a VM network with no VM]"
		if got := fmt.Sprint(p.ended); got != want {
			t.Errorf("undone: %s, want %s", got, want)
		}
		if s.Running() || s.Err() != nil {
			t.Errorf("after Close: running %v, %v", s.Running(), s.Err())
		}
	})
}

func wantRecord(t *testing.T, p *place) {
	t.Helper()
	record, err := sandbox.ReadRecord(p.bundle)
	if err != nil || record.Pid != p.driver.Pid || record.Start == "" || record.Network != p.config.Network.Path {
		t.Errorf("the record: %+v, %v", record, err)
	}
	score, err := os.ReadFile(fmt.Sprintf("/proc/%d/oom_score_adj", p.driver.Pid))
	if err != nil || strings.TrimSpace(string(score)) != "1000" {
		t.Errorf("the VMM's oom_score_adj is %s, %v", score, err)
	}
}

func wantConfig(t *testing.T, p *place) {
	t.Helper()
	config := p.machine().Config()
	if config.Kernel != "/kit/vmlinux" || config.Disk != "/kit/guest.erofs" || config.Init != api.Init || config.CPUs != 2 || config.Memory != 64<<20 {
		t.Errorf("the machine: %+v", config)
	}
	if dirs := config.Shares; len(dirs) != 2 || dirs[0].Tag != api.PoolTag || !dirs[0].Submounts || dirs[1].Tag != api.FilesTag {
		t.Errorf("the shares: %+v", dirs)
	}
	if _, err := os.Stat(config.Dir); err != nil {
		t.Error(err)
	}
	starts := fake.Requests[*api.StartRequest](p.machine().Agent)
	if len(starts) != 1 || starts[0].Users.Uids[0].Guest != 2 || starts[0].Now == nil {
		t.Errorf("the agent was started with %v", starts)
	}
	if p.network.path != p.config.Network.Path || p.network.followed != 1 || p.network.synced != 1 {
		t.Errorf("the network: %+v", p.network)
	}
}

// agent has a new machine's agent behave so from the first call on.
func agent(call string, behaviour fake.Behaviour) func(*place) {
	return func(p *place) {
		p.driver.Prepare = func(m *fake.Machine) { m.Agent.On(call, behaviour) }
	}
}

// speaks prints on the console and then does what a Boot does.
func speaks(boot fake.Boot) fake.Boot {
	return func(ctx context.Context, m *fake.Machine) error {
		m.Agent.Console("starting\nlast words\n")
		return boot(ctx, m)
	}
}

var errRefused = fmt.Errorf("refused: %w", errdefs.ErrResourceExhausted)

// bootFailures are the ways in which a boot can fail, and what is to be read of each.
var bootFailures = map[string]struct {
	change func(*place)
	want   string
	class  error
}{
	"the network": {func(p *place) { p.network.openErr = errRefused }, "refused", errdefs.ErrResourceExhausted},
	"the driver's check": {func(p *place) {
		p.driver.Checking = func(context.Context) error { return fmt.Errorf("no KVM: %w", errdefs.ErrFailedPrecondition) }
	}, "driver fake: no KVM", errdefs.ErrFailedPrecondition},
	"the driver's start": {func(p *place) {
		p.driver.Starting = func(context.Context, vm.Config) error { return errRefused }
	}, "driver fake: refused", errdefs.ErrResourceExhausted},
	"a VMM that is gone": {func(p *place) { p.driver.Pid = 1<<22 + 1 }, "has ended before its VM was used", errdefs.ErrUnavailable},
	"a score that there is not": {func(p *place) {
		score := 5000
		p.config.OOMScoreAdj = &score
	}, "process.oomScoreAdj", nil},
	"the boot takes too long": {
		func(p *place) { p.driver.Boot = speaks(fake.NeverBoots) },
		"booting the VM (driver fake): the agent did not answer within 1m0s (vm.boot_timeout): unavailable; the last lines of its console: starting | last words", errdefs.ErrUnavailable,
	},
	"the machine dies": {
		func(p *place) { p.driver.Boot = speaks(fake.DiesBooting(nil)) },
		"booting the VM (driver fake): fake ended (killed); the last lines of its console: starting | last words", errdefs.ErrUnavailable,
	},
	"the agent refuses":     {agent("Stream.Control", fake.Fail(errors.New("\x1b[2J not now"))), "[2J not now", errdefs.ErrUnavailable},
	"the agent is silent":   {agent("Guest.Start", fake.Hang), "did not answer within 1m0s", errdefs.ErrUnavailable},
	"the agent does not":    {agent("Guest.Start", fake.Fail(errRefused)), "refused", errdefs.ErrResourceExhausted},
	"the agent dies":        {agent("Guest.Start", fake.Die), "fake ended (killed)", errdefs.ErrUnavailable},
	"following the network": {func(p *place) { p.network.followErr = errRefused }, "refused", errdefs.ErrResourceExhausted},
	"the first sync":        {func(p *place) { p.network.syncErr = errRefused }, "refused", errdefs.ErrResourceExhausted},
	"the guest's network":   {agent("SetNetwork", fake.Fail(errRefused)), "refused", errdefs.ErrResourceExhausted},
	"it takes for ever":     {agent("SetNetwork", fake.Hang), "the guest did not answer SetNetwork within 2m0s", errdefs.ErrUnavailable},
	"the host's network": {func(p *place) {
		p.config.Network.Host = true
		agent("SetNetwork", fake.Fail(errRefused))(p)
	}, "refused", errdefs.ErrResourceExhausted},
}

// A boot that fails says why, and Close leaves nothing of it.
func TestBootFailures(t *testing.T) {
	for name, c := range bootFailures {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPlace(t)
				c.change(p)
				prepared := p.prepare()
				s, err := prepared.Boot(t.Context(), func(stands sandbox.Placeholders) error {
					_, err := stands.ForPod()
					return err
				})
				if s != nil || err == nil || !strings.Contains(err.Error(), c.want) || c.class != nil && !errors.Is(err, c.class) {
					t.Errorf("Boot = %v, want %q (%v)", err, c.want, c.class)
				}
				if strings.Contains(fmt.Sprint(err), "\x1b") {
					t.Errorf("what the guest says is not printable: %q", err)
				}
				if err := prepared.Close(); err != nil {
					t.Errorf("Close = %v", err)
				}
				p.wantNothing()
			})
		})
	}
}

// The agent has as long as is configured, and not longer.
func TestBootTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlace(t)
		p.platform.BootTimeout = 42 * time.Second
		p.driver.Boot = fake.BootsAfter(41 * time.Second)
		if s := p.boot(); !s.Running() {
			t.Error("it does not run")
		}
		q := newPlace(t)
		q.platform.BootTimeout = 42 * time.Second
		q.driver.Boot = fake.BootsAfter(time.Hour)
		began := time.Now()
		if _, err := q.prepare().Boot(t.Context(), nothingBeside); err == nil {
			t.Error("it booted too late")
		}
		if took := time.Since(began); took != 43*time.Second { // with what it waits for the VM's end
			t.Errorf("it took %v", took)
		}
	})
}

// Who asked for a boot may leave, and is told its own reason.
func TestBootCancelled(t *testing.T) {
	left := errors.New("containerd has lost interest")
	for name, change := range map[string]func(*place){
		"before the agent answers": func(p *place) { p.driver.Boot = fake.NeverBoots },
		"while it starts":          agent("Guest.Start", fake.Hang),
		"while it has no network":  agent("SetNetwork", fake.Hang),
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPlace(t)
				change(p)
				ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, left)
				defer cancel()
				began := time.Now()
				if _, err := p.prepare().Boot(ctx, nothingBeside); !errors.Is(err, left) {
					t.Errorf("Boot = %v", err)
				}
				if took := time.Since(began); took > 2*time.Second {
					t.Errorf("it took %v", took)
				}
			})
		})
	}
}

// What goes on beside the boot can fail it, and is waited for when the boot fails.
func TestLaunched(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlace(t)
		if _, err := p.prepare().Boot(t.Context(), func(sandbox.Placeholders) error { return errRefused }); !errors.Is(err, errRefused) {
			t.Errorf("Boot = %v", err)
		}
		q := newPlace(t)
		q.driver.Boot = fake.DiesBooting(nil)
		over := false
		_, err := q.prepare().Boot(t.Context(), func(sandbox.Placeholders) error {
			time.Sleep(time.Hour)
			over = true
			return errRefused
		})
		if !over || !strings.Contains(err.Error(), "fake ended") {
			t.Errorf("it ended %v, Boot = %v", over, err)
		}
	})
}

// A place that cannot be made leaves nothing.
func TestPrepareFailures(t *testing.T) {
	for name, change := range map[string]func(*place) error{
		"no bundle":        func(p *place) error { return os.Remove(p.bundle) },
		"no control group": func(p *place) error { p.config.CgroupsPath = "a:b"; return nil },
		"a file in the way": func(p *place) error {
			return os.WriteFile(filepath.Join(p.bundle, "msb"), nil, 0o600)
		},
	} {
		t.Run(name, func(t *testing.T) {
			p := newPlace(t)
			if err := change(p); err != nil {
				t.Fatal(err)
			}
			if prepared, err := sandbox.Prepare(p.bundle, p.platform, p.config); err == nil {
				t.Error("it was prepared", prepared.Close())
			}
			p.wantNothing()
		})
	}
}

// The driver's directory is nobody else's.
func TestDriversDirectory(t *testing.T) {
	p := newPlace(t)
	prepared := p.prepare()
	if err := os.Mkdir(filepath.Join(p.bundle, "msb", "vm"), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := prepared.Boot(t.Context(), nothingBeside); !errors.Is(err, os.ErrExist) || p.machine() != nil {
		t.Errorf("Boot = %v", err)
	}
}
