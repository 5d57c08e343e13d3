package check

import (
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

// A State is what a check comes to.
type State string

// The states, from good to bad.
const (
	OK      State = "ok"
	Warning State = "warning"
	Missing State = "missing"
)

// A Result is what there is to say of one thing.
type Result struct {
	Name  string `json:"name"`
	State State  `json:"state"`
	// Found is what is there, or why it is not.
	Found string `json:"found"`
	// Means is what follows for a user, and Do the line to type or what else to do; both are
	// empty if all is well.
	Means string `json:"means,omitempty"`
	Do    string `json:"do,omitempty"`
	// Remedy is what msbctl can do about it; nil if that is the operator's.
	Remedy *Remedy `json:"remedy,omitempty"`
}

// checks are in the order in which somebody would look.
var checks = []struct {
	name  string
	judge func(Facts) Result
}{
	{"kernel", kernel},
	{"configuration", configuration},
	{"kit", kit},
	{"KVM", hardware},
	{"libkrun", libkrun},
	{"QEMU", emulator},
	{"driver", driver},
	{"FUSE", fuse},
	{"FUSE passthrough", passthrough},
	{"TAP devices", tap},
	{"vhost-net", vhost},
	{"traffic control", redirect},
	{"socket lookup", lookup},
	{"control groups", groups},
	{"mounts", sharedRoot},
	{"descriptors", descriptors},
	{"traces", traces},
	{"containerd", daemon},
	{"runtime", ourRuntime},
	{"Kubernetes", kubernetes},
	{"snapshotter", snapshotter},
}

// Run judges the facts.
func Run(f Facts) []Result {
	if f.Proc != nil {
		r := missing(text(f.Proc), "no container starts, and nothing else can be told", "mount -t proc proc /proc")
		r.Name = "proc"
		return []Result{r}
	}
	results := make([]Result, 0, len(checks))
	for _, check := range checks {
		result := check.judge(f)
		result.Name = check.name
		results = append(results, result)
	}
	return results
}

// Worst is the worst state of results.
func Worst(results []Result) State {
	worst := OK
	for _, r := range results {
		if r.State == Missing || worst == OK {
			worst = r.State
		}
	}
	return worst
}

func ok(format string, args ...any) Result {
	return Result{State: OK, Found: fmt.Sprintf(format, args...)}
}

// warning and missing say what was found, what it means, and what to do.
func warning(found, means, do string) Result {
	return Result{State: Warning, Found: found, Means: means, Do: do}
}

func missing(found, means, do string) Result {
	return Result{State: Missing, Found: found, Means: means, Do: do}
}

// oldestKernel is the oldest one whose mounts can follow no symbolic link (mount_setattr(2)), and
// oldestQEMU the oldest that has been tried.
var (
	oldestKernel = release{5, 14}
	oldestQEMU   = release{7, 2}
)

func kernel(f Facts) Result {
	if !older(f.Kernel, oldestKernel) {
		return ok("Linux %s", f.Kernel)
	}
	return missing("Linux "+f.Kernel, "no container starts: mounts cannot be made to follow no symbolic link", fmt.Sprintf("install a kernel of version %d.%d or newer", oldestKernel.major, oldestKernel.minor))
}

// A release is the beginning of a version.
type release struct{ major, minor int }

// older tells whether a version is older than a release, or none.
func older(version string, than release) bool {
	var is release
	if _, err := fmt.Sscanf(version, "%d.%d", &is.major, &is.minor); err != nil {
		return true
	}
	return is.major < than.major || is.major == than.major && is.minor < than.minor
}

func configuration(f Facts) Result {
	switch {
	case len(f.Config.Problems) > 0:
		return missing(strings.Join(f.Config.Problems, "; "), "no container starts", "msbctl config validate")
	case len(f.Config.Files) == 0:
		return ok("no file: all settings have their defaults")
	}
	return ok("%s", strings.Join(f.Config.Files, ", "))
}

func kit(f Facts) Result {
	const means, do = "no container starts", "make install"
	switch {
	case f.Kit.Shim == "":
		return missing("there is no containerd-shim-msb-v2 beside msbctl", "this is not the msbctl of an installation", do)
	case len(f.Kit.Missing) > 0:
		return missing(fmt.Sprintf("%s has no %s", f.Kit.Dir, strings.Join(f.Kit.Missing, ", ")), means, do)
	case f.Kit.Broken != nil:
		return missing(f.Kit.Broken.Error(), means, do)
	case f.Kit.Version == "":
		return warning(f.Kit.Dir+"/VERSIONS does not say of which msb it is", "shim and guest may not understand each other", do)
	case f.Kit.Version != f.Version:
		return warning(fmt.Sprintf("%s is of msb %s, and msbctl of %s", f.Kit.Dir, f.Kit.Version, f.Version),
			"shim and guest may not understand each other", do)
	}
	return ok("%s, msb %s, guest's kernel %s", f.Kit.Dir, f.Kit.Version, strings.TrimSpace(f.Kit.Guest+" "+f.foreign()))
}

// foreign tells of guests of another architecture than the host's, which run on QEMU alone, in
// software emulation; it is empty if they are of the same.
func (f Facts) foreign() string {
	if f.Kit.Arch == "" || f.Kit.Arch == f.Arch {
		return ""
	}
	return fmt.Sprintf("for %s on a host of %s", f.Kit.Arch, f.Arch)
}

// krunRuns and qemuRuns tell whether the drivers would run.
func (f Facts) krunRuns() bool { return f.KVM == nil && f.Krun == nil && f.foreign() == "" }
func (f Facts) qemuRuns() bool { return f.QEMU.Err == nil }

// usesKrun and usesQEMU tell which of them starts containers, if one does.
func (f Facts) usesKrun() bool { return f.krunRuns() && !f.needs("qemu") }
func (f Facts) usesQEMU() bool { return f.qemuRuns() && !f.needs("krun") && !f.usesKrun() }

// needs tells whether a driver is the only one that is allowed.
func (f Facts) needs(driver string) bool { return f.Config.Driver == driver }

const slow = "VMs run in software emulation, which is several times slower"

func hardware(f Facts) Result {
	switch {
	case f.foreign() != "":
		return ok("of no use: the guest's kernel is %s", f.foreign())
	case f.KVM == nil:
		return ok("runs a guest")
	}
	r := warning(text(f.KVM), slow, "enable virtualisation in the firmware, then: modprobe -a kvm_intel kvm_amd")
	if f.needs("krun") {
		r.State, r.Means = Missing, "no container starts: the configuration asks for the driver krun"
	}
	if f.KVMModule != "" && errors.Is(f.KVM, fs.ErrNotExist) {
		r.Do = "modprobe " + f.KVMModule + "; if that fails, enable virtualisation in the firmware"
		r.Remedy = load(f.KVMModule)
	}
	return r
}

func libkrun(f Facts) Result {
	const do = "make deps-krun install"
	switch {
	case f.foreign() != "" && f.needs("krun"):
		return missing("it runs no guests of another architecture: the guest's kernel is "+f.foreign(), "no container starts: the configuration asks for the driver krun", "make install, of a kit for this host")
	case f.foreign() != "":
		return ok("of no use: the guest's kernel is %s", f.foreign())
	case f.Krun == nil:
		return ok("msb's, with its features blk and net")
	case f.needs("krun"):
		return missing(text(f.Krun), "no container starts: the configuration asks for the driver krun", do)
	case f.needs("qemu"):
		return ok("cannot be loaded, and not asked for")
	case f.KVM != nil:
		return ok("cannot be loaded, and without KVM of no use")
	}
	return warning(text(f.Krun), "VMs run on QEMU, which starts slower", do)
}

func emulator(f Facts) Result {
	do := "apt-get install " + f.QEMU.Package
	if f.QEMU.OfVirtiofsd {
		do = "make deps-qemu install"
	}
	switch {
	case f.qemuRuns() && !f.usesQEMU():
		return ok("%s %s, %s; not used", f.QEMU.Path, f.QEMU.Version, f.QEMU.Virtiofsd)
	case f.qemuRuns() && older(f.QEMU.Version, oldestQEMU):
		return warning(fmt.Sprintf("%s is QEMU %s", f.QEMU.Path, f.QEMU.Version), "no container has been tried with it, and none may start", "install QEMU 7.2 or newer, and name it by qemu.path")
	case f.qemuRuns() && f.QEMU.Own:
		return ok("%s %s, %s", f.QEMU.Path, f.QEMU.Version, f.QEMU.Virtiofsd)
	case f.qemuRuns():
		return warning(fmt.Sprintf("%s is not msb's virtiofsd", f.QEMU.Virtiofsd),
			"users in a container can read and write files whose access control lists refuse them, where the mode does not", "make deps-qemu install")
	case f.usesKrun(), f.needs("krun"):
		return ok("cannot run, and not used")
	}
	return missing(text(f.QEMU.Err), "no container starts", do)
}

func driver(f Facts) Result {
	switch {
	case f.usesKrun():
		return ok("krun")
	case f.usesQEMU() && f.foreign() != "":
		return warning("qemu, in software emulation of "+f.Kit.Arch, slow, "make install, of a kit for this host")
	case f.usesQEMU() && f.KVM == nil:
		return ok("qemu, with KVM")
	case f.usesQEMU():
		return warning("qemu, without KVM", slow, "see KVM above")
	}
	return missing("none can run", "no container starts", "see KVM, libkrun and QEMU above")
}

func fuse(f Facts) Result {
	const means = "no file can be mounted read-write, but with the option x-msb.metadata=host; and no images"
	switch {
	case f.FUSE == nil:
		return ok("mounts")
	case absent(f.FUSE):
		return missing(text(f.FUSE), means, "").with(load("fuse"))
	}
	return missing(text(f.FUSE), means, "let root mount it: outside of a chroot whose / is no mount, and of a container without CAP_SYS_ADMIN")
}

// absent tells whether an error of a device says that there is none, for which a module helps.
func absent(err error) bool {
	return errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENODEV) || errors.Is(err, unix.ENXIO)
}

