package spec

import (
	"fmt"
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

// planDevices leaves the devices that the guest has. One of the host's that is asked for is
// refused; a privileged container, which is given all that there are, goes without the
// host's, and that is missed.
func planDevices(linux *specs.Linux) (guest []specs.LinuxDevice, missed []string, err error) {
	privileged := hasAllDevices(linux)
	var without []string
	for _, given := range linux.Devices {
		switch d := deviceOf(given); {
		case slices.Contains(guestDevices, d), privileged && isGuestsToo(d):
			guest = append(guest, given)
		case privileged:
			without = append(without, shorten(given.Path))
		default:
			return nil, nil, unsupported("device %s is the host's and cannot be given to a microVM: leave it out (--device of docker, nerdctl and ctr, devices of compose, a device plugin of Kubernetes, CDI), or use another runtime for this container", shorten(given.Path))
		}
	}
	if len(without) > 0 {
		missed = []string{fmt.Sprintf("devices of the host, which a privileged container is given and a microVM cannot have (%s)", Enumerate(without))}
	}
	return guest, missed, nil
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
			case rule.Type != "" && rule.Type != "a" && rule.Type != kind:
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
