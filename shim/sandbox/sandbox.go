// Package sandbox owns one microVM on behalf of the shim: the trees of what the
// VM is given, the machine itself, and the connection to the agent in it.
//
//	New    the trees are there, things can be shared, nothing runs
//	Boot   the machine runs and its agent answers
//	Close  everything is gone
package sandbox

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/errdefs/pkg/errgrpc"
	"github.com/containerd/log"
	"github.com/containerd/ttrpc"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/timestamppb"

	taskapi "github.com/containerd/containerd/api/runtime/task/v3"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/cgroup"
	"github.com/msb-runtime/containerd-shim-msb/shim/config"
	"github.com/msb-runtime/containerd-shim-msb/shim/network"
	"github.com/msb-runtime/containerd-shim-msb/shim/share"
	"github.com/msb-runtime/containerd-shim-msb/shim/socket"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
	"github.com/msb-runtime/containerd-shim-msb/shim/trace"
	"github.com/msb-runtime/containerd-shim-msb/vm"
)

// Files of the kit.
const (
	kernelFile = "vmlinux"
	diskFile   = "guest.erofs"
	shieldFile = "msb-shield"
	anchorFile = "msb-anchor"
)

// treesDir is the directory of a bundle below which the trees are mounted, in
// the shim's mount namespace only.
const treesDir = "msb"

// Directories beside the trees.
const (
	driverDir = "vm" // the driver's own
	shieldDir = "shield"
)

// ExitKilled is the exit status of a process whose VM is gone: 128 + SIGKILL.
const ExitKilled = 128 + 9

// deathNotice is how long to wait, after a stream broke, for the machine to be
// known dead, so that the error says why.
const deathNotice = time.Second

// A Sandbox is one microVM. Its exported fields are set by New and Boot.
type Sandbox struct {
	// Trees hold what the guest is given.
	Trees *share.Trees
	// Sockets are the host's that the guest may connect to.
	Sockets socket.Table
	// Tasks is containerd's task service in the guest.
	Tasks taskapi.TTRPCTaskService
	// Guest is the agent's own service.
	Guest api.GuestClient

	bundle  string
	record  Record
	kit     string // directory of the kit
	host    Host
	shield  *shieldOnDemand
	listen  sync.Once // for the guest's streams
	life    context.Context
	end     context.CancelFunc
	group   *cgroup.Group
	network *network.Network // nil with the host's
	// loopback takes what is sent to the namespace's own to the guest's; may be nil.
	loopback *network.Loopback
	// vmNetwork is the VM's end of it, once it is open.
	vmNetwork vm.Network
	machine   vm.Machine
	client    *ttrpc.Client
}

// Host is how a VM stands on the host.
type Host struct {
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
}

// New prepares the sandbox of a bundle, with programs of the kit. This process is
// in the VM's control group from now on, until Close.
func New(bundle, kit string, host Host) (_ *Sandbox, err error) {
	record := Record{CgroupsPath: host.CgroupsPath, Network: host.Network.Path}
	if err := record.write(bundle); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, removeRecord(bundle))
		}
	}()
	group, err := cgroup.Enter(host.CgroupsPath, host.Resources, host.Size.Memory)
	if err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, group.Close())
		}
	}()
	dir := filepath.Join(bundle, treesDir)
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return nil, err
	}
	s := &Sandbox{bundle: bundle, record: record, kit: kit, host: host, group: group}
	s.life, s.end = context.WithCancel(context.Background())
	s.shield = &shieldOnDemand{
		program: filepath.Join(kit, shieldFile), dir: filepath.Join(dir, shieldDir),
		broken: func() {
			log.L.Error("msb-shield, which serves the mounted files, has ended: so does the VM")
			s.Kill()
		},
	}
	if s.Trees, err = share.Open(dir, s.shield); err != nil {
		s.end()
		return nil, err
	}
	return s, nil
}