func passthrough(f Facts) Result {
	switch {
	case f.FUSE != nil && absent(f.FUSE):
		return warning("FUSE is not there", "see FUSE above", "").with(load("fuse"))
	case f.FUSE != nil:
		return warning("cannot be tried without FUSE", "see FUSE above", "see FUSE above")
	case f.Passthrough != nil:
		return warning(text(f.Passthrough), "mounted files are read and written slower", "install a kernel of version 6.9 or newer")
	}
	return ok("takes backing files")
}

func tap(f Facts) Result {
	const means = "only containers without a network start, and those with the host's"
	switch {
	case f.TAP == nil:
		return ok("/dev/net/tun makes them")
	case absent(f.TAP):
		return missing(text(f.TAP), means, "").with(load("tun"))
	}
	return missing(text(f.TAP), means, "let root open /dev/net/tun and make network namespaces, as outside of a container")
}

func vhost(f Facts) Result {
	const means = "QEMU copies the packets of containers itself, which is slower"
	used := f.usesQEMU() && f.KVM == nil && f.foreign() == ""
	switch {
	case f.Vhost == nil && used:
		return ok("copies the packets for QEMU")
	case f.Vhost == nil:
		return ok("there, and not used: it is for QEMU with KVM")
	case !used:
		return ok("not there, and not used: it is for QEMU with KVM")
	case absent(f.Vhost):
		return warning(text(f.Vhost), means, "").with(load("vhost_net"))
	}
	return warning(text(f.Vhost), means, "rm /dev/vhost-net if it is no device, then modprobe vhost_net; and let containerd open it")
}

