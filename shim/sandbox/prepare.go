package sandbox

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"syscall"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/msb-runtime/containerd-shim-msb/shim/cgroup"
	"github.com/msb-runtime/containerd-shim-msb/shim/config"
	"github.com/msb-runtime/containerd-shim-msb/shim/count"
	"github.com/msb-runtime/containerd-shim-msb/shim/guest"
	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
	"github.com/msb-runtime/containerd-shim-msb/shim/share"
	"github.com/msb-runtime/containerd-shim-msb/shim/socket"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
	"github.com/msb-runtime/containerd-shim-msb/shim/undo"
	"github.com/msb-runtime/containerd-shim-msb/vm/jail"
)

// TreesDir is the directory of a bundle, or of a spare, below which the trees are mounted,
// in the shim's mount namespace only.
const TreesDir = "msb"

// Directories beside the trees.
const (
	driverDir = "vm" // the driver's own
	shieldDir = "shield"
)

// A Config is what a VM is to be like on the host.
type Config struct {
	// Size is the size of the VM.
	Size spec.Size
	// CgroupsPath names the control group of its processes, Resources are its
	// limits (runtime-spec, config-linux.md).
	CgroupsPath string
	Resources   *specs.LinuxResources
	// OOMScoreAdj is the VMM's (proc_pid_oom_score_adj(5)); nil leaves the shim's.
	OOMScoreAdj *int
	// Network is the network that the VM has.
	Network spec.Network
	// Users is the mapping of the containers' user namespace in the guest; zero if they
	// have the guest's.
	Users spec.IDMap
	// Pod says that connections to the network's loopback addresses are for the guest:
	// so containerd forwards ports to a pod.
	Pod bool
	// VMForHost gives containers that ask for a PID, IPC or UTS namespace of the host one
	// of the VM's instead of an error.
	VMForHost bool
	// GuestImages has the guest mount root file systems that come as images.
	GuestImages bool
}

// Prepared is the place of a VM on the host, before it boots and while it runs: what is in
// it can be shared with the VM.
type Prepared struct {
	// Trees hold what the guest is given.
	Trees *share.Trees
	// Sockets are the host's that the guest may connect to.
	Sockets socket.Table

	dir         string // below which the trees are mounted
	shield      *shieldOnDemand
	placeholder jail.Program
	spare       *Sandbox // the VM that runs here already, until Boot; nil if there is none

	// What follows changes when a spare becomes a bundle's (become): what runs beside a VM
	// from its boot on reads none of it.
	bundle   string // empty as long as it is a spare's
	platform Platform
	config   Config
	record   Record
	group    *cgroup.Group
	undo     *undo.Stack // of all that was made, until Close
}

// Prepare makes the place of a VM for a bundle, or takes that of the platform's spare if it
// fits. This process is in the VM's control group from now on, until Close. After an error
// nothing is left.
func Prepare(bundle string, platform Platform, config Config) (_ *Prepared, err error) {
	if p := platform.Spare.take(config); p != nil {
		if err := p.become(bundle, platform, config); err != nil {
			return nil, errors.Join(err, p.Close())
		}
		return p, nil
	}
	p := &Prepared{dir: filepath.Join(bundle, TreesDir), platform: platform, undo: new(undo.Stack)}
	defer func() {
		if err != nil {
			err = errors.Join(err, p.Close())
		}
	}()
	if err := p.claim(bundle, config); err != nil {
		return nil, err
	}
	return p, p.openTrees()
}

// claim makes the place that of a bundle's VM: it has its record and its control group, in
// which this process is, and others that run already.
func (p *Prepared) claim(bundle string, config Config, others ...int) (err error) {
	p.bundle, p.config = bundle, config
	p.record.CgroupsPath, p.record.Network = config.CgroupsPath, config.Network.Path
	p.record.Shim, p.record.CPUs, p.record.Memory = os.Getpid(), config.Size.CPUs, config.Size.Memory
	if err := p.record.write(bundle); err != nil {
		return err
	}
	p.undo.Add(func() error { return removeRecord(bundle) })
	if p.group, err = cgroup.Enter(config.CgroupsPath, config.Resources, config.Size.Memory, others...); err != nil {
		return err
	}
	p.undo.Add(p.group.Close)
	return nil
}

