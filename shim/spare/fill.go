package spare

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/containerd/containerd/api/types/runtimeoptions/v1"
	"github.com/containerd/containerd/v2/pkg/sys"
	"github.com/containerd/errdefs"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/types/known/anypb"

	"github.com/msb-runtime/containerd-shim-msb/shim/cgroup"
	"github.com/msb-runtime/containerd-shim-msb/shim/config"
	"github.com/msb-runtime/containerd-shim-msb/shim/sandbox"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
)

// FillEnv marks the environment of a shim's program that is run for an operator, to make spares. Its
// value is a Request, as JSON.
//
// A spare becomes a shim, so it has to have what a shim has from containerd. Who runs the program
// gives it what a process can only be started with: containerd's namespaces and environment, and a
// session of its own. The rest it takes itself (inherit).
const FillEnv = "MSB_SHIM_FILL"

// A Request is for spares that no shim has ordered.
type Request struct {
	// Address is containerd's, Events that of its ttrpc server, and Containerd its process.
	Address, Events string
	Containerd      int
	// Config is the path of the configuration; empty for the shim's own.
	Config string
	// Size is that of the VMs, and Count how many are to wait. What is zero is the configuration's.
	Size  spec.Size
	Count int
}

// IsFill tells whether this process is run to make spares.
func IsFill() bool { return os.Getenv(FillEnv) != "" }

// Fill makes the spares that this process was run for, and returns when they wait. If it is killed
// before, one that boots goes on, as one whose shim has ended.
func Fill() error {
	var r Request
	if err := json.Unmarshal([]byte(os.Getenv(FillEnv)), &r); err != nil {
		return fmt.Errorf("%s: %w", FillEnv, err)
	}
	if err := os.Unsetenv(FillEnv); err != nil {
		return err
	}
	if err := inherit(r.Containerd); err != nil {
		return fmt.Errorf("taking from containerd, process %d, what its shims have: %w", r.Containerd, err)
	}
	return r.fill()
}

// fill is Fill in a process that has what a shim has.
func (r Request) fill() error {
	options := new(anypb.Any)
	if r.Config != "" {
		var err error
		if options, err = anypb.New(&runtimeoptions.Options{ConfigPath: r.Config}); err != nil {
			return err
		}
	}
	configuration, err := config.Load(options)
	if err != nil {
		return err
	}
	size, count, err := r.settle(configuration)
	if err != nil {
		return err
	}
	here := func(start func(*syscall.SysProcAttr) error) error { return start(nil) }
	maker := Maker{Address: r.Address, Events: r.Events, Outside: here}
	pool, err := maker.pool(configuration, count)
	if err != nil {
		return err
	}
	for {
		if err := maker.fill(context.Background(), configuration, options, size, count, func() {}); err != nil {
			return err
		}
		// Somebody else's may boot yet. If it does not, there is one to make.
		boots, err := pool.boots(size)
		if err != nil {
			return err
		}
		if !boots {
			return pool.full(size)
		}
		time.Sleep(100 * time.Millisecond)
	}
}

// settle is what a request asks for, given the configuration. The size is that of a VM whose
// container has no limits, but for what is asked for.
func (r Request) settle(configuration config.Config) (size spec.Size, count int, err error) {
	most := configuration.Spare.Count
	if most == 0 {
		return size, 0, fmt.Errorf("the configuration wants no spares: set spare.count to how many are to wait: %w", errdefs.ErrFailedPrecondition)
	}
	if r.Count > most {
		return size, 0, fmt.Errorf("%d spares are asked for and spare.count is %d: ask for fewer, or raise it: %w", r.Count, most, errdefs.ErrInvalidArgument)
	}
	vm := configuration.VM
	vm.CPUs = cmp.Or(r.Size.CPUs, vm.CPUs)
	vm.Memory = cmp.Or(config.Bytes(r.Size.Memory), vm.Memory)
	size, err = sandbox.SizeOf(vm, func(asked, host spec.Size) (spec.Size, error) { return spec.SizeOf(nil, nil, asked, host) })
	return size, cmp.Or(r.Count, most), err
}

