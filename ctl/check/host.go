package check

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"time"

	"github.com/containerd/cgroups/v3"
	"github.com/containerd/containerd/v2/version"
	"github.com/containerd/errdefs"
	"github.com/moby/sys/mountinfo"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/config"
	"github.com/msb-runtime/containerd-shim-msb/shim/network"
	"github.com/msb-runtime/containerd-shim-msb/shim/shield/server"
	"github.com/msb-runtime/containerd-shim-msb/shim/trace"
	"github.com/msb-runtime/containerd-shim-msb/vm"
	"github.com/msb-runtime/containerd-shim-msb/vm/jail"
	"github.com/msb-runtime/containerd-shim-msb/vm/krun"
	"github.com/msb-runtime/containerd-shim-msb/vm/kvm"
	"github.com/msb-runtime/containerd-shim-msb/vm/qemu"
)

// patience is how long a program or a daemon may take to answer.
const patience = 5 * time.Second

const shimProgram = "containerd-shim-msb-v2"

// kitFiles are what a kit has. libkrun and virtiofsd may be missing: other checks tell.
var kitFiles = []string{"vmlinux", "vmlinux-tsi", "guest.erofs", "msb-krun", "msb-shield", "msb-placeholder", "VERSIONS"}

// Look asks the host. configFile names a configuration; empty is the shim's.
func Look(ctx context.Context, configFile, address string) Facts {
	f := Facts{Version: version.Version, Arch: runtime.GOARCH, KVM: kvm.Check(), KVMModule: kvm.Module()}
	if _, f.Proc = os.Readlink("/proc/self/exe"); f.Proc != nil {
		return f
	}
	var name unix.Utsname
	if err := unix.Uname(&name); err == nil {
		f.Kernel = unix.ByteSliceToString(name.Release[:])
	}
	settings := f.lookAtConfig(configFile)
	f.Kit = lookAtKit(settings.Kit)
	f.Krun = lookAtKrun(ctx, settings)
	f.QEMU = lookAtQEMU(ctx, settings, orElse(f.Kit.Arch, runtime.GOARCH))
	trial := server.Try()
	f.FUSE, f.Passthrough = trial.Mount, trial.Passthrough
	nets := network.Try()
	f.TAP, f.Redirect, f.Lookup = nets.Tap, nets.Redirect, nets.Lookup
	f.Vhost = qemu.CheckVhost()
	f.Cgroup = lookAtCgroups()
	pid := 0
	f.Containerd, pid = lookAtContainerd(ctx, address)
	f.SharedRoot, f.NoRoot = lookAtRoot(pid)
	f.Descriptors = descriptorsOf(pid)
	f.Traces = lookAtTraces(settings.Tracing, pid)
	return f
}

// lookAtConfig returns the settings that hold, or the defaults if there are mistakes.
func (f *Facts) lookAtConfig(file string) config.Config {
	layers, err := config.Layers(file)
	if err != nil {
		f.Config.Problems = []string{err.Error()}
	}
	for _, layer := range layers {
		f.Config.Files = append(f.Config.Files, layer.Origin)
	}
	for _, problem := range config.Check(layers) {
		f.Config.Problems = append(f.Config.Problems, problem.String())
	}
	settings, err := config.Resolve(layers)
	if err != nil {
		settings, _ = config.Resolve(nil)
	}
	f.Config.Driver = settings.Driver
	return settings
}

func lookAtKit(dir string) Kit {
	k := Kit{Dir: dir}
	if self, err := os.Executable(); err == nil {
		shim := filepath.Join(filepath.Dir(self), shimProgram)
		if _, err := os.Stat(shim); err == nil {
			k.Shim = shim
		}
	}
	for _, name := range kitFiles {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			k.Missing = append(k.Missing, name)
		}
	}
	k.Arch, k.Broken = lookAtParts(dir)
	versions, _ := os.ReadFile(filepath.Join(dir, "VERSIONS")) // without, it is among the missing
	for line := range strings.Lines(string(versions)) {
		line = strings.TrimSpace(line)
		if v, found := strings.CutPrefix(line, "msb "); found {
			k.Version = v
		}
		if v, found := strings.CutPrefix(line, "Linux version "); found {
			k.Guest = v
		}
	}
	return k
}

