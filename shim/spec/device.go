package spec

import (
	"cmp"
	"fmt"
	"path"
	"slices"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// A device is what the kernel knows of one: "c" or "b", and its numbers.
type device struct {
	kind         string
	major, minor int64
}

func deviceOf(d specs.LinuxDevice) device {
	if d.Type == "u" { // unbuffered, the same (mknod(1))
		d.Type = "c"
	}
	return device{d.Type, d.Major, d.Minor}
}

// everyContainers are the devices that a runtime makes in every container
// (runtime-spec, config-linux.md, "Default Devices").
var everyContainers = []device{
	{"c", 1, 3}, {"c", 1, 5}, {"c", 1, 7}, // null zero full
	{"c", 1, 8}, {"c", 1, 9}, {"c", 5, 0}, // random urandom tty
}

// guestDevices are those that every kernel has (Documentation/admin-guide/devices.txt): the
// guest's own serve.
var guestDevices = append(slices.Clip(everyContainers),
	device{"c", 5, 1}, device{"c", 5, 2}, // console ptmx
	device{"c", 10, 200}, device{"c", 10, 229}, // net/tun fuse
)

const (
	blockMajorLoop = 7
	guestLoops     = 8 // that the guest's kernel makes by itself
)

var loopControl = device{"c", 10, 237}

// isGuestsToo tells of a device of a privileged container whether the guest's own serves: it
// is no content of the host's.
func isGuestsToo(d device) bool {
	return d == device{"c", 1, 11} || d == loopControl || // kmsg
		d.kind == "b" && d.major == blockMajorLoop && d.minor < guestLoops
}

// A BlockDevice is one of the host's that the container is given. The guest has a loop device
// of it.
type BlockDevice struct {
	// Path is the device's in the container.
	Path string
	// Major and Minor are its numbers on the host.
	Major, Minor uint32
	// ReadOnly says that no rule lets the container write to it.
	ReadOnly bool

	index  int    // in the devices for the guest
	access string // that rules give (runtime-spec, config-linux.md, "Allowed Device list")
}

// devices are those of a configuration.
type devices struct {
	guest  []specs.LinuxDevice // for crun in the guest
	blocks []BlockDevice
	missed []string
}

// planDevices leaves the devices that the guest has, and finds the host's block devices. Any
// other of the host's that is asked for is refused; a privileged container, which is given all
// that there are, goes without the host's, and that is missed.
func planDevices(linux *specs.Linux) (planned devices, err error) {
	privileged := hasAllDevices(linux)
	var without []string
	for _, given := range linux.Devices {
		if err := checkDevice(given); err != nil {
			return devices{}, err
		}
		given.Path = path.Join("/", given.Path) // as with runc
		switch d := deviceOf(given); {
		case d.kind == "p": // nobody's: a FIFO
			planned.guest = append(planned.guest, given)
		case slices.Contains(guestDevices, d), privileged && isGuestsToo(d):
			planned.guest = append(planned.guest, given)
		case privileged:
			without = append(without, shorten(given.Path))
		case d.kind == "b":
			block, err := planBlock(linux, given)
			if err != nil {
				return devices{}, err
			}
			block.index = len(planned.guest)
			planned.guest, planned.blocks = append(planned.guest, given), append(planned.blocks, block)
		default:
			return devices{}, unsupported("device %s is the host's and cannot be given to a microVM, which takes block devices only: leave it out (--device of docker, nerdctl and ctr, devices of compose, a device plugin of Kubernetes, CDI), or use another runtime for this container", shorten(given.Path))
		}
	}
	if len(without) > 0 {
		planned.missed = []string{fmt.Sprintf("devices of the host, which a privileged container is given and a microVM cannot have (%s)", Enumerate(without))}
	}
	return planned, nil
}

func checkDevice(given specs.LinuxDevice) error {
	switch {
	case !isAny(given.Type, "c", "u", "b", "p"):
		return invalid("device %s has the type %q: it is c, u, b or p", shorten(given.Path), shorten(given.Type))
	case isAny(path.Join("/", given.Path), "/"):
		return invalid("linux.devices has a device without a path: give it one, or leave it out")
	}
	return nil
}

func planBlock(linux *specs.Linux, given specs.LinuxDevice) (BlockDevice, error) {
	switch {
	case given.Major < 0 || given.Major > maxMajor || given.Minor < 0 || given.Minor > maxMinor:
		return BlockDevice{}, invalid("device %s: there is no block device %d:%d", shorten(given.Path), given.Major, given.Minor)
	case has(linux.Namespaces, specs.UserNamespace):
		return BlockDevice{}, unsupported("device %s: block devices of the host are not given to containers with a user namespace: leave it out, or the namespace (hostUsers of Kubernetes)", shorten(given.Path))
	}
	access := accessTo(linux.Resources, deviceOf(given))
	return BlockDevice{
		Path: given.Path, Major: uint32(given.Major), Minor: uint32(given.Minor),
		ReadOnly: !strings.Contains(access, "w"), access: access,
	}, nil
}

// The kernel's bounds of a device's numbers (include/linux/kdev_t.h).
const (
	maxMajor = 1<<12 - 1
	maxMinor = 1<<20 - 1
)

// accessTo is what rules allow to be done with a device: the later ones change what those before
// them say, and without any it is nothing.
func accessTo(resources *specs.LinuxResources, d device) string {
	if resources == nil {
		return ""
	}
	allowed := make(map[rune]bool)
	for _, rule := range resources.Devices {
		if !concerns(rule, d.kind) || !covers(rule.Major, d.major) || !covers(rule.Minor, d.minor) {
			continue
		}
		for _, kind := range cmp.Or(rule.Access, allAccess) {
			allowed[kind] = rule.Allow
		}
	}
	var access strings.Builder
	for _, kind := range allAccess {
		if allowed[kind] {
			access.WriteRune(kind)
		}
	}
	return access.String()
}

const allAccess = "rwm"

// concerns tells whether a rule is about character or block devices, c or b.
func concerns(rule specs.LinuxDeviceCgroup, kind string) bool {
	return rule.Type == "" || rule.Type == "a" || rule.Type == kind
}

// covers tells whether a rule's number is another, or all.
func covers(rule *int64, number int64) bool { return isAll(rule) || *rule == number }

// guestBlocks makes the container's block devices those that the guest has of them, numbers, and
// lets it use them as it may the host's.
func (p *Plan) guestBlocks(linux *specs.Linux, numbers []uint32) {
	if len(p.BlockDevices) == 0 {
		return
	}
	linux.Devices = slices.Clone(linux.Devices)
	var resources specs.LinuxResources
	if linux.Resources != nil {
		resources = *linux.Resources
	}
	resources.Devices = slices.Clone(resources.Devices)
	for i, block := range p.BlockDevices {
		major, minor := int64(blockMajorLoop), int64(numbers[i])
		given := &linux.Devices[block.index]
		given.Major, given.Minor = major, minor
		if block.access != "" {
			resources.Devices = append(resources.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: "b", Major: &major, Minor: &minor, Access: block.access})
		}
	}
	linux.Resources = &resources
}

