// Package qemu runs machines with QEMU and virtiofsd, one file server per share. It needs no
// hardware: where KVM cannot run a guest, or the guest's kernel is for another architecture
// than the host's, it uses software emulation.
//
// Nothing of a machine has a name on the host. The agent's stream and the
// vhost-user sockets are descriptors that the processes inherit, so there is no
// socket file to find, to race for or to leave behind. The processes end with
// the shim: the kernel kills them when their parent dies (PR_SET_PDEATHSIG).
package qemu

import (
	"context"
	"fmt"
	"os/exec"
	"runtime"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"

	"github.com/msb-runtime/containerd-shim-msb/vm"
	"github.com/msb-runtime/containerd-shim-msb/vm/jail"
	"github.com/msb-runtime/containerd-shim-msb/vm/kvm"
)

// Name is the driver's name.
const Name = "qemu"

// What a guest with the host's network has for addresses, and by which it is
// reached: QEMU's own choice (qemu(1), -netdev user).
const (
	UserAddress  = "10.0.2.15/24"
	UserGateway  = "10.0.2.2"
	UserAddress6 = "fec0::15/64"
	UserGateway6 = "fec0::2"
)

// Driver starts machines with QEMU. Its zero value looks its programs up.
type Driver struct {
	// QEMU is the path of QEMU for the guest's architecture; if empty it is looked up in PATH.
	QEMU string
	// Virtiofsd is the path of virtiofsd; if empty it is OwnVirtiofsd, if that is there,
	// or else looked up where distributions install it.
	Virtiofsd string
	// OwnVirtiofsd is where msb's build of virtiofsd may be.
	OwnVirtiofsd string
}

var _ vm.Driver = Driver{}

// virtiofsdPlaces are the paths of distributions' packages: Debian 12 (C),
// Debian 13, Fedora and openSUSE (Rust), Arch (Rust).
var virtiofsdPlaces = []string{"/usr/lib/qemu/virtiofsd", "/usr/libexec/virtiofsd", "/usr/lib/virtiofsd", "/usr/bin/virtiofsd"}

// Name implements vm.Driver.
func (Driver) Name() string { return Name }

// Check implements vm.Driver.
func (d Driver) Check(context.Context) error {
	_, err := d.find(runtime.GOARCH)
	return err
}

// programs are the executables of a machine, found and known to be there.
type programs struct {
	qemu, virtiofsd string
}

// find finds them for an architecture of guests.
func (d Driver) find(arch string) (programs, error) {
	board, ok := boards[arch]
	if !ok {
		return programs{}, fmt.Errorf("the qemu driver has no machine for %s: %w", arch, errdefs.ErrFailedPrecondition)
	}
	qemu, err := lookUp(d.QEMU, board.program)
	if err != nil {
		return programs{}, fmt.Errorf("%s is not there: install it (Debian: apt-get install %s) or set qemu.path: %w (%w)", board.program, board.pkg, err, errdefs.ErrFailedPrecondition)
	}
	virtiofsd, err := lookUp(d.Virtiofsd, append([]string{d.OwnVirtiofsd}, virtiofsdPlaces...)...)
	if err != nil {
		return programs{qemu: qemu}, fmt.Errorf("virtiofsd is not there: install it (Debian 12: apt-get install qemu-system-common, later: virtiofsd) or set qemu.virtiofsd: %w (%w)", err, errdefs.ErrFailedPrecondition)
	}
	return programs{qemu, virtiofsd}, nil
}

// Programs are the paths of QEMU and virtiofsd that a machine would be started with whose guest
// is of an architecture, by Go's name. An error with a path of QEMU is about virtiofsd.
func (d Driver) Programs(arch string) (qemu, virtiofsd string, err error) {
	found, err := d.find(arch)
	return found.qemu, found.virtiofsd, err
}

// Package is Debian's package of QEMU for guests of an architecture.
func Package(arch string) string { return boards[arch].pkg }

// lookUp takes the configured path, or else the first candidate that is there.
func lookUp(configured string, candidates ...string) (string, error) {
	if configured != "" {
		candidates = []string{configured}
	}
	var err error
	for _, candidate := range candidates {
		var path string
		if path, err = exec.LookPath(candidate); err == nil {
			return path, nil
		}
	}
	return "", err
}

// Start implements vm.Driver.
func (d Driver) Start(ctx context.Context, config vm.Config) (vm.Machine, error) {
	arch, err := config.CheckFiles()
	if err != nil {
		return nil, err
	}
	programs, err := d.find(arch)
	if err != nil {
		return nil, err
	}
	if programs.virtiofsd != d.OwnVirtiofsd {
		log.G(ctx).Warnf("%s is not msb's: it lets users read and write files whose access control lists refuse them, where the mode does not; build msb's with \"make deps-qemu\"", programs.virtiofsd)
	}
	return start(programs, plan{config: config, board: boards[arch], accel: accelerator(ctx, arch), tscKHz: tscKHz()})
}

// Jail is what QEMU's process of a machine is confined to, without the descriptors of its
// devices. The program is d.QEMU. ServerJail is what a file server's is, d.Virtiofsd, as
// far as it does not confine itself. A test puts other programs in their places.
func (d Driver) Jail(config vm.Config) jail.Spec {
	config.Shares, config.Network.Interfaces = nil, nil // they are descriptors
	return plan{config: config, board: boards[runtime.GOARCH], accel: accelTCG}.jail(d.QEMU, nil, exists)
}

// ServerJail is described at Jail.
func (d Driver) ServerJail() jail.Spec { return serverJail(d.Virtiofsd) }

// accelerator chooses once per machine, whose guest has an architecture.
func accelerator(ctx context.Context, arch string) string {
	if arch != runtime.GOARCH {
		log.G(ctx).Warnf("the guest's kernel is for %s: on this host, of %s, the machine runs in software emulation, which is slow", arch, runtime.GOARCH)
		return accelTCG
	}
	if err := kvm.Check(); err != nil {
		log.G(ctx).WithError(err).Warn("no usable KVM: the machine runs in software emulation, which is slow")
		return accelTCG
	}
	return accelKVM
}

// isRust tells the two implementations of virtiofsd apart: the one in C is part
// of QEMU and its help has options in the style of mount(8).
func isRust(help string) bool { return strings.Contains(help, "--shared-dir") }