// boots tells whether a spare of a size does not wait yet. Dead ones do not count.
func (p Pool) boots(size spec.Size) (bool, error) {
	all, err := p.sweep()
	if err != nil {
		return false, err
	}
	defer all.Close()
	names, err := p.waiting(size)
	for _, name := range names {
		if _, err := os.Stat(p.socket(name)); errors.Is(err, os.ErrNotExist) {
			return true, nil
		}
	}
	return false, err
}

// full is an error if fewer spares of a size wait than are to, since there may be no more of all
// sizes.
func (p Pool) full(size spec.Size) error {
	all, err := p.sweep()
	if err != nil {
		return err
	}
	defer all.Close()
	same, err := p.waiting(size)
	if err != nil {
		return err
	}
	every, err := p.waiting(spec.Size{})
	if err != nil {
		return err
	}
	if len(same) < p.limits.Count && len(every) >= p.limits.Max {
		return fmt.Errorf("%d of %d spares of this size wait, and there are %d of all sizes, which is spare.max: raise it, or msbctl spare drain: %w",
			len(same), p.limits.Count, len(every), errdefs.ErrResourceExhausted)
	}
	return nil
}

// rlimits is how many limits a process has (getrlimit(2), RLIM_NLIMITS).
const rlimits = 16

// inherit gives this process what it would have as a shim of a process: control groups, limits, its
// umask, and a score for the OOM killer that is one more. It fails if that one is in other namespaces,
// or confined in another way.
func inherit(pid int) error {
	for _, kind := range []string{"cgroup", "ipc", "net", "pid", "user", "uts"} {
		own, err := os.Readlink("/proc/self/ns/" + kind)
		if err != nil {
			return err
		}
		other, err := os.Readlink(fmt.Sprintf("/proc/%d/ns/%s", pid, kind))
		if err != nil {
			return err
		}
		if own != other {
			return fmt.Errorf("it is in another namespace (%s) than this process: run this where containerd runs: %w", kind, errdefs.ErrFailedPrecondition)
		}
	}
	// What confines a process cannot be taken off, and is not put on here.
	for _, field := range []string{"CapBnd", "NoNewPrivs", "Seccomp"} {
		own, err := statusOf("self", field)
		if err != nil {
			return err
		}
		other, err := statusOf(strconv.Itoa(pid), field)
		if err != nil {
			return err
		}
		if own != other {
			return fmt.Errorf("it is confined in another way (%s %s) than this process (%s): give both the same, in msb-spares.service what containerd's unit has: %w",
				field, other, own, errdefs.ErrFailedPrecondition)
		}
	}
	for limit := range rlimits {
		var value unix.Rlimit
		if err := unix.Prlimit(pid, limit, nil, &value); err != nil {
			return os.NewSyscallError("prlimit", err)
		}
		if err := unix.Prlimit(0, limit, &value, nil); err != nil {
			return os.NewSyscallError("prlimit", err)
		}
	}
	mask, err := umaskOf(pid)
	if err != nil {
		return err
	}
	unix.Umask(mask)
	score, err := sys.GetOOMScoreAdj(pid)
	if err != nil {
		return err
	}
	if err := sys.AdjustOOMScore(os.Getpid(), min(score+1, sys.OOMScoreAdjMax)); err != nil {
		return err
	}
	return cgroup.Join(pid)
}

// umaskOf is the mask for the modes of files that a process makes (proc_pid_status(5)).
func umaskOf(pid int) (int, error) {
	text, err := statusOf(strconv.Itoa(pid), "Umask")
	if err != nil {
		return 0, err
	}
	mask, err := strconv.ParseUint(text, 8, 32)
	return int(mask), err
}

// statusOf is a field of a process's status, which is a directory of /proc.
func statusOf(process, field string) (string, error) {
	file := filepath.Join("/proc", process, "status")
	data, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	for line := range strings.Lines(string(data)) {
		if value, found := strings.CutPrefix(line, field+":"); found {
			return strings.TrimSpace(value), nil
		}
	}
	return "", fmt.Errorf("the status of process %s has no line %s: %w", process, field, errdefs.ErrNotFound)
}