// HostSize is what this host can give to one VM at most.
func HostSize() (spec.Size, error) {
	var info unix.Sysinfo_t
	if err := unix.Sysinfo(&info); err != nil {
		return spec.Size{}, fmt.Errorf("asking for the host's memory: %w", err)
	}
	return spec.Size{CPUs: runtime.NumCPU(), Memory: int64(info.Totalram) * int64(info.Unit)}, nil
}

// Boot starts the machine and returns when its agent has answered. While the guest
// boots, launched is called. After an error the caller calls Close.
func (s *Sandbox) Boot(ctx context.Context, config config.Config, launched func() error) error {
	console := vm.NewConsole(func(line string) {
		log.G(ctx).WithField("source", "console").Info(line)
	})
	dir := filepath.Join(s.bundle, treesDir, driverDir)
	if err := os.Mkdir(dir, 0o700); err != nil {
		return err
	}
	opened := trace.Phase(ctx, "network")
	var err error
	if s.vmNetwork, err = s.openNetwork(); err != nil {
		return err
	}
	opened()
	started := trace.Phase(ctx, "VMM start")
	driver, machine, err := startFirst(ctx, drivers(config), vm.Config{
		Kernel: filepath.Join(config.Kit, kernelFile),
		Disk:   filepath.Join(config.Kit, diskFile),
		Init:   api.Init,
		CPUs:   s.host.Size.CPUs,
		Memory: s.host.Size.Memory,
		Shares: []vm.Share{
			{Tag: api.PoolTag, Dir: s.Trees.Pool(), Submounts: true},
			{Tag: api.FilesTag, Dir: s.Trees.Files()},
		},
		Network: s.vmNetwork,
		Console: console,
		Dir:     dir,
	})
	if err != nil {
		return err
	}
	started()
	defer trace.Phase(ctx, "guest boot")()
	s.machine = machine
	if err := s.recordVMM(); err != nil {
		return err
	}
	if err := adjustOOMScore(ctx, machine.Pid(), s.host.OOMScoreAdj); err != nil {
		return err
	}
	beside := make(chan error, 1)
	go func() { beside <- launched() }()
	err = s.connect(ctx, time.Duration(config.VM.BootTimeout))
	if err != nil {
		err = fmt.Errorf("booting the VM (driver %s): %w", driver.Name(), s.explain(err, console))
	}
	if besides := <-beside; err == nil {
		err = besides
	}
	if err != nil {
		return err
	}
	return s.connectNetwork(ctx, driver)
}

