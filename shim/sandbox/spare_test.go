package sandbox_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"
	"testing/synctest"
	"time"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"
	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/config"
	"github.com/msb-runtime/containerd-shim-msb/shim/count"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
	"github.com/msb-runtime/containerd-shim-msb/test/fake"
)

// bootSpare has a spare boot, in a directory that it returns.
func (p *place) bootSpare() string {
	p.t.Helper()
	dir := filepath.Join(p.t.TempDir(), "spare")
	if err := os.Mkdir(dir, 0o700); err != nil {
		p.t.Fatal(err)
	}
	var err error
	p.platform.Spare, err = sandbox.BootSpare(p.t.Context(), dir, func() error { return os.Remove(dir) }, p.platform, p.config.Size)
	if err != nil {
		p.t.Fatal(err)
	}
	return dir
}

func wantGone(t *testing.T, dir string) {
	t.Helper()
	if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("%s is left: %v", dir, err)
	}
}

// A spare becomes a bundle's VM: it has the bundle's record, network and placeholders, and no
// other VM boots. At the end nothing is left in either place.
func TestSpare(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlace(t)
		p.driver.Pid = victim(t)
		dir := p.bootSpare()
		p.config.Network.Path = "/run/netns/n"
		prepared := p.prepare()
		s, err := prepared.Boot(t.Context(), func(stands sandbox.Placeholders) error {
			_, err := stands.ForPod()
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		if len(p.driver.Machines()) != 1 || !s.Running() || p.network.path != "/run/netns/n" || p.network.followed != 1 {
			t.Errorf("%d machines, running %v, network %q", len(p.driver.Machines()), s.Running(), p.network.path)
		}
		record, err := sandbox.ReadRecord(p.bundle)
		if err != nil || record.Pid != p.driver.Pid || record.Spare != dir || record.Network != "/run/netns/n" {
			t.Errorf("the record: %+v, %v", record, err)
		}
		if vm := s.Origin(config.Spare{Count: 1}); vm != count.Spare {
			t.Errorf("its start is counted as %d", vm)
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
		wantGone(t, dir)
		if got := fmt.Sprint(p.ended); got != "[placeholder with a VM network with no VM]" {
			t.Errorf("undone: %s", got)
		}
		if err := p.platform.Spare.Close(); err != nil {
			t.Errorf("closing a spare that was used: %v", err)
		}
	})
}

// Before it is used, a guest has been asked to make and delete one container of its own disk,
// and nothing else; nothing was shared with it.
func TestSpareIsEmpty(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlace(t)
		dir := p.bootSpare()
		var calls []string
		for _, call := range p.machine().Agent.Calls() {
			if call.Name != "Stream.Clock" { // the clock is the host's to tell, at any time
				calls = append(calls, call.Name)
			}
		}
		if want := "[Stream.Control Guest.Start Guest.CreateBundle Task.Create Task.Delete Guest.RemoveBundle]"; fmt.Sprint(calls) != want {
			t.Errorf("the guest was asked for %s, not %s", calls, want)
		}
		for _, tree := range []string{"pool.served", "files.served"} {
			if entries, err := os.ReadDir(filepath.Join(dir, sandbox.TreesDir, tree)); err != nil || len(entries) > 0 {
				t.Errorf("%s has %v, %v", tree, entries, err)
			}
		}
		if err := p.platform.Spare.Close(); err != nil {
			t.Error(err)
		}
		wantGone(t, dir)
	})
}

// killVMM kills the process of the VMM. Nobody has taken note of its end (wait(2)).
func (p *place) killVMM() {
	p.t.Helper()
	if err := unix.Kill(p.driver.Pid, unix.SIGKILL); err != nil {
		p.t.Fatal(err)
	}
	if err := unix.Waitid(unix.P_PID, p.driver.Pid, nil, unix.WEXITED|unix.WNOWAIT, nil); err != nil {
		p.t.Fatal(err)
	}
}

