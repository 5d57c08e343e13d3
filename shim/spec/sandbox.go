package spec

import (
	"maps"
	"os"
	"path"
	"strings"

	"github.com/opencontainers/runtime-spec/specs-go"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

// A Sandbox is the configuration of a pod that the Sandbox API makes, understood:
// no container stands for it.
type Sandbox struct {
	config *cri.PodSandboxConfig
	id     string
	users  IDMap
}

// NewSandbox plans the pod of a PodSandboxConfig, and refuses what it cannot have.
func NewSandbox(id string, config *cri.PodSandboxConfig) (*Sandbox, error) {
	options := config.GetLinux().GetSecurityContext().GetNamespaceOptions()
	switch {
	case options.GetNetwork() == cri.NamespaceMode_NODE:
		return nil, hostNamespace("pod", "network (hostNetwork)")
	case options.GetPid() == cri.NamespaceMode_NODE:
		return nil, hostNamespace("pod", "PID (hostPID)")
	case options.GetIpc() == cri.NamespaceMode_NODE:
		return nil, hostNamespace("pod", "IPC (hostIPC)")
	}
	users, err := usersOfPod(options.GetUsernsOptions())
	if err != nil {
		return nil, err
	}
	return &Sandbox{config: config, id: id, users: users}, nil
}

// Users is the mapping of the pod's user namespace; zero if it has none of its own.
func (s *Sandbox) Users() IDMap { return s.users }

// Size sizes the pod's VM as Plan.Size does a container's. Its own annotations of
// the runtime count if trusted.
func (s *Sandbox) Size(trusted bool, byDefault, host Size) (Size, error) {
	annotations := maps.Clone(s.config.GetAnnotations())
	maps.DeleteFunc(annotations, func(name, _ string) bool { return !trusted || !strings.HasPrefix(name, annotationPrefix) })
	return SizeOf(annotations, s.Resources(), byDefault, host)
}

// Resources are the limits of the pod's containers together.
func (s *Sandbox) Resources() *specs.LinuxResources {
	limits := s.config.GetLinux().GetResources()
	return podResources(limits.GetCpuShares(), limits.GetCpuQuota(), limits.GetCpuPeriod(), limits.GetMemoryLimitInBytes())
}

// CgroupsPath names the control group of the pod's VM, in the pod's own: as
// containerd's CRI plugin does for a sandbox container.
func (s *Sandbox) CgroupsPath() string {
	parent := s.config.GetLinux().GetCgroupParent()
	switch base := path.Base(parent); {
	case parent == "":
		return ""
	case strings.HasSuffix(base, ".slice"):
		return strings.Join([]string{base, "cri-containerd", s.id}, ":")
	}
	return path.Join(parent, s.id)
}

// Hostname is the pod's; without one it is the node's.
func (s *Sandbox) Hostname() (string, error) {
	if name := s.config.GetHostname(); name != "" {
		return name, nil
	}
	return os.Hostname()
}

// Sysctls are kernel parameters of the pod's namespaces.
func (s *Sandbox) Sysctls() map[string]string { return s.config.GetLinux().GetSysctls() }

// hosts is the /etc/hosts of a pod to which the client mounts none, as the kubelet
// does.
const hosts = `127.0.0.1	localhost
::1	localhost ip6-localhost ip6-loopback
`

// Files are those of the pod by their names. node is the node's resolv.conf, for a pod
// without DNS settings of its own.
func (s *Sandbox) Files(hostname string, node []byte) map[string][]byte {
	return map[string][]byte{
		"hostname": []byte(hostname + "\n"), "hosts": []byte(hosts), "resolv.conf": resolvConf(s.config.GetDnsConfig(), node),
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