func redirect(f Facts) Result {
	switch {
	case f.TAP != nil && absent(f.TAP):
		return warning("cannot be tried without TAP devices", "see TAP devices above", "").with(load("tun"))
	case f.TAP != nil:
		return warning("cannot be tried without TAP devices", "see TAP devices above", "see TAP devices above")
	case f.Redirect != nil:
		return missing(text(f.Redirect), "only containers without a network start, and those with the host's", "").with(load("sch_ingress", "cls_u32", "act_mirred"))
	}
	return ok("ingress, u32 and mirred")
}

func lookup(f Facts) Result {
	if f.Lookup == nil {
		return ok("takes the program")
	}
	return warning(text(f.Lookup), "no port can be forwarded to a pod (kubectl port-forward)", "install a kernel with CONFIG_BPF_SYSCALL, 5.9 or newer, and let root load BPF programs")
}

func groups(f Facts) Result {
	const means = "limits that need them hold in the guest, but not for the VM on the host"
	switch {
	case f.Cgroup.Version == 0:
		return missing("none are mounted", "no container with a control group starts", "mount -t cgroup2 cgroup2 /sys/fs/cgroup")
	case len(f.Cgroup.Missing) > 0 && f.Cgroup.Version == 1:
		return warning("version 1, without "+strings.Join(f.Cgroup.Missing, ", "), means, mountV1(f.Cgroup.Missing))
	case len(f.Cgroup.Missing) > 0:
		return warning("version 2, without "+strings.Join(f.Cgroup.Missing, ", "), means,
			"boot a kernel that has them, without cgroup_disable= and without version 1 of them")
	}
	return ok("version %d", f.Cgroup.Version)
}

