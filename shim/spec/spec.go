// Package spec turns an OCI runtime configuration written for this host into
// what a microVM needs: how big it must be, what of the host it is given, and
// the configuration for the crun inside. It only plans: nothing here touches
// the host, and what is not supported is refused here, before anything starts.
package spec

import (
	"cmp"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"
)

// Plan is a container's configuration, understood.
type Plan struct {
	// Binds are what the container is given of the host, in the spec's order.
	Binds []Bind
	// Volumes are the images that the guest mounts for it, in the spec's order.
	Volumes []Volume
	// BlockDevices are the host's that it is given.
	BlockDevices []BlockDevice
	// Rootfs is the absolute path of the container's root file system on the
	// host; containerd may mount something there or hand over mounts instead.
	Rootfs string

	spec          *specs.Spec
	process       specs.Process // for the guest
	pod           Pod
	resources     *specs.LinuxResources // for the VM
	limits        Limits
	devices       []specs.LinuxDevice // for the guest
	missed        []string            // of the rest
	hosts         []specs.LinuxNamespaceType
	joins         map[specs.LinuxNamespaceType]int
	users         IDMap
	sandboxMemory string
	memoryIndex   int // of it in the spec's mounts
}

// Load reads and plans the configuration of a bundle.
func Load(bundle string) (*Plan, error) { return LoadMember(bundle, "") }

// LoadMember is Load for a member of a sandbox of the Sandbox API; see NewMember.
func LoadMember(bundle, sandbox string) (*Plan, error) {
	spec, err := read(bundle)
	if err != nil {
		return nil, err
	}
	return NewMember(spec, bundle, sandbox)
}

// read reads the configuration of a bundle.
func read(bundle string) (*specs.Spec, error) {
	path := filepath.Join(bundle, "config.json")
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, fmt.Errorf("reading the bundle's configuration: %w (%w)", err, errdefs.ErrInvalidArgument)
	}
	spec := new(specs.Spec)
	if err := json.Unmarshal(data, spec); err != nil {
		return nil, fmt.Errorf("%s is not an OCI runtime configuration: %w (%w)", path, err, errdefs.ErrInvalidArgument)
	}
	return spec, nil
}

// New plans a configuration, whose relative paths are those of the bundle
// (runtime-spec, config.md). The plan owns the spec.
func New(spec *specs.Spec, bundle string) (*Plan, error) { return NewMember(spec, bundle, "") }

// NewMember is New for a container that came to the shim of a sandbox: its client has made
// it a member of that, and need not be the CRI plugin, whose annotations say which pod a
// container is of. They count if sandbox is empty.
func NewMember(spec *specs.Spec, bundle, sandbox string) (*Plan, error) {
	pod := Pod{ID: sandbox}
	if sandbox == "" {
		pod = PodOf(spec.Annotations)
	}
	if err := check(spec, sandbox == "" && pod.ID != ""); err != nil {
		return nil, err
	}
	p := &Plan{Rootfs: absolute(bundle, spec.Root.Path), spec: spec, pod: pod, hosts: missing(spec.Linux.Namespaces)}
	var err error
	if p.process, err = planProcess("the container", *spec.Process); err != nil {
		return nil, err
	}
	if p.users, err = usersOf(spec.Linux); err != nil {
		return nil, err
	}
	if p.joins, err = joins(spec.Linux.Namespaces, p.Pod()); err != nil {
		return nil, err
	}
	if p.limits, err = limitsOf(resourcesAsked(spec), pod.ID == ""); err != nil {
		return nil, err
	}
	if err := checkSwap(spec.Linux.Resources); err != nil {
		return nil, err
	}
	if p.resources, err = vmResources(spec, pod, p.limits.Host); err != nil {
		return nil, err
	}
	devices, err := planDevices(spec.Linux)
	if err != nil {
		return nil, err
	}
	p.devices, p.BlockDevices, p.missed = devices.guest, devices.blocks, devices.missed
	files, err := fileOptions(spec.Annotations)
	if err != nil {
		return nil, err
	}
	hide, err := hideEverywhere(spec.Annotations)
	if err != nil {
		return nil, err
	}
	for i, mount := range spec.Mounts {
		if mount.Destination, err = cleanDestination(mount); err != nil {
			return nil, err
		}
		spec.Mounts[i] = mount
		if isVolume(mount) {
			volume, err := planVolume(mount, bundle)
			if err != nil {
				return nil, err
			}
			volume.index = i
			p.Volumes = append(p.Volumes, volume)
			continue
		}
		bind, isBind, err := planMount(mount, bundle, files, p.users)
		if err != nil {
			return nil, err
		}
		isMemory := isBind && isSandboxMemory(p.Pod(), bind)
		if err := bind.checkHide(isBind && !isMemory); err != nil {
			return nil, err
		}
		switch {
		case isMemory:
			p.sandboxMemory, p.memoryIndex = bind.Source, i
		case isBind:
			bind.index, bind.HideAny = i, hide
			p.Binds = append(p.Binds, bind)
		}
	}
	return p, nil
}

