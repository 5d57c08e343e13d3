// Package rig is a whole shim without a VM, for tests of its core: the services that
// containerd calls, on a fake machine (test/fake), with placeholders and a network that
// are nothing. What it shares is mounted for real, which needs root, in a mount namespace
// of the test program's own (Main).
//
// A test may run in a bubble of testing/synctest, where the real budgets of 25 seconds
// pass at once, as long as no process in it has standard streams: those are FIFOs, which
// the bubble does not know.
package rig

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/pkg/namespaces"
	"github.com/containerd/containerd/v2/pkg/shutdown"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/config"
	"github.com/msb-runtime/containerd-shim-msb/shim/events"
	"github.com/msb-runtime/containerd-shim-msb/shim/guest"
	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
	"github.com/msb-runtime/containerd-shim-msb/shim/pod"
	"github.com/msb-runtime/containerd-shim-msb/shim/podapi"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/stdio"
	"github.com/msb-runtime/containerd-shim-msb/shim/task"
	"github.com/msb-runtime/containerd-shim-msb/test/fake"
	"github.com/msb-runtime/containerd-shim-msb/test/itself"
	"github.com/msb-runtime/containerd-shim-msb/vm"
)

// child marks the test program that runs in a mount namespace of its own.
const child = "MSB_RIG_MOUNTS"

// Main runs a package's tests in a mount namespace of their own.
func Main(m *testing.M) {
	if os.Getenv(child) != "" {
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_SLAVE, ""); err != nil {
			panic(err)
		}
		os.Exit(m.Run())
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), child+"=1")
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNS, Pdeathsig: unix.SIGKILL}
	if err := cmd.Run(); err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			os.Exit(exit.ExitCode())
		}
		panic(err)
	}
	os.Exit(0)
}

// A Rig is one shim.
type Rig struct {
	T testing.TB
	// Driver starts its machines. A test sets what it needs before the first call.
	Driver *fake.Driver
	// Platform is what VMs are made with; a test may change it before the first call.
	Platform sandbox.Platform
	// Config is what its configuration has beside the kit, in TOML.
	Config string
	// Tasks and Sandboxes are its services, Pod what they share.
	Tasks     *task.Service
	Sandboxes *podapi.Service
	Pod       *pod.Pod
	// Published are the events that went to containerd.
	Published *Published
	// Down is closed when the shim has been told to end.
	Down <-chan struct{}

	mu     sync.Mutex
	stands []*Placeholder // guarded by mu
	queue  *events.Queue
}

// New makes a shim that ends with the test.
func New(t testing.TB) *Rig {
	t.Helper()
	t.TempDir() // the first call: so what the test leaves is ended before its directories are removed
	ctx := namespaces.WithNamespace(context.Background(), "test")
	ctx, life := shutdown.WithShutdown(ctx)
	down := make(chan struct{})
	life.RegisterCallback(func(context.Context) error {
		close(down)
		return nil
	})
	r := &Rig{T: t, Driver: new(fake.Driver), Published: new(Published), Down: down}
	r.Platform = sandbox.Platform{
		Kit: "/kit", Drivers: []vm.Driver{r.Driver}, BootTimeout: time.Minute, Budgets: guest.DefaultBudgets,
		OpenNetwork: func(mountns.Namespace, string) (sandbox.Network, error) { return noNetwork{}, nil },
		Placeholder: r.startPlaceholder,
	}
	platform := func(config.Config) sandbox.Platform { return r.Platform }
	r.queue = events.NewQueue(ctx, r.Published)
	r.Tasks, r.Pod = task.New(task.Shim{
		Context: ctx, Life: life, Events: r.queue, Began: time.Now(), Idle: task.IdleGrace, ClientsTurn: stdio.ClientsTurn, Platform: platform,
	})
	r.Sandboxes = podapi.New(podapi.Shim{Shutdown: life.Shutdown, Platform: platform}, r.Pod)
	t.Cleanup(func() {
		if err := r.Pod.End(context.Background()); err != nil {
			t.Errorf("ending the pod: %v", err)
		}
		life.Shutdown()
		<-life.Done()
		r.expectNothingLeft()
	})
	return r
}

// Agent is the guest of the last machine.
func (r *Rig) Agent() *fake.Agent { return r.Machine().Agent }

// Machine is the last one that was started.
func (r *Rig) Machine() *fake.Machine {
	r.T.Helper()
	machines := r.Driver.Machines()
	if len(machines) == 0 {
		r.T.Fatal("no machine was started")
	}
	return machines[len(machines)-1]
}

// expectNothingLeft fails if a placeholder runs, or a share is mounted.
func (r *Rig) expectNothingLeft() {
	r.T.Helper()
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, stand := range r.stands {
		select {
		case <-stand.exited:
		default:
			r.T.Errorf("placeholder %d is left", stand.pid)
		}
	}
	for _, machine := range r.Driver.Machines() {
		select {
		case <-machine.Done():
		default:
			r.T.Error("a machine is left")
		}
	}
	r.ExpectNoMounts()
}

// ExpectNoMounts fails if anything of the test's is mounted.
func (r *Rig) ExpectNoMounts() {
	r.T.Helper()
	for _, mount := range itself.MountsBelow(r.T, filepath.Dir(r.T.TempDir())) {
		r.T.Errorf("%s is still mounted", mount)
	}
}