// recordVMM notes the VMM's process.
func (s *Sandbox) recordVMM() (err error) {
	s.record.Pid = s.machine.Pid()
	if s.record.Start, err = startTime(s.record.Pid); err != nil {
		return err
	}
	return s.record.write(s.bundle)
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

// connect waits for the agent and makes the clients of its services.
func (s *Sandbox) connect(ctx context.Context, timeout time.Duration) error {
	ctx, cancel := context.WithTimeoutCause(ctx, timeout,
		fmt.Errorf("the agent did not answer within %v: %w", timeout, errdefs.ErrUnavailable))
	defer cancel()
	conn, err := s.Dial(ctx, &api.StreamHeader{Purpose: &api.StreamHeader_Control{Control: &api.ControlStream{}}})
	if err != nil {
		return err
	}
	s.client = ttrpc.NewClient(conn)
	s.Tasks = taskapi.NewTTRPCTaskClient(s.client)
	s.Guest = api.NewGuestClient(s.client)
	_, err = s.Guest.Start(ctx, &api.StartRequest{Now: timestamppb.Now(), Users: userNamespace(s.host.Users)})
	if cause := context.Cause(ctx); err != nil && cause != nil {
		return cause
	}
	return errgrpc.ToNative(err)
}

// explain adds what is known of a machine that did not boot: if it died, why,
// and otherwise what it printed last.
func (s *Sandbox) explain(err error, console *vm.Console) error {
	if cause := s.deathCause(deathNotice); cause != nil {
		return cause
	}
	return fmt.Errorf("%w; the last lines of its console: %s", err, strings.Join(console.Tail(), " | "))
}

// deathCause waits a moment for the machine to be known dead and tells why it
// died; nil means that it has not, or that it was stopped.
func (s *Sandbox) deathCause(wait time.Duration) error {
	select {
	case <-s.machine.Done():
		return s.machine.Err()
	case <-time.After(wait):
		return nil
	}
}

// Dial opens a stream to the agent for the purpose that header names. The
// caller closes it.
func (s *Sandbox) Dial(ctx context.Context, header *api.StreamHeader) (net.Conn, error) {
	conn, err := s.machine.Dial(ctx)
	if err != nil {
		return nil, err
	}
	// A deadline ends a read at once; a close waits for the other side's.
	stop := context.AfterFunc(ctx, func() { _ = conn.SetDeadline(time.Unix(1, 0)) })
	err = api.OpenStream(conn, header)
	if !stop() {
		conn.Close()
		return nil, context.Cause(ctx)
	}
	if err != nil {
		conn.Close()
		return nil, fmt.Errorf("opening a stream to the agent: %w (%w)", err, errdefs.ErrUnavailable)
	}
	return conn, nil
}

// ServeSockets lets the guest connect to Sockets from now on.
func (s *Sandbox) ServeSockets(ctx context.Context) {
	ctx = context.WithoutCancel(ctx)
	s.listen.Do(func() {
		go func() {
			for {
				stream, err := s.machine.Accept(s.life)
				if err != nil {
					return
				}
				go s.Sockets.Serve(ctx, stream)
			}
		}()
	})
}

// Running tells whether Boot has succeeded and the machine has not ended.
func (s *Sandbox) Running() bool {
	if s.Tasks == nil {
		return false
	}
	select {
	case <-s.machine.Done():
		return false
	default:
		return true
	}
}

// Pid is the process id of the VMM on the host.
func (s *Sandbox) Pid() int { return s.machine.Pid() }

// Done is closed when the machine has ended.
func (s *Sandbox) Done() <-chan struct{} { return s.machine.Done() }

// Outside starts a process outside of the VM's control group; see cgroup.Group.
func (s *Sandbox) Outside(start func(*syscall.SysProcAttr) error) error {
	return s.group.Outside(start)
}

// Size is the size of the VM.
func (s *Sandbox) Size() spec.Size { return s.host.Size }

// Users is the mapping of its containers' user namespace; zero if they have the guest's.
func (s *Sandbox) Users() spec.IDMap { return s.host.Users }

// Update changes the limits of the VM on the host; it keeps its size.
func (s *Sandbox) Update(resources *specs.LinuxResources) error {
	return s.group.Update(resources, s.host.Size.Memory)
}

// Kill ends the machine, if there is one, without waiting for it.
func (s *Sandbox) Kill() {
	if s.machine == nil {
		return
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	_ = s.machine.Stop(ctx)
}

// Err tells why the machine ended by itself.
func (s *Sandbox) Err() error { return s.machine.Err() }

// Close ends the machine, which must have nothing left to write, and takes the
// trees away.
func (s *Sandbox) Close(ctx context.Context) error {
	var errs []error
	s.end()
	if s.client != nil {
		errs = append(errs, s.client.Close())
	}
	if s.machine != nil {
		errs = append(errs, s.machine.Stop(ctx))
	}
	if s.loopback != nil {
		errs = append(errs, s.loopback.Close())
	}
	if s.network != nil {
		errs = append(errs, s.network.Close())
	}
	errs = append(errs, s.shield.close(), s.Trees.Close(), os.Remove(filepath.Join(s.bundle, treesDir)), s.group.Close(), removeRecord(s.bundle))
	return errors.Join(errs...)
}

// Metrics are what the VM uses on the host.
func (s *Sandbox) Metrics() (*anypb.Any, error) { return s.group.Metrics() }
