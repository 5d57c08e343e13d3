package spec

import (
	"encoding/json"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/msb-runtime/containerd-shim-msb/shim/spec/cri"
)

// inPod makes a container one of the pod "p".
func inPod(kind string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Annotations = map[string]string{criContainerType: kind, criSandboxID: "p"}
	}
}

func withNamespacePath(kind specs.LinuxNamespaceType, path string) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Linux.Namespaces = slices.Clone(s.Linux.Namespaces)
		for i := range s.Linux.Namespaces {
			if s.Linux.Namespaces[i].Type == kind {
				s.Linux.Namespaces[i].Path = path
			}
		}
	}
}

func without(kind specs.LinuxNamespaceType) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Linux.Namespaces = slices.DeleteFunc(slices.Clone(s.Linux.Namespaces), func(n specs.LinuxNamespace) bool { return n.Type == kind })
	}
}

func TestPodOf(t *testing.T) {
	for name, c := range map[string]struct {
		annotations map[string]string
		want        Pod
	}{
		"none":      {nil, Pod{}},
		"sandbox":   {map[string]string{criContainerType: "sandbox", criSandboxID: "p"}, Pod{ID: "p", Sandbox: true}},
		"container": {map[string]string{criContainerType: "container", criSandboxID: "p"}, Pod{ID: "p"}},
		"unknown":   {map[string]string{criContainerType: "x", criSandboxID: "p"}, Pod{}},
		"no type":   {map[string]string{criSandboxID: "p"}, Pod{}},
	} {
		if got := PodOf(c.annotations); got != c.want {
			t.Errorf("%s: %+v, want %+v", name, got, c.want)
		}
	}
}

func TestJoins(t *testing.T) {
	for name, c := range map[string]struct {
		kind specs.LinuxNamespaceType
		path string
		want int // 0: refused
	}{
		"a process's IPC":          {specs.IPCNamespace, "/proc/12/ns/ipc", 12},
		"a process's PIDs":         {specs.PIDNamespace, "/proc/4194304/ns/pid", 4194304},
		"a mount namespace":        {specs.MountNamespace, "/proc/12/ns/mnt", 0},
		"one that is kept":         {specs.IPCNamespace, "/run/ipc", 0},
		"the shim's":               {specs.IPCNamespace, "/proc/self/ns/ipc", 0},
		"another way to write it":  {specs.IPCNamespace, "/proc/12/task/12/ns/ipc", 0},
		"something after it":       {specs.IPCNamespace, "/proc/12/ns/ipc/..", 0},
		"a number beyond all pids": {specs.UTSNamespace, "/proc/99999999999/ns/uts", 0},
	} {
		t.Run(name, func(t *testing.T) {
			plan, err := New(container(inPod("container"), withNamespacePath(c.kind, c.path)), "/bundle")
			if c.want == 0 {
				if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.path) {
					t.Errorf("New = %v", err)
				}
				return
			}
			if err != nil || plan.Joins()[c.kind] != c.want || len(plan.Joins()) != 1 {
				t.Errorf("joins %v, %v", plan.Joins(), err)
			}
		})
	}
}

// A pod with the host's network is refused; a member of a sandbox of the Sandbox API has the
// sandbox's network.
func TestPodRefused(t *testing.T) {
	for _, kind := range []string{"sandbox", "container"} {
		_, err := New(container(inPod(kind), without(specs.NetworkNamespace)), "/bundle")
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), "hostNetwork") {
			t.Errorf("%s: %v", kind, err)
		}
	}
	if _, err := NewMember(container(without(specs.NetworkNamespace)), "/bundle", "s"); err != nil {
		t.Errorf("a member: %v", err)
	}
}

// A container without a namespace of its own asks for the host's.
func TestHostNamespaces(t *testing.T) {
	for says, c := range map[string]struct {
		kind   specs.LinuxNamespaceType
		change []func(*specs.Spec)
	}{
		"the container asks for the host's PID namespace,": {specs.PIDNamespace, nil},
		"the container asks for the host's IPC namespace,": {specs.IPCNamespace, nil},
		"the container asks for the host's UTS namespace,": {specs.UTSNamespace, nil},
		"the pod asks for the host's PID (hostPID),":       {specs.PIDNamespace, []func(*specs.Spec){inPod("sandbox")}},
		"the pod asks for the host's IPC (hostIPC),":       {specs.IPCNamespace, []func(*specs.Spec){inPod("sandbox")}},
	} {
		plan, err := New(container(append(c.change, without(c.kind))...), "/bundle")
		if err != nil {
			t.Fatal(err)
		}
		if kinds := plan.HostNamespaces(); !slices.Equal(kinds, []specs.LinuxNamespaceType{c.kind}) {
			t.Errorf("of the host's %v", kinds)
		}
		if err := plan.RefuseHost(c.kind); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), says) ||
			!strings.Contains(err.Error(), `compat.host_namespaces = "vm"`) {
			t.Errorf("%s: %v", says, err)
		}
		places := Places{Network: "/g/net", Joined: map[specs.LinuxNamespaceType]string{c.kind: "/g/of-vm"}}
		if got := namespacesOf(guestSpec(t, places, append(c.change, without(c.kind))...)); got[c.kind] != "/g/of-vm" {
			t.Errorf("%s: in the guest %v", says, got)
		}
	}
}

