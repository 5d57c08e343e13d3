package spec

import (
	"errors"
	"maps"
	"os"
	"path"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/msb-runtime/containerd-shim-msb/shim/spec/cri"
)

// A Sandbox is the configuration of a sandbox that the Sandbox API makes, understood: no
// container stands for it.
type Sandbox struct {
	annotations map[string]string
	trusted     bool // annotations are its client's own
	resources   *specs.LinuxResources
	missed      []string
	cgroupsPath string
	hostname    string
	sysctls     map[string]string
	dns         *cri.DNSConfig
	users       IDMap
	network     Network
}

// NewSandbox plans the pod of a PodSandboxConfig, and refuses what it cannot have. With
// vmForHost the VM's PID and IPC namespaces stand for the host's.
func NewSandbox(id string, config *cri.PodSandboxConfig, vmForHost bool) (*Sandbox, error) {
	linux := config.GetLinux()
	options := linux.GetSecurityContext().GetNamespaceOptions()
	switch {
	case options.GetNetwork() == cri.NamespaceMode_NODE:
		return nil, hostsNetwork()
	case options.GetPid() == cri.NamespaceMode_NODE && !vmForHost:
		return nil, refuseHost(true, specs.PIDNamespace)
	case options.GetIpc() == cri.NamespaceMode_NODE && !vmForHost:
		return nil, refuseHost(true, specs.IPCNamespace)
	}
	users, err := usersOfPod(options.GetUsernsOptions())
	if err != nil {
		return nil, err
	}
	limits := linux.GetResources()
	return &Sandbox{
		annotations: config.GetAnnotations(),
		resources:   podResources(limits.GetCpuShares(), limits.GetCpuQuota(), limits.GetCpuPeriod(), limits.GetMemoryLimitInBytes()),
		cgroupsPath: podCgroup(linux.GetCgroupParent(), id),
		hostname:    config.GetHostname(), sysctls: linux.GetSysctls(), dns: config.GetDnsConfig(), users: users,
	}, nil
}

// podCgroup names the control group of a pod's VM, in the pod's own: as containerd's CRI
// plugin does for a sandbox container.
func podCgroup(parent, id string) string {
	switch base := path.Base(parent); {
	case parent == "":
		return ""
	case strings.HasSuffix(base, ".slice"):
		return strings.Join([]string{base, "cri-containerd", id}, ":")
	}
	return path.Join(parent, id)
}

// SandboxOf plans the sandbox of a client that is not the CRI plugin. It may describe the
// sandbox as if it was a container; no process of that runs. Without a network namespace
// there it has the host's network.
func SandboxOf(spec *specs.Spec) (*Sandbox, error) {
	if spec.Hooks != nil {
		return nil, unsupported("the sandbox's configuration has hooks, which run for containers: give them to its containers")
	}
	s := &Sandbox{annotations: spec.Annotations, trusted: true, hostname: spec.Hostname, network: Network{Host: true}}
	if spec.Linux == nil {
		return s, nil
	}
	var err error
	if s.users, err = usersOf(spec.Linux); err != nil {
		return nil, err
	}
	limits, err := limitsOf(resourcesAsked(spec), true)
	if err != nil {
		return nil, err
	}
	if err := checkSwap(spec.Linux.Resources); err != nil {
		return nil, err
	}
	s.resources, s.missed = limits.Host, limits.Missed
	s.cgroupsPath, s.sysctls, s.network = spec.Linux.CgroupsPath, spec.Linux.Sysctl, networkOf(spec.Linux.Namespaces)
	return s, nil
}

// LoadSandbox is SandboxOf of the configuration in a sandbox's bundle, which need not have
// one.
func LoadSandbox(bundle string) (*Sandbox, error) {
	spec, err := read(bundle)
	if errors.Is(err, os.ErrNotExist) {
		spec, err = new(specs.Spec), nil
	}
	if err != nil {
		return nil, err
	}
	return SandboxOf(spec)
}

// Users is the mapping of the sandbox's user namespace; zero if it has none of its own.
func (s *Sandbox) Users() IDMap { return s.users }

// Network is the network of the sandbox whose client has made a network namespace at a path,
// or has not.
func (s *Sandbox) Network(path string) Network {
	if path != "" {
		return Network{Path: path}
	}
	return s.network
}

// Size sizes the sandbox's VM as Plan.Size does a container's. Annotations of a pod count if
// trusted.
func (s *Sandbox) Size(trusted bool, byDefault, host Size) (Size, error) {
	annotations := maps.Clone(s.annotations)
	maps.DeleteFunc(annotations, func(name, _ string) bool {
		return !trusted && !s.trusted || !strings.HasPrefix(name, annotationPrefix)
	})
	return SizeOf(annotations, s.resources, byDefault, host)
}

// Resources are the limits of the sandbox's containers together; nil means none.
func (s *Sandbox) Resources() *specs.LinuxResources { return s.resources }

// Missed is Plan.Missed of the sandbox.
func (s *Sandbox) Missed() []string { return s.missed }

// CgroupsPath names the control group of the sandbox's VM.
func (s *Sandbox) CgroupsPath() string { return s.cgroupsPath }

// Hostname is the sandbox's; without one it is the node's.
func (s *Sandbox) Hostname() (string, error) {
	if s.hostname != "" {
		return s.hostname, nil
	}
	return os.Hostname()
}

// Sysctls are kernel parameters of the sandbox's namespaces.
func (s *Sandbox) Sysctls() map[string]string { return s.sysctls }

// hosts is the /etc/hosts of a pod to which the client mounts none, as the kubelet
// does.
const hosts = `127.0.0.1	localhost
::1	localhost ip6-localhost ip6-loopback
`

// Files are those of the pod by their names. node is the node's resolv.conf, for a pod
// without DNS settings of its own.
func (s *Sandbox) Files(hostname string, node []byte) map[string][]byte {
	return map[string][]byte{
		"hostname": []byte(hostname + "\n"), "hosts": []byte(hosts), "resolv.conf": resolvConf(s.dns, node),
	}
}

// resolvConf is a resolver's configuration (resolv.conf(5)).
func resolvConf(dns *cri.DNSConfig, node []byte) []byte {
	if dns == nil {
		return node
	}
	var text strings.Builder
	line := func(words ...string) { text.WriteString(strings.Join(words, " ") + "\n") }
	if len(dns.GetSearches()) > 0 {
		line(append([]string{"search"}, dns.GetSearches()...)...)
	}
	for _, server := range dns.GetServers() {
		line("nameserver", server)
	}
	if len(dns.GetOptions()) > 0 {
		line(append([]string{"options"}, dns.GetOptions()...)...)
	}
	return []byte(text.String())
}