// What cannot be changed in a VM that runs, and a spare that has died, is a VM of its own.
func TestSpareDoesNotFit(t *testing.T) {
	for name, change := range map[string]func(*place){
		"size":           func(p *place) { p.config.Size.Memory *= 2 },
		"host's network": func(p *place) { p.config.Network = spec.Network{Host: true} },
		"users": func(p *place) {
			p.config.Users = spec.IDMap{UIDs: []specs.LinuxIDMapping{{ContainerID: 1, HostID: 2, Size: 3}}}
		},
		"dead": func(p *place) {
			p.machine().Die(errors.New("it crashed"))
			<-p.machine().Done()
		},
		"dead, which is not known yet": func(p *place) { p.killVMM() },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPlace(t)
				p.driver.Pid = victim(t)
				dir := p.bootSpare()
				change(p)
				s := p.boot()
				if machines := p.driver.Machines(); len(machines) != 2 || !s.Running() {
					t.Errorf("%d machines, running %v", len(machines), s.Running())
				}
				if missed, cold := s.Origin(config.Spare{Count: 1}), s.Origin(config.Spare{}); missed != count.Missed || cold != count.Cold {
					t.Errorf("its start is counted as %d, and without spares as %d", missed, cold)
				}
				wantGone(t, dir)
				if record, err := sandbox.ReadRecord(p.bundle); err != nil || record.Spare != "" {
					t.Errorf("the record: %+v, %v", record, err)
				}
			})
		})
	}
}

// A spare that cannot be warmed is none, and one whose bundle cannot have it is undone.
func TestSpareFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlace(t)
		p.driver.Prepare = func(m *fake.Machine) {
			m.Agent.On("Create", fake.Fail(errors.New("no")))
		}
		dir := filepath.Join(t.TempDir(), "spare")
		if err := os.Mkdir(dir, 0o700); err != nil {
			t.Fatal(err)
		}
		if s, err := sandbox.BootSpare(t.Context(), dir, func() error { return os.Remove(dir) }, p.platform, p.config.Size); err == nil {
			t.Errorf("a spare: %v", s)
		}
		wantGone(t, dir)

		p.driver.Prepare = nil
		dir = p.bootSpare()
		p.network.openErr = errors.New("the namespace is another's")
		p.config.Network.Path = "/run/netns/n"
		prepared := p.prepare()
		if _, err := prepared.Boot(t.Context(), nothingBeside); !errors.Is(err, p.network.openErr) {
			t.Errorf("Boot = %v", err)
		}
		if err := prepared.Close(); err != nil {
			t.Error(err)
		}
		wantGone(t, dir)
		p.network.openErr = nil
	})
}

// The end of a VM waits for the spare that its start has begun to order, and for no longer than
// is said: the shim ends with it.
func TestRefillBeforeTheEnd(t *testing.T) {
	for name, want := range map[string]time.Duration{"in time": time.Second, "late": 5 * time.Second} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				p := newPlace(t)
				p.driver.Pid = victim(t)
				refilling := make(chan struct{})
				ended := make(chan struct{})
				p.platform.Refill = func(ctx context.Context, _ *sandbox.Prepared, ordered func()) {
					<-refilling
					if ctx.Err() != nil && name == "in time" {
						t.Error("it is given up before it was ordered")
					}
					ordered()
					<-ctx.Done() // what was ordered boots for long
					close(ended)
				}
				s := p.boot()
				s.Refill()
				if name == "in time" {
					time.AfterFunc(want, func() { close(refilling) })
				} else {
					defer close(refilling)
				}
				begin := time.Now()
				if err := s.Close(); err != nil {
					t.Error(err)
				}
				if took := time.Since(begin); took != want {
					t.Errorf("the end took %v, want %v", took, want)
				}
				if name == "in time" {
					<-ended
				}
				p.wantNothing()
			})
		})
	}
}

// While a spare boots, its guest may take as long for a call as for the boot; one that is used
// has a container's time.
func TestSpareBudgets(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := newPlace(t)
		p.driver.Pid = victim(t)
		p.platform.BootTimeout = 2 * p.platform.Budgets.Prompt
		late := p.platform.Budgets.Prompt + time.Second
		p.driver.Prepare = func(m *fake.Machine) { m.Agent.On("Task.Delete", fake.Late(late)) }
		p.bootSpare()
		s := p.boot()
		if len(p.driver.Machines()) != 1 {
			t.Fatal("the spare was not used")
		}
		if _, err := s.Guest.Delete(t.Context(), &taskapi.DeleteRequest{ID: "none"}); !errdefs.IsUnavailable(err) || s.Running() {
			t.Errorf("Delete after %v = %v, running %v", late, err, s.Running())
		}
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}