// namespacesOf are the paths of a configuration's namespaces; those without one are new.
func namespacesOf(spec specs.Spec) map[specs.LinuxNamespaceType]string {
	paths := make(map[specs.LinuxNamespaceType]string)
	for _, namespace := range spec.Linux.Namespaces {
		paths[namespace.Type] = namespace.Path
	}
	return paths
}

// A container that came to a sandbox's shim is a member, whatever its annotations say.
func TestMember(t *testing.T) {
	for name, change := range map[string]func(*specs.Spec){
		"no annotations": func(*specs.Spec) {}, "the CRI plugin's": inPod("container"), "a sandbox container's": inPod("sandbox"),
	} {
		plan, err := NewMember(container(change, without(specs.NetworkNamespace)), "/bundle", "s")
		if err != nil || plan.Pod() != (Pod{ID: "s"}) {
			t.Fatalf("%s: %+v, %v", name, plan, err)
		}
		data, err := plan.Guest(Places{Network: "/g/net"})
		if err != nil {
			t.Fatal(err)
		}
		var guest specs.Spec
		if err := json.Unmarshal(data, &guest); err != nil || namespacesOf(guest)[specs.NetworkNamespace] != "/g/net" {
			t.Errorf("%s: %v, %v", name, guest.Linux.Namespaces, err)
		}
	}
}

// guestSpec is the configuration in the guest of a container of a pod.
func guestSpec(t *testing.T, places Places, change ...func(*specs.Spec)) specs.Spec {
	t.Helper()
	plan, err := New(container(change...), "/bundle")
	if err != nil {
		t.Fatal(err)
	}
	data, err := plan.Guest(places)
	if err != nil {
		t.Fatal(err)
	}
	var guest specs.Spec
	if err := json.Unmarshal(data, &guest); err != nil {
		t.Fatal(err)
	}
	return guest
}

func sources(spec specs.Spec) map[string]string {
	found := make(map[string]string)
	for _, mount := range spec.Mounts {
		found[mount.Destination] = mount.Source
	}
	return found
}

func TestPodMounts(t *testing.T) {
	all := map[string]string{"hostname": "/g/hostname", "hosts": "/g/hosts", "resolv.conf": "/g/resolv.conf"}
	bind := func(source, destination string) func(*specs.Spec) {
		return withMount(specs.Mount{Destination: destination, Type: "bind", Source: source, Options: []string{"rbind"}})
	}
	tmpfs := withMount(specs.Mount{Destination: "/dev/shm", Type: "tmpfs", Source: "shm"})
	for name, c := range map[string]struct {
		change []func(*specs.Spec)
		binds  []string
		files  map[string]string
		want   map[string]string
	}{
		"the CRI plugin's memory": {[]func(*specs.Spec){inPod("container"), bind("/state/sandboxes/p/shm", "/dev/shm")}, nil, nil, map[string]string{"/dev/shm": "/g/shm"}},
		"another pod's memory":    {[]func(*specs.Spec){inPod("container"), bind("/state/sandboxes/q/shm", "/dev/shm")}, []string{"/g/share"}, nil, map[string]string{"/dev/shm": "/g/share"}},
		"a volume there":          {[]func(*specs.Spec){inPod("container"), bind("/volumes/memory", "/dev/shm")}, []string{"/g/share"}, nil, map[string]string{"/dev/shm": "/g/share"}},
		"the pod's IPC":           {[]func(*specs.Spec){inPod("container"), tmpfs}, nil, nil, map[string]string{"/dev/shm": "/g/shm"}},
		"none":                    {[]func(*specs.Spec){inPod("container")}, nil, nil, map[string]string{"/dev/shm": "/g/shm"}},
		"an IPC of its own":       {[]func(*specs.Spec){inPod("container"), tmpfs}, nil, nil, map[string]string{"/dev/shm": "shm"}},
		"an IPC of its own, none": {[]func(*specs.Spec){inPod("container")}, nil, nil, map[string]string{}},
		"no pod":                  {[]func(*specs.Spec){tmpfs}, nil, nil, map[string]string{"/dev/shm": "shm"}},
		"files": {
			[]func(*specs.Spec){inPod("container"), bind("/kubelet/hosts", "/etc/hosts")},
			[]string{"/g/share"},
			all,
			map[string]string{"/dev/shm": "/g/shm", "/etc/hosts": "/g/share", "/etc/hostname": "/g/hostname", "/etc/resolv.conf": "/g/resolv.conf"},
		},
	} {
		t.Run(name, func(t *testing.T) {
			places := Places{Binds: c.binds, PodFiles: c.files, SharedMemory: "/g/shm", SharesIPC: !strings.HasPrefix(name, "an IPC of its own")}
			if name == "no pod" {
				places.SharedMemory = ""
			}
			if got := sources(guestSpec(t, places, c.change...)); !maps.Equal(got, c.want) {
				t.Errorf("mounts %v, want %v", got, c.want)
			}
		})
	}
}