// kitPrograms are those of the kit that the host runs.
var kitPrograms = []string{"msb-krun", "msb-shield", "msb-placeholder"}

// lookAtParts returns the architecture of a kit's kernel, and what is wrong with the parts that
// are there.
func lookAtParts(dir string) (arch string, broken error) {
	kernel, disk := filepath.Join(dir, "vmlinux"), filepath.Join(dir, "guest.erofs")
	arch, err := vm.KernelArch(kernel)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return "", fmt.Errorf("the guest's kernel %s is none that a machine enters: %w", kernel, err)
	}
	if err := checkDisk(disk); err != nil && !errors.Is(err, os.ErrNotExist) {
		return arch, fmt.Errorf("the guest's disk %s is damaged: %w", disk, err)
	}
	for _, name := range kitPrograms {
		path := filepath.Join(dir, name)
		if err := unix.Access(path, unix.X_OK); err != nil && !errors.Is(err, os.ErrNotExist) {
			return arch, fmt.Errorf("%s cannot be run: %w", path, err)
		}
	}
	return arch, nil
}

// Of struct erofs_super_block (Linux, fs/erofs/erofs_fs.h).
const (
	erofsMagic      = 0xE0F5E1E2
	erofsAt         = 1024
	erofsBlockBits  = 12 // the offset of blkszbits
	erofsBlocks     = 36 // the offset of blocks
	erofsSuperBlock = 128
)

// checkDisk tells whether a file has an erofs of its size.
func checkDisk(path string) error {
	file, err := os.Open(path)
	if err != nil {
		return err
	}
	defer file.Close()
	super := make([]byte, erofsSuperBlock)
	if _, err := file.ReadAt(super, erofsAt); err != nil && !errors.Is(err, io.EOF) {
		return err
	}
	if binary.LittleEndian.Uint32(super) != erofsMagic {
		return errors.New("it is no erofs")
	}
	stat, err := file.Stat()
	if err != nil {
		return err
	}
	if want := int64(binary.LittleEndian.Uint32(super[erofsBlocks:])) << min(super[erofsBlockBits], 16); stat.Size() < want {
		return fmt.Errorf("it has %d bytes of %d", stat.Size(), want)
	}
	return nil
}

// lookAtKrun has msb-krun load the library.
func lookAtKrun(ctx context.Context, settings config.Config) error {
	library := orElse(settings.Krun.Library, filepath.Join(settings.Kit, krun.Library))
	_, err := output(ctx, filepath.Join(settings.Kit, "msb-krun"), "check", library)
	return err
}

// output runs a program, for what it prints. Its error has the program's own last line.
func output(ctx context.Context, program string, args ...string) (string, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, program, args...)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &errs, time.Second
	if err := cmd.Run(); err != nil {
		lines := strings.Split(strings.TrimSpace(errs.String()), "\n")
		if last := lines[len(lines)-1]; last != "" {
			return "", errors.New(strings.TrimPrefix(last, filepath.Base(program)+": "))
		}
		return "", err
	}
	return strings.TrimSpace(out.String()), nil
}

// lookAtQEMU looks for the QEMU of guests of an architecture.
func lookAtQEMU(ctx context.Context, settings config.Config, arch string) (q QEMU) {
	q.Package = qemu.Package(arch)
	own := filepath.Join(settings.Kit, "virtiofsd")
	driver := qemu.Driver{QEMU: settings.QEMU.Path, Virtiofsd: settings.QEMU.Virtiofsd, OwnVirtiofsd: own}
	if q.Path, q.Virtiofsd, q.Err = driver.Programs(arch); q.Err != nil {
		q.OfVirtiofsd = q.Path != ""
		return q
	}
	q.Own = q.Virtiofsd == own
	if _, err := output(ctx, q.Virtiofsd, "--version"); err != nil {
		q.Err, q.OfVirtiofsd = fmt.Errorf("%s does not run: %w", q.Virtiofsd, err), true
		return q
	}
	printed, err := output(ctx, q.Path, "--version")
	if err != nil {
		q.Err = fmt.Errorf("%s does not run: %w", q.Path, err)
		return q
	}
	// QEMU emulator version 7.2.22 (Debian 1:7.2+dfsg-7+deb12u18)
	first, _, _ := strings.Cut(printed, "\n")
	words := strings.Fields(first)
	if i := slices.Index(words, "version"); i >= 0 && i+1 < len(words) {
		q.Version = words[i+1]
	}
	return q
}

