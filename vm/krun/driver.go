// Package krun runs machines with libkrun, a VMM in a library, on KVM. The
// library is loaded by a process of its own, msb-krun, in a jail.
package krun

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"

	"github.com/containerd/errdefs"

	"github.com/msb-runtime/containerd-shim-msb/vm"
	"github.com/msb-runtime/containerd-shim-msb/vm/jail"
	"github.com/msb-runtime/containerd-shim-msb/vm/kvm"
	"github.com/msb-runtime/containerd-shim-msb/vm/machine"
)

// Name is the driver's name.
const Name = "krun"

// Library is the name of libkrun's file in the kit.
const Library = "libkrun.so.1"

// Driver implements vm.Driver.
type Driver struct {
	// Program is the path of msb-krun.
	Program string
	// Library is the path of libkrun, as msb builds it.
	Library string
	// HostNetworkKernel is the path of the kernel of machines that have the host's network:
	// it has libkrun's transparent socket impersonation, which Linux has not.
	HostNetworkKernel string
}

var _ vm.Driver = Driver{}

// Name implements vm.Driver.
func (Driver) Name() string { return Name }

// Check implements vm.Driver. That libkrun is there is known when msb-krun has
// loaded it: Start tells.
func (d Driver) Check(context.Context) error {
	if _, err := os.Stat(d.Program); err != nil {
		return fmt.Errorf("the guest kit is incomplete, install it with \"make install\": %w (%w)", err, errdefs.ErrFailedPrecondition)
	}
	return kvm.Check()
}

// Start implements vm.Driver.
func (d Driver) Start(_ context.Context, config vm.Config) (vm.Machine, error) {
	p := d.plan(config)
	arch, err := p.config.CheckFiles()
	if err != nil {
		return nil, err
	}
	if arch != runtime.GOARCH {
		return nil, fmt.Errorf("the guest's kernel %s is for %s, and libkrun runs none but the host's, %s: take the qemu driver, or the guest kit for this host: %w", p.config.Kernel, arch, runtime.GOARCH, errdefs.ErrFailedPrecondition)
	}
	input, err := json.Marshal(p.machine())
	if err != nil {
		return nil, err
	}
	agent, err := listen(p.socket())
	if err != nil {
		return nil, fmt.Errorf("making the agent's socket: %w", err)
	}
	spec := p.jail()
	spec.Input, spec.Output = input, config.Console
	process, err := jail.Start(spec)
	if err != nil {
		agent.Close()
		return nil, err
	}
	return machine.Run(machine.Parts{
		VMM:     machine.Process{Process: process, Console: config.Console, Name: d.Program},
		Connect: agent.accept,
	}), nil
}

// Jail is what the VMM's process of a machine is confined to: a test puts another
// program in its place.
func (d Driver) Jail(config vm.Config) jail.Spec { return d.plan(config).jail() }

func (d Driver) plan(config vm.Config) plan {
	if config.Network.Host {
		config.Kernel = d.HostNetworkKernel
	}
	return plan{driver: d, config: config, descriptors: jail.DescriptorLimit()}
}

// listener takes the one connection that the VMM makes for the guest.
type listener struct{ *net.UnixListener }

// listen goes by a descriptor: the path of a socket has room for 107 bytes, and a
// bundle's is longer (unix(7)).
func listen(path string) (listener, error) {
	dir, err := os.Open(filepath.Dir(path))
	if err != nil {
		return listener{}, err
	}
	defer dir.Close()
	short := fmt.Sprintf("/proc/self/fd/%d/%s", dir.Fd(), filepath.Base(path))
	l, err := net.ListenUnix("unix", &net.UnixAddr{Name: short, Net: "unix"})
	if err != nil {
		return listener{}, err
	}
	// The name goes with the directory's file system.
	l.SetUnlinkOnClose(false)
	return listener{l}, nil
}

// accept waits for the agent and takes nobody after it.
func (l listener) accept(done <-chan struct{}) (net.Conn, error) {
	accepted := make(chan struct{})
	defer close(accepted)
	go func() {
		select {
		case <-done:
		case <-accepted:
		}
		l.Close()
	}()
	conn, err := l.Accept()
	if errors.Is(err, net.ErrClosed) {
		return nil, errors.New("the machine ended before the agent called")
	}
	return conn, err
}