func TestJoinedInGuest(t *testing.T) {
	guest := guestSpec(t, Places{Network: "/g/net", Joined: map[specs.LinuxNamespaceType]string{specs.IPCNamespace: "/proc/5/ns/ipc"}},
		inPod("container"), withNamespacePath(specs.IPCNamespace, "/proc/12/ns/ipc"))
	for _, namespace := range guest.Linux.Namespaces {
		want := map[specs.LinuxNamespaceType]string{specs.IPCNamespace: "/proc/5/ns/ipc", specs.NetworkNamespace: "/g/net"}[namespace.Type]
		if namespace.Path != want {
			t.Errorf("%s: %q, want %q", namespace.Type, namespace.Path, want)
		}
	}
}

func TestSandbox(t *testing.T) {
	config := &cri.PodSandboxConfig{
		Hostname:    "name",
		DnsConfig:   &cri.DNSConfig{Servers: []string{"1.1.1.1", "::1"}, Searches: []string{"a", "b"}, Options: []string{"ndots:5"}},
		Annotations: map[string]string{AnnotationMemory: "1GiB", "other": "x"},
		Linux: &cri.LinuxPodSandboxConfig{
			CgroupParent: "/kubepods/pod1",
			Resources:    &cri.LinuxContainerResources{CpuShares: 512, CpuQuota: 150_000, CpuPeriod: 100_000, MemoryLimitInBytes: 200 * mib},
		},
	}
	sandbox, err := NewSandbox("p", config, false)
	if err != nil {
		t.Fatal(err)
	}
	host, byDefault := Size{CPUs: 4, Memory: 8 << 30}, Size{CPUs: 1, Memory: 512 * mib}
	if size, err := sandbox.Size(false, byDefault, host); err != nil || size != (Size{2, 200*mib + Overhead}) {
		t.Errorf("size %+v, %v", size, err)
	}
	if size, err := sandbox.Size(true, byDefault, host); err != nil || size.Memory != 1<<30 {
		t.Errorf("with its annotations: %+v, %v", size, err)
	}
	if *sandbox.Resources().CPU.Shares != 512 || sandbox.CgroupsPath() != "/kubepods/pod1/p" {
		t.Errorf("%+v in %s", sandbox.Resources().CPU, sandbox.CgroupsPath())
	}
	if path := podCgroup("/kubepods.slice/kubepods-pod1.slice", "p"); path != "kubepods-pod1.slice:cri-containerd:p" {
		t.Errorf("under systemd: %s", path)
	}
	files := sandbox.Files("name", []byte("node"))
	if string(files["resolv.conf"]) != "search a b\nnameserver 1.1.1.1\nnameserver ::1\noptions ndots:5\n" || string(files["hostname"]) != "name\n" {
		t.Errorf("files %q", files)
	}
	sandbox.dns = nil
	if files := sandbox.Files("name", []byte("node")); string(files["resolv.conf"]) != "node" {
		t.Errorf("without DNS settings: %q", files["resolv.conf"])
	}
}

