package sandbox

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"google.golang.org/protobuf/types/known/timestamppb"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/clock"
	"github.com/msb-runtime/containerd-shim-msb/shim/count"
	"github.com/msb-runtime/containerd-shim-msb/shim/guest"
	"github.com/msb-runtime/containerd-shim-msb/shim/journal"
	"github.com/msb-runtime/containerd-shim-msb/shim/trace"
	"github.com/msb-runtime/containerd-shim-msb/vm"
)

// deathNotice is how long to wait, after a stream broke, for the machine to be
// known dead, so that the error says why.
const deathNotice = time.Second

// Boot starts the machine and returns the sandbox when its agent has answered. While the
// guest boots, launched is called, which may start placeholders. It ends early with ctx.
// A spare has done most of it. After an error the caller closes the prepared place.
func (p *Prepared) Boot(ctx context.Context, launched func(Placeholders) error) (_ *Sandbox, err error) {
	if p.spare != nil {
		return p.bootSpare(ctx, launched)
	}
	s, console, err := p.launch(ctx)
	if err != nil {
		return nil, err
	}
	ctx, phase := trace.Begin(ctx, "guest boot")
	defer phase.End(&err)
	defer s.endWith(ctx)()
	if err := s.own(ctx); err != nil {
		return nil, err
	}
	beside := make(chan error, 1)
	go func() { beside <- launched(s.Placeholders) }()
	err = s.connectExplained(ctx, console)
	if besides := <-beside; err == nil {
		err = besides
	}
	if err == nil {
		err = s.connectNetwork(ctx)
	}
	if err != nil {
		return nil, err
	}
	return s, nil
}

// launch starts the machine, with its network.
func (p *Prepared) launch(ctx context.Context) (_ *Sandbox, _ *vm.Console, err error) {
	console := vm.NewConsole(func(line string) { journal.ToConsole(ctx, line) })
	_, opening := trace.Begin(ctx, "network")
	network, err := p.openNetwork()
	opening.End(&err)
	if err != nil {
		return nil, nil, err
	}
	ctx, phase := trace.Begin(ctx, "VMM start")
	defer phase.End(&err)
	machineConfig, err := p.machineConfig(network.vm, console)
	if err != nil {
		return nil, nil, err
	}
	driver, machine, err := startFirst(ctx, p.platform.Drivers, machineConfig)
	if err != nil {
		return nil, nil, err
	}
	count.SetDriver(driver.Name())
	s := newSandbox(p, driver, machine, network)
	p.undo.Add(s.stop)
	return s, console, nil
}

// endWith ends the VM when its boot is given up: whoever does so does not wait for the guest.
func (s *Sandbox) endWith(ctx context.Context) (stop func() bool) {
	return context.AfterFunc(ctx, func() { s.End(fmt.Errorf("the boot was given up: %w", context.Cause(ctx))) })
}

// own notes the VMM as the bundle's, and gives it the container's place in the kernel's choice
// of a victim. A VMM may end at any time, that of a spare also before anybody knows it.
func (s *Sandbox) own(ctx context.Context) error {
	if err := s.recordVMM(s.driver.Name(), s.machine.Pid()); err != nil {
		return err
	}
	return adjustOOMScore(ctx, s.machine.Pid(), s.config.OOMScoreAdj)
}

// connectExplained is connect, and says why it could not.
func (s *Sandbox) connectExplained(ctx context.Context, console *vm.Console) error {
	if err := s.connect(ctx); err != nil {
		return fmt.Errorf("booting the VM (driver %s): %w", s.driver.Name(), s.explain(err, console))
	}
	return nil
}