func absolute(bundle, path string) string {
	if filepath.IsAbs(path) {
		return filepath.Clean(path)
	}
	return filepath.Join(bundle, path)
}

// check refuses what the plan cannot keep. cri says that the CRI plugin's annotations make
// the container one of a pod.
func check(spec *specs.Spec, cri bool) error {
	switch {
	case spec.Root == nil || spec.Root.Path == "":
		return invalid("the configuration has no root.path")
	case spec.Process == nil:
		return invalid("the configuration has no process")
	case spec.Linux == nil:
		return invalid("the configuration has no linux section; msb runs Linux containers")
	}
	if err := checkHooks(spec.Hooks); err != nil {
		return err
	}
	if err := checkLinux(spec.Linux); err != nil {
		return err
	}
	if score := spec.Process.OOMScoreAdj; score != nil && (*score < -maxScore || *score > maxScore) {
		return invalid("the container has the OOM score adjustment %d, and there are -%[2]d to %[2]d: correct process.oomScoreAdj", *score, maxScore)
	}
	if err := checkFilter(spec.Linux.Seccomp); err != nil {
		return err
	}
	switch {
	case !has(spec.Linux.Namespaces, specs.MountNamespace):
		return unsupported("the container has no mount namespace of its own, which a microVM cannot do without: add one to linux.namespaces")
	case cri && !has(spec.Linux.Namespaces, specs.NetworkNamespace):
		return hostsNetwork()
	}
	return nil
}

// Hooks are the container's, to be run on the host, and the state that they get
// (runtime-spec, config.md, "POSIX-platform Hooks").
func (p *Plan) Hooks() specs.Hooks {
	if p.spec.Hooks == nil {
		return specs.Hooks{}
	}
	return *p.spec.Hooks
}

// State is the container's for its hooks (runtime-spec, runtime.md, "State").
func (p *Plan) State(id, bundle string, status specs.ContainerState, pid int) specs.State {
	return specs.State{Version: p.spec.Version, ID: id, Status: status, Pid: pid, Bundle: bundle, Annotations: p.spec.Annotations}
}

// CgroupsPath, Resources and OOMScoreAdj are the spec's own, for the VM as a whole
// (runtime-spec, config-linux.md and config.md).
func (p *Plan) CgroupsPath() string { return p.spec.Linux.CgroupsPath }

// Resources are the limits of the container, or of the pod whose sandbox it is; nil means
// none.
func (p *Plan) Resources() *specs.LinuxResources { return p.resources }

// Missed are what the configuration asks for and nobody keeps, each with the reason; for
// the log.
func (p *Plan) Missed() []string { return append(slices.Clone(p.limits.Missed), p.missed...) }

// OOMScoreAdj is nil when the spec sets none.
func (p *Plan) OOMScoreAdj() *int { return p.spec.Process.OOMScoreAdj }

// Places say where in the guest is what a configuration names.
type Places struct {
	// Rootfs is the root file system, Cgroup the path of the control group.
	Rootfs, Cgroup string
	// Binds and Volumes are for each of the plan's.
	Binds, Volumes []string
	// BlockDevices are the minor numbers of loop devices, for each of the plan's.
	BlockDevices []uint32
	// Network is the network namespace; a container with the host's network has
	// that of the guest. Empty means a new one.
	Network string
	// Users is the user namespace of containers that have one.
	Users string
	// Joined are the other namespaces that Plan.Joins and Plan.HostNamespaces ask for.
	Joined map[specs.LinuxNamespaceType]string
	// SharedMemory is the pod's, empty if it has none.
	SharedMemory string
	// SharesIPC says that the container is in the pod's IPC namespace. Then the pod's shared
	// memory is the container's.
	SharesIPC bool
	// PodFiles are those that the pod's sandbox has made, by their names.
	PodFiles map[string]string
}

// Guest is the configuration for crun in the guest.
func (p *Plan) Guest(places Places) ([]byte, error) {
	guest := *p.spec
	root, linux := *guest.Root, *guest.Linux
	root.Path = places.Rootfs
	linux.CgroupsPath = places.Cgroup
	linux.Resources, linux.Devices = withDeviceRules(p.limits.Guest), p.devices
	p.guestBlocks(&linux, places.BlockDevices)
	linux.MountLabel = "" // of the host's security module
	linux.Seccomp = guestFilter(linux.Seccomp)
	linux.Namespaces = ownGroup(p.guestNamespaces(places))
	if has(linux.Namespaces, specs.UserNamespace) {
		linux.UIDMappings, linux.GIDMappings = nil, nil // it has them
	}
	guest.Root, guest.Linux, guest.Process = &root, &linux, &p.process
	guest.Hooks = guestHooks(guest.Hooks)
	guest.Solaris, guest.Windows, guest.VM, guest.ZOS, guest.FreeBSD = nil, nil, nil, nil, nil // other platforms'
	guest.Mounts = p.guestMounts(places)
	return json.Marshal(&guest)
}