// Enumerate is a list for people, not too long.
func Enumerate(names []string) string {
	const most = 20
	if len(names) <= most {
		return strings.Join(names, ", ")
	}
	return fmt.Sprintf("%s and %d more", strings.Join(names[:most], ", "), len(names)-most)
}

// hasAllDevices tells a container that is privileged from one for which devices were asked
// for one by one. It may use every device, and the list has those that every container has
// anyway, which nobody asks for: clients list the host's whole /dev (Docker, containerd's
// client and CRI plugin, Podman). BuildKit lists the loop devices (security.insecure).
func hasAllDevices(linux *specs.Linux) bool {
	if linux.Resources == nil || !allowsAll(linux.Resources.Devices) {
		return false
	}
	given := make(map[device]bool)
	loops := true
	for _, d := range linux.Devices {
		given[deviceOf(d)] = true
		loops = loops && (deviceOf(d) == loopControl || d.Type == "b" && d.Major == blockMajorLoop)
	}
	return loops && given[loopControl] || !slices.ContainsFunc(everyContainers, func(d device) bool { return !given[d] })
}

// allowsAll tells whether rules allow every device in the end.
func allowsAll(rules []specs.LinuxDeviceCgroup) bool {
	allowed := map[string]bool{"c": false, "b": false}
	for _, rule := range rules {
		for kind := range allowed {
			switch {
			case !concerns(rule, kind):
			case !rule.Allow:
				allowed[kind] = false
			case isAll(rule.Major) && isAll(rule.Minor) && isAnyAccess(rule.Access):
				allowed[kind] = true
			}
		}
	}
	return allowed["c"] && allowed["b"]
}

// isAll: a number that is left out, or negative, is any.
func isAll(number *int64) bool { return number == nil || *number < 0 }

func isAnyAccess(access string) bool {
	return strings.Contains(access, "r") && strings.Contains(access, "w") && strings.Contains(access, "m")
}

// withDeviceRules are limits that let a container use the devices that every container has, and no
// other, if they have no rule. So it is with runc; to crun no rule is no limit.
func withDeviceRules(asked *specs.LinuxResources) *specs.LinuxResources {
	var limits specs.LinuxResources
	if asked != nil {
		limits = *asked
	}
	if len(limits.Devices) == 0 {
		limits.Devices = []specs.LinuxDeviceCgroup{{Access: "rwm"}}
	}
	return &limits
}
