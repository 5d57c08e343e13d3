package spec

import (
	"regexp"
	"slices"
	"strconv"
	"sync"

	"github.com/opencontainers/runtime-spec/specs-go"
)

// hostNamespaces are those of the host that a container may ask for and that the VM's can
// stand for, with what Kubernetes calls that.
var hostNamespaces = []struct {
	kind      specs.LinuxNamespaceType
	name, pod string
}{
	{specs.PIDNamespace, "PID", " (hostPID)"},
	{specs.IPCNamespace, "IPC", " (hostIPC)"},
	{specs.UTSNamespace, "UTS", ""},
}

func has(namespaces []specs.LinuxNamespace, kind specs.LinuxNamespaceType) bool {
	return slices.ContainsFunc(namespaces, func(n specs.LinuxNamespace) bool { return n.Type == kind })
}

// missing are the kinds of which a container has none of its own: it asks for the host's
// (runtime-spec, config-linux.md, "Namespaces").
func missing(namespaces []specs.LinuxNamespace) (kinds []specs.LinuxNamespaceType) {
	for _, namespace := range hostNamespaces {
		if !has(namespaces, namespace.kind) {
			kinds = append(kinds, namespace.kind)
		}
	}
	return kinds
}

// HostNamespaces are the PID, IPC and UTS namespaces of which the container asks for the
// host's, in that it has none of its own.
func (p *Plan) HostNamespaces() []specs.LinuxNamespaceType { return p.hosts }

// RefuseHost is the error for a container that asks for a namespace of the host and is not
// to have the VM's.
func (p *Plan) RefuseHost(kind specs.LinuxNamespaceType) error {
	return refuseHost(p.pod.ID != "", kind)
}

func refuseHost(pod bool, kind specs.LinuxNamespaceType) error {
	for _, namespace := range hostNamespaces {
		if namespace.kind != kind {
			continue
		}
		who, what := "container", namespace.name+" namespace"
		if pod {
			who, what = "pod", namespace.name+namespace.pod
		}
		return unsupported("the %s asks for the host's %s, which a microVM cannot share: give it its own, or set compat.host_namespaces = \"vm\" in msb's configuration, and it has the VM's", who, what)
	}
	return unsupported("the host's %s namespace cannot be shared with a microVM: give the container its own", kind)
}

// hostsNetwork is the error for a pod that asks for the host's network.
func hostsNetwork() error {
	return unsupported("the pod asks for the host's network (hostNetwork), which a microVM cannot share: give it its own, or use another runtime")
}

// processNamespace is the path of a namespace of a process (namespaces(7)).
var processNamespace = sync.OnceValue(func() *regexp.Regexp {
	return regexp.MustCompile(`^/proc/([1-9][0-9]{0,9})/ns/(ipc|uts|pid|user)$`)
})

// joins finds the namespaces of other processes that a container is to be in.
func joins(namespaces []specs.LinuxNamespace, pod Pod) (map[specs.LinuxNamespaceType]int, error) {
	var joined map[specs.LinuxNamespaceType]int
	for _, namespace := range namespaces {
		if namespace.Path == "" || namespace.Type == specs.NetworkNamespace {
			continue
		}
		if namespace.Type == specs.UserNamespace && pod.Sandbox {
			continue // the CRI plugin keeps one of the same ids at some path; the guest has its own
		}
		match := processNamespace().FindStringSubmatch(namespace.Path)
		if match == nil {
			return nil, unsupported("joining the %s namespace %s of the host is not possible from a microVM: leave the path out", namespace.Type, namespace.Path)
		}
		pid, err := strconv.Atoi(match[1])
		if err != nil {
			return nil, invalid("namespace %s: %v", namespace.Path, err)
		}
		if joined == nil {
			joined = make(map[specs.LinuxNamespaceType]int)
		}
		joined[namespace.Type] = pid
	}
	return joined, nil
}

// Joins are the IPC, UTS, PID and user namespaces that the container is to share: of the
// host's processes by these ids, each of which stands for a container or a pod.
func (p *Plan) Joins() map[specs.LinuxNamespaceType]int { return p.joins }

// NamespaceName is the kernel's name of a kind of namespace, as in /proc/PID/ns.
func NamespaceName(kind specs.LinuxNamespaceType) string {
	switch kind {
	case specs.NetworkNamespace:
		return "net"
	case specs.MountNamespace:
		return "mnt"
	}
	return string(kind)
}

// Network is which network a container asks for (runtime-spec, config-linux.md,
// "Namespaces").
type Network struct {
	// Host asks for the host's.
	Host bool
	// Path is that of a network namespace to join; empty means a new one.
	Path string
}

// IsNew says that a network namespace of its own is asked for, in which nothing is.
func (n Network) IsNew() bool { return !n.Host && n.Path == "" }

// Network is the container's.
func (p *Plan) Network() Network { return networkOf(p.spec.Linux.Namespaces) }

func networkOf(namespaces []specs.LinuxNamespace) Network {
	for _, namespace := range namespaces {
		if namespace.Type == specs.NetworkNamespace {
			return Network{Path: namespace.Path}
		}
	}
	return Network{Host: true}
}

// guestNamespaces are the container's in the guest. Those of the host that it asks for are
// some that others in its VM have, too: of the agent's it gets none but, with the host's
// network, the network namespace.
func (p *Plan) guestNamespaces(places Places) []specs.LinuxNamespace {
	namespaces := slices.Clone(p.spec.Linux.Namespaces)
	for i, namespace := range namespaces {
		switch {
		case namespace.Type == specs.NetworkNamespace:
			namespaces[i].Path = places.Network
		case namespace.Type == specs.UserNamespace:
			namespaces[i].Path = places.Users
		case namespace.Path != "":
			namespaces[i].Path = places.Joined[namespace.Type]
		}
	}
	for _, kind := range p.hosts {
		namespaces = append(namespaces, specs.LinuxNamespace{Type: kind, Path: places.Joined[kind]})
	}
	if p.pod.ID != "" && p.Network().Host {
		namespaces = append(namespaces, specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: places.Network})
	}
	return namespaces
}