func (p *Plan) guestMounts(places Places) []specs.Mount {
	mounts := slices.Clone(p.spec.Mounts)
	for i, bind := range p.Binds {
		mount := &mounts[bind.index]
		mount.Source, mount.Type = places.Binds[i], "bind"
		mount.Options = bind.guestOptions()
	}
	for i, volume := range p.Volumes {
		mount := &mounts[volume.index]
		mount.Source, mount.Type, mount.Options = places.Volumes[i], "bind", volume.guestOptions()
	}
	for i := range mounts {
		mounts[i].UIDMappings, mounts[i].GIDMappings = nil, nil // the host's mount has them
		mounts[i].Options = crunOptions(mounts[i])
	}
	if p.sandboxMemory != "" {
		mounts[p.memoryIndex].Source = places.SharedMemory
	}
	mounts = groupMounts(mounts, p.users.IsZero() || !p.Network().Host, func(index int) bool {
		return slices.ContainsFunc(p.Binds, func(bind Bind) bool { return bind.index == index })
	})
	if p.Pod().ID == "" {
		return mounts
	}
	memory := places.SharedMemory
	if !places.SharesIPC {
		memory = ""
	}
	return podMounts(mounts, memory, places.PodFiles, p.spec.Root.Readonly)
}

// guestHooks are those that run in the container (startContainer): their programs
// are the container's.
func guestHooks(hooks *specs.Hooks) *specs.Hooks {
	if hooks == nil || len(hooks.StartContainer) == 0 {
		return nil
	}
	return &specs.Hooks{StartContainer: hooks.StartContainer}
}

func invalid(format string, args ...any) error {
	return fmt.Errorf(format+": %w", append(args, errdefs.ErrInvalidArgument)...)
}

// unsupported is for what a spec may ask of runc and not of a microVM. It is not
// of the class ErrNotImplemented: from Create containerd takes that for a shim of
// an older API, and tries again.
func unsupported(format string, args ...any) error { return invalid(format, args...) }

func isAny(word string, words ...string) bool { return slices.Contains(words, word) }

func hasPrefix(path, dir string) bool { return path == dir || strings.HasPrefix(path, dir+"/") }

// GuestProcess is the process of an exec request, for the guest. As with runc, what it does not say
// of how it is scheduled and of its limits is as it is for the container's first process, and so is
// the umask, whatever it says.
func (p *Plan) GuestProcess(process *anypb.Any) (*anypb.Any, error) {
	first := p.spec.Process
	return rewrite(process, "the exec's process", func(asked *specs.Process) (err error) {
		if *asked, err = planProcess("the exec", *asked); err != nil {
			return err
		}
		asked.Scheduler = cmp.Or(asked.Scheduler, first.Scheduler)
		asked.IOPriority = cmp.Or(asked.IOPriority, first.IOPriority)
		asked.ExecCPUAffinity = cmp.Or(asked.ExecCPUAffinity, first.ExecCPUAffinity)
		if len(asked.Rlimits) == 0 {
			asked.Rlimits = first.Rlimits
		}
		asked.User.Umask = first.User.Umask
		return nil
	})
}

// Update reads the resources of an update request, and sorts them like those of a
// configuration. alone says that the container has its VM for itself, or is the sandbox of
// its pod.
func Update(resources *anypb.Any, alone bool) (guest *anypb.Any, limits Limits, err error) {
	guest, err = rewrite(resources, "the update's resources", func(r *specs.LinuxResources) error {
		if limits, err = limitsOf(r, alone); err == nil {
			*r = *limits.Guest
			r.Devices = nil // as with runc, which devices a container may use stays
		}
		return err
	})
	return guest, limits, err
}

// rewrite changes the JSON that a request carries as an Any.
func rewrite[T any](value *anypb.Any, name string, change func(*T) error) (*anypb.Any, error) {
	var content T
	if err := json.Unmarshal(value.GetValue(), &content); err != nil {
		return nil, fmt.Errorf("%s cannot be read: %w (%w)", name, err, errdefs.ErrInvalidArgument)
	}
	if err := change(&content); err != nil {
		return nil, err
	}
	data, err := json.Marshal(&content)
	if err != nil {
		return nil, err
	}
	return &anypb.Any{TypeUrl: value.GetTypeUrl(), Value: data}, nil
}