func mountV1(controllers []string) string {
	return fmt.Sprintf("for c in %s; do mkdir -p /sys/fs/cgroup/$c && mount -t cgroup -o $c cgroup /sys/fs/cgroup/$c; done", strings.Join(controllers, " "))
}

func sharedRoot(f Facts) Result {
	switch {
	case f.SharedRoot:
		return ok("/ is shared: shims see what the host mounts later")
	case f.NoRoot:
		return missing("/ is no mount: this is a chroot", "no container starts", "mount --rbind ROOT ROOT before chroot ROOT, or run containerd outside of it")
	}
	return warning("/ is not a shared mount", "a shim does not see bundles, programs and configuration on what the host mounts after its start", "mount --make-rshared /, before containerd starts")
}

// fewDescriptors is less than a file server of a busy guest needs: it has one for each file.
const fewDescriptors = 1 << 16

func descriptors(f Facts) Result {
	if f.Descriptors >= fewDescriptors {
		return ok("%d for each file server", f.Descriptors)
	}
	return warning(fmt.Sprintf("%d for each file server", f.Descriptors), "a guest that uses more files at a time gets errors", "LimitNOFILE=1048576 in containerd's unit: systemctl edit containerd")
}

func daemon(f Facts) Result {
	if f.Containerd.Err != nil {
		return missing(text(f.Containerd.Err), "nothing starts containers", "systemctl start containerd (install it, if there is none), or name its socket: msbctl check --address")
	}
	return ok("%s at %s", f.Containerd.Version, f.Containerd.Address)
}

func traces(f Facts) Result {
	switch {
	case f.Traces.Err != nil:
		return warning(text(f.Traces.Err), "containers run, and shims send no traces", "correct it, in msb's configuration or in containerd's environment: docs/operations.md, Traces")
	case f.Traces.Setting == "":
		return ok("off")
	}
	return ok("sent to where %s says", f.Traces.Setting)
}

const unasked = "containerd was not asked"

func ourRuntime(f Facts) Result {
	switch {
	case f.Containerd.Err != nil:
		return warning(unasked, "see containerd above", "msbctl check, when it runs")
	case f.Containerd.Runtime != nil && len(f.Containerd.Handlers) > 0:
		return ok("for Kubernetes alone: for ctr, nerdctl and Docker the shim is not in containerd's PATH")
	case f.Containerd.Runtime != nil:
		return missing(text(f.Containerd.Runtime), "containers with the runtime io.containerd.msb.v2 do not start", fmt.Sprintf("ln -s %s /usr/local/bin/, or another directory of containerd's PATH", orElse(f.Kit.Shim, "SHIM")))
	case f.Containerd.RuntimeVersion != f.Version:
		return warning(fmt.Sprintf("containerd starts msb %s, and msbctl is %s", f.Containerd.RuntimeVersion, f.Version), "another installation than this one runs the containers", "make install, with the PREFIX of that one; or take one of them away")
	}
	return ok("io.containerd.msb.v2, msb %s", f.Containerd.RuntimeVersion)
}

func kubernetes(f Facts) Result {
	switch {
	case f.Containerd.Err != nil:
		return warning(unasked, "see containerd above", "msbctl check, when it runs")
	case !f.Containerd.CRI:
		return ok("this containerd serves none")
	case len(f.Containerd.Handlers) == 0:
		return warning("containerd's configuration has no runtime of msb", "pods cannot have it; ctr, nerdctl and Docker can", "kubectl apply -k deploy, or deploy/containerd/version-3.toml in /etc/containerd/conf.d")
	}
	return ok("runtime handler %s", strings.Join(f.Containerd.Handlers, ", "))
}

func snapshotter(f Facts) Result {
	has := func(name string) bool { return slices.Contains(f.Containerd.Snapshotters, name) }
	switch {
	case f.Containerd.Err != nil:
		return warning(unasked, "see containerd above", "msbctl check, when it runs")
	case has("overlayfs") || has("erofs"):
		return ok("%s", strings.Join(f.Containerd.Snapshotters, ", "))
	case has("native"):
		return warning("only "+strings.Join(f.Containerd.Snapshotters, ", "), "each container has a copy of its image", "modprobe overlay, then start containerd again")
	}
	return missing("none works", "containers have no root file system", "modprobe overlay, then start containerd again")
}

func orElse(text, other string) string {
	if text == "" {
		return other
	}
	return text
}