// machineConfig is the VM for its driver.
func (p *Prepared) machineConfig(network vm.Network, console *vm.Console) (vm.Config, error) {
	dir := filepath.Join(p.dir, driverDir)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return vm.Config{}, err
	}
	parameters, err := Parameters()
	if err != nil {
		return vm.Config{}, err
	}
	return vm.Config{
		Kernel:     filepath.Join(p.platform.Kit, kernelFile),
		Disk:       filepath.Join(p.platform.Kit, diskFile),
		Init:       api.Init,
		Parameters: parameters,

		CPUs:   p.config.Size.CPUs,
		Memory: p.config.Size.Memory,

		ReturnMemory: p.platform.ReturnMemory,

		Shares: []vm.Share{
			{Tag: api.PoolTag, Dir: p.Trees.Pool(), Submounts: true},
			{Tag: api.FilesTag, Dir: p.Trees.Files()},
		},
		Network: network,
		Console: console,
		Dir:     dir,
	}, nil
}

// recordVMM notes the VMM's process.
func (p *Prepared) recordVMM(driver string, pid int) (err error) {
	p.record.Driver, p.record.Pid = driver, pid
	if p.record.Start, err = startTime(pid); errors.Is(err, os.ErrNotExist) {
		return fmt.Errorf("the VMM has ended before its VM was used: start the container again: %w (%w)", err, errdefs.ErrUnavailable)
	}
	if err != nil {
		return err
	}
	return p.record.write(p.bundle)
}

// adjustOOMScore gives the VMM the container's place in the kernel's choice of a
// victim. Where the shim may not lower it, the VMM keeps the shim's.
func adjustOOMScore(ctx context.Context, pid int, score *int) error {
	if score == nil {
		return nil
	}
	err := os.WriteFile(fmt.Sprintf("/proc/%d/oom_score_adj", pid), []byte(strconv.Itoa(*score)), 0)
	if errors.Is(err, os.ErrPermission) {
		log.G(ctx).WithError(err).Warnf("process.oomScoreAdj: the VMM keeps a higher score than %d", *score)
		return nil
	}
	if err != nil {
		return fmt.Errorf("process.oomScoreAdj: %w", err)
	}
	return nil
}

// connect waits for the agent and makes its client.
func (s *Sandbox) connect(ctx context.Context) (err error) {
	timeout := s.platform.BootTimeout
	ctx, cancel := context.WithTimeoutCause(ctx, timeout,
		fmt.Errorf("the agent did not answer within %v (vm.boot_timeout): %w", timeout, errdefs.ErrUnavailable))
	defer cancel()
	if s.Guest, err = guest.Connect(ctx, s, s.platform.Budgets); err != nil {
		return err
	}
	s.undo.Add(s.Guest.Close)
	go s.Sockets.ServeAll(context.WithoutCancel(ctx), s.machine.Accept)
	seed := make([]byte, api.SeedSize)
	_, _ = rand.Read(seed) // it never fails
	err = s.Guest.Start(ctx, &api.StartRequest{Now: timestamppb.Now(), Users: userNamespace(s.config.Users), Seed: seed})
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	if err == nil {
		go s.tellTime(context.WithoutCancel(ctx), s.platform.ClockJumps)
	}
	return err
}

// tellTime tells the guest the time until the machine ends; notify is the platform's
// ClockJumps. One that does not ask harms nobody's clock but its own.
func (s *Sandbox) tellTime(ctx context.Context, notify func(context.Context) (<-chan struct{}, error)) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	var jumps <-chan struct{}
	if notify != nil {
		var err error
		if jumps, err = notify(ctx); err != nil {
			log.G(ctx).WithError(err).Warn("the guest learns within a minute when the host's clock is set")
		}
	}
	stream, err := s.Guest.Dial(ctx, &api.StreamHeader{Purpose: &api.StreamHeader_Clock{Clock: &api.ClockStream{}}})
	if err == nil {
		err = clock.Serve(stream, time.Now, jumps)
	}
	if err != nil && s.Running() {
		log.G(ctx).WithError(err).Warn("telling the guest the time")
	}
}

// explain adds what is known of a machine that did not boot: if it died, why,
// and otherwise what it printed last.
func (s *Sandbox) explain(err error, console *vm.Console) error {
	select {
	case <-s.Done():
		if cause := s.Err(); cause != nil {
			return cause
		}
	case <-time.After(deathNotice):
	}
	return fmt.Errorf("%w; the last lines of its console: %s", err, console.Last())
}