// openPrograms opens those of the kit that a VM needs as long as it runs, whenever a container or a file
// comes: they are of this shim's version and understand it, whatever is installed meanwhile.
func (p *Prepared) openPrograms() (shield jail.Program) {
	open := func(name string) jail.Program {
		program := jail.OpenProgram(filepath.Join(p.platform.Kit, name))
		p.undo.Add(program.Close)
		return program
	}
	p.placeholder = open(placeholderFile)
	return open(shieldFile)
}

// openTrees makes the trees, and what keeps the metadata of files in them.
func (p *Prepared) openTrees() (err error) {
	dir := p.dir
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return err
	}
	p.undo.Add(func() error { return os.Remove(dir) })
	p.shield = newShield(p.openPrograms(), filepath.Join(dir, shieldDir))
	if p.Trees, err = share.Open(dir, p.platform.Mounts, p.shield); err != nil {
		return err
	}
	p.undo.Add(p.Trees.Close)
	p.undo.Add(p.shield.close)
	return nil
}

// Close takes everything away. A VM that was booted is ended first; it must have nothing
// left to write. Nothing of this must be in use any more.
func (p *Prepared) Close() error { return p.undo.Run() }

// Outside starts a process outside of the VM's control group; see cgroup.Group.
func (p *Prepared) Outside(start func(*syscall.SysProcAttr) error) error {
	return p.group.Outside(start)
}

// OpenSource opens the source of a mount; see share.OpenSource.
func (p *Prepared) OpenSource(path string) (*share.Source, error) {
	return share.OpenSource(p.platform.Mounts, path)
}

// OpenImage opens a file that holds a file system; see share.OpenImage.
func (p *Prepared) OpenImage(path string) (*share.Source, error) {
	return share.OpenImage(p.platform.Mounts, path)
}

// Mounts is containerd's mount namespace.
func (p *Prepared) Mounts() mountns.Namespace { return p.platform.Mounts }

// Budgets are how long the guest may take for a call.
func (p *Prepared) Budgets() guest.Budgets { return p.platform.Budgets }

// MountsImages tells whether the guest mounts images: not with a kernel that need not be able
// to, as that of a VM that has the host's network, nor where owners are mapped, on this host.
func (p *Prepared) MountsImages() bool {
	return p.config.GuestImages && !p.config.Network.Host && p.config.Users.IsZero()
}

// Origin is how a start that boots the VM comes to it, with the configuration's spares.
func (p *Prepared) Origin(spares config.Spare) count.VM {
	switch {
	case p.record.Spare != "":
		return count.Spare
	case spares.Count > 0:
		return count.Missed
	}
	return count.Cold
}

// Size is the size of the VM.
func (p *Prepared) Size() spec.Size { return p.config.Size }

// Users is the mapping of its containers' user namespace; zero if they have the guest's.
func (p *Prepared) Users() spec.IDMap { return p.config.Users }

// Network is the network that the VM has.
func (p *Prepared) Network() spec.Network { return p.config.Network }

// VMForHost tells whether namespaces of the VM stand for the host's.
func (p *Prepared) VMForHost() bool { return p.config.VMForHost }

// Update changes the limits of the VM on the host; it keeps its size.
func (p *Prepared) Update(resources *specs.LinuxResources) error {
	return p.group.Update(resources, p.config.Size.Memory)
}

// Metrics are what the VM uses on the host.
func (p *Prepared) Metrics() (*anypb.Any, error) { return p.group.Metrics() }

// DefaultSize is the configuration's for a VM of which nobody says one.
func DefaultSize(vm config.VM) spec.Size {
	return spec.Size{CPUs: vm.CPUs, Memory: int64(vm.Memory)}
}

// SizeOf is the size that a plan has for its VM, given the configuration's and what this host
// can give.
func SizeOf(vm config.VM, plan func(byDefault, host spec.Size) (spec.Size, error)) (spec.Size, error) {
	host, err := HostSize()
	if err != nil {
		return spec.Size{}, err
	}
	return plan(DefaultSize(vm), host)
}

// HostSize is what this host can give to one VM at most.
func HostSize() (spec.Size, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return spec.Size{}, fmt.Errorf("asking for the host's memory: %w", err)
	}
	return spec.Size{CPUs: runtime.NumCPU(), Memory: int64(info.Totalram) * int64(info.Unit)}, nil
}