// wanted are the controllers of the limits that a VM has on the host.
var wanted = []string{"cpu", "cpuset", "memory", "pids"}

func lookAtCgroups() Cgroup {
	switch cgroups.Mode() {
	case cgroups.Unified:
		given, _ := os.ReadFile("/sys/fs/cgroup/cgroup.controllers")
		return Cgroup{2, without(wanted, strings.Fields(string(given)))}
	case cgroups.Legacy, cgroups.Hybrid:
		var mounted []string
		mounts, _ := mountinfo.GetMounts(mountinfo.FSTypeFilter("cgroup"))
		for _, m := range mounts {
			mounted = append(mounted, strings.Split(m.VFSOptions, ",")...)
		}
		if len(mounts) == 0 {
			return Cgroup{} // the directory is there, and empty
		}
		return Cgroup{1, without(wanted, mounted)}
	}
	return Cgroup{}
}

func without(all, some []string) (rest []string) {
	for _, one := range all {
		if !slices.Contains(some, one) {
			rest = append(rest, one)
		}
	}
	return rest
}

// lookAtRoot tells whether / is a shared mount for a process, or none at all; 0 is this process.
func lookAtRoot(pid int) (shared, none bool) {
	file, err := os.Open(fmt.Sprintf("/proc/%d/mountinfo", orSelf(pid)))
	if err != nil {
		return false, false
	}
	defer file.Close()
	mounts, err := mountinfo.GetMountsFromReader(file, mountinfo.SingleEntryFilter("/"))
	for _, m := range mounts {
		shared = shared || strings.Contains(m.Optional, "shared:")
	}
	return shared, err == nil && len(mounts) == 0
}

// descriptorsOf is what a process can give to another (RLIMIT_NOFILE); 0 is this one.
func descriptorsOf(pid int) uint64 {
	var limit unix.Rlimit
	if err := unix.Prlimit(pid, unix.RLIMIT_NOFILE, nil, &limit); err != nil {
		return jail.DescriptorLimit()
	}
	return limit.Max
}

// lookAtTraces asks as a shim would that has a process's environment; 0 is none.
func lookAtTraces(settings config.Tracing, pid int) Traces {
	environment := map[string]string{}
	data, _ := os.ReadFile(fmt.Sprintf("/proc/%d/environ", pid)) // there is no process 0
	for variable := range strings.SplitSeq(string(data), "\x00") {
		name, value, _ := strings.Cut(variable, "=")
		environment[name] = value
	}
	target, ok, err := trace.FromEnvironment(settings.Getenv(func(name string) string { return environment[name] }))
	if err != nil || !ok {
		return Traces{Err: err}
	}
	t := Traces{Setting: "containerd's environment"}
	if settings.Endpoint != "" {
		t.Setting = "tracing.endpoint"
	}
	for _, wrong := range target.Check() {
		t.Err = errors.Join(t.Err, wrong)
	}
	return t
}

func orSelf(pid int) int {
	if pid == 0 {
		return os.Getpid()
	}
	return pid
}

// text is an error in one line, without its class, which says nothing to who reads it. Of errors
// that are joined each is told once.
func text(err error) string {
	var lines []string
	for line := range strings.Lines(err.Error()) {
		line = strings.TrimSpace(line)
		for _, class := range []string{": " + errdefs.ErrFailedPrecondition.Error(), " (" + errdefs.ErrFailedPrecondition.Error() + ")"} {
			line = strings.TrimSuffix(line, class)
		}
		if !slices.Contains(lines, line) {
			lines = append(lines, line)
		}
	}
	return strings.Join(lines, "; ")
}