func TestSandboxRefused(t *testing.T) {
	for says, options := range map[string]*cri.NamespaceOption{
		"hostNetwork": {Network: cri.NamespaceMode_NODE},
		"hostPID":     {Pid: cri.NamespaceMode_NODE},
		"hostIPC":     {Ipc: cri.NamespaceMode_NODE},
		"hostUsers":   {UsernsOptions: &cri.UserNamespace{Mode: cri.NamespaceMode_POD}}, // without mappings
	} {
		_, err := NewSandbox("p", &cri.PodSandboxConfig{Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: options}}}, false)
		if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", says, err)
		}
	}
	for _, options := range []*cri.NamespaceOption{{Pid: cri.NamespaceMode_NODE}, {Ipc: cri.NamespaceMode_NODE}} {
		if _, err := NewSandbox("p", &cri.PodSandboxConfig{Linux: &cri.LinuxPodSandboxConfig{SecurityContext: &cri.LinuxSandboxSecurityContext{NamespaceOptions: options}}}, true); err != nil {
			t.Errorf("with the VM's for the host's: %v", err)
		}
	}
	if _, err := NewSandbox("p", nil, false); err != nil {
		t.Errorf("no configuration: %v", err)
	}
}

// A client that is not the CRI plugin describes its sandbox as a container, or not at all.
func TestSandboxOf(t *testing.T) {
	host, byDefault := Size{CPUs: 4, Memory: 8 << 30}, Size{CPUs: 1, Memory: 512 * mib}
	limit := int64(200 * mib)
	spec := container(withNamespacePath(specs.NetworkNamespace, "/run/netns/s"))
	spec.Hostname, spec.Annotations = "name", map[string]string{AnnotationCPUs: "2", "other": "x"}
	spec.Linux.Resources = &specs.LinuxResources{Memory: &specs.LinuxMemory{Limit: &limit}}
	spec.Linux.Sysctl = map[string]string{"kernel.shmmax": "1"}
	sandbox, err := SandboxOf(spec)
	if err != nil {
		t.Fatal(err)
	}
	if size, err := sandbox.Size(false, byDefault, host); err != nil || size != (Size{2, limit + Overhead}) {
		t.Errorf("size %+v, %v", size, err)
	}
	if name, err := sandbox.Hostname(); err != nil || name != "name" || sandbox.CgroupsPath() != "/host/path" || sandbox.Sysctls()["kernel.shmmax"] != "1" {
		t.Errorf("%s, %v, in %s, %v", name, err, sandbox.CgroupsPath(), sandbox.Sysctls())
	}
	spec.Linux.Resources = &specs.LinuxResources{Unified: map[string]string{"memory.max": "209715200", "pids.max": "9", "rdma.max": "x"}}
	if sandbox, err = SandboxOf(spec); err != nil {
		t.Fatal(err)
	}
	if size, err := sandbox.Size(false, byDefault, host); err != nil || size != (Size{2, limit + Overhead}) {
		t.Errorf("size by a limit of version 2: %+v, %v", size, err)
	}
	if left := sandbox.Resources().Unified; len(left) > 0 || len(sandbox.Missed()) != 1 {
		t.Errorf("for the VM's group %v, missed %q", left, sandbox.Missed())
	}
	for _, unified := range []map[string]string{{"../memory.max": "1"}, {"cgroup.freeze": "1"}} {
		spec.Linux.Resources.Unified = unified
		if _, err := SandboxOf(spec); !errdefs.IsInvalidArgument(err) {
			t.Errorf("%v: %v", unified, err)
		}
	}
	spec.Linux.Resources = nil
	spec.Hooks = &specs.Hooks{Poststop: []specs.Hook{{Path: "/x"}}}
	if _, err := SandboxOf(spec); !errdefs.IsInvalidArgument(err) {
		t.Errorf("with hooks: %v", err)
	}
	for name, c := range map[string]struct {
		spec *specs.Spec
		path string
		want Network
	}{
		"nothing":              {new(specs.Spec), "", Network{Host: true}},
		"a path":               {new(specs.Spec), "/run/netns/p", Network{Path: "/run/netns/p"}},
		"one in its spec":      {container(withNamespacePath(specs.NetworkNamespace, "/run/netns/s")), "", Network{Path: "/run/netns/s"}},
		"a new one":            {container(), "", Network{}},
		"none in its spec":     {container(without(specs.NetworkNamespace)), "", Network{Host: true}},
		"a path before a spec": {container(), "/run/netns/p", Network{Path: "/run/netns/p"}},
	} {
		sandbox, err := SandboxOf(c.spec)
		if err != nil || sandbox.Network(c.path) != c.want {
			t.Errorf("%s: %+v, %v", name, sandbox.Network(c.path), err)
		}
	}
	if sandbox, err := LoadSandbox(t.TempDir()); err != nil || sandbox.Network("") != (Network{Host: true}) {
		t.Errorf("without a configuration: %v", err)
	}
}
