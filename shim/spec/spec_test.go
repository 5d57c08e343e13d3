package spec

import (
	"encoding/json"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"
	"google.golang.org/protobuf/types/known/anypb"
)

// container is the smallest configuration that can be run.
func container(change ...func(*specs.Spec)) *specs.Spec {
	spec := &specs.Spec{
		Root:    &specs.Root{Path: "rootfs"},
		Process: &specs.Process{Args: []string{"true"}, Cwd: "/", ApparmorProfile: "profile", SelinuxLabel: "label"},
		Linux:   &specs.Linux{CgroupsPath: "/host/path", MountLabel: "label"},
	}
	for _, kind := range []specs.LinuxNamespaceType{
		specs.PIDNamespace, specs.MountNamespace, specs.IPCNamespace, specs.UTSNamespace, specs.NetworkNamespace,
	} {
		spec.Linux.Namespaces = append(spec.Linux.Namespaces, specs.LinuxNamespace{Type: kind})
	}
	for _, c := range change {
		c(spec)
	}
	return spec
}

func withMount(mount specs.Mount) func(*specs.Spec) {
	return func(s *specs.Spec) { s.Mounts = append(s.Mounts, mount) }
}

func TestNewRefuses(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*specs.Spec)
		says   string
	}{
		"no root":    {func(s *specs.Spec) { s.Root = nil }, "root.path"},
		"empty root": {func(s *specs.Spec) { s.Root.Path = "" }, "root.path"},
		"no process": {func(s *specs.Spec) { s.Process = nil }, "process"},
		"not Linux":  {func(s *specs.Spec) { s.Linux = nil }, "linux"},
		"hook in it": {func(s *specs.Spec) { s.Hooks = &specs.Hooks{CreateContainer: []specs.Hook{{Path: "/x"}}} }, "createContainer"},
		"host device": {func(s *specs.Spec) {
			s.Linux.Devices = []specs.LinuxDevice{{Path: "/dev/dri/card0", Type: "c", Major: 226}}
		}, "/dev/dri/card0"},
		"joined namespace":  {func(s *specs.Spec) { s.Linux.Namespaces[0].Path = "/proc/1/ns/x" }, "/proc/1/ns/x"},
		"host's mounts":     {without(specs.MountNamespace), "mount namespace"},
		"relative":          {withMount(specs.Mount{Destination: "a", Type: "tmpfs"}), "absolute"},
		"empty destination": {withMount(specs.Mount{Type: "tmpfs"}), "absolute"},
		"escaping":          {withMount(specs.Mount{Destination: "/a/../../b", Type: "tmpfs"}), "leads out"},
		"out by a detour":   {withMount(specs.Mount{Destination: "/../b", Type: "tmpfs"}), "leads out"},
		"the root in a way": {withMount(specs.Mount{Destination: "/a/..", Type: "tmpfs"}), "root itself"},
		"in proc":           {withMount(specs.Mount{Destination: "/proc/version", Type: "bind", Source: "/x"}), "nothing can be mounted in /proc"},
		"in proc, not so":   {withMount(specs.Mount{Destination: "/a/../proc//sys/", Type: "tmpfs"}), "nothing can be mounted in /proc"},
		"proc in proc":      {withMount(specs.Mount{Destination: "/proc/sys", Type: "bind", Source: "/proc/sys"}), "nothing can be mounted in /proc"},
		"an image in proc":  {withMount(specs.Mount{Destination: "/proc/x", Type: "ext4", Source: "/x"}), "nothing can be mounted in /proc"},
		"tmpfs as proc":     {withMount(specs.Mount{Destination: "/proc", Type: "tmpfs"}), "nothing but proc"},
		"dir as proc":       {withMount(specs.Mount{Destination: "/proc/", Type: "bind", Source: "/x"}), "nothing but proc"},
		"bound as proc":     {withMount(specs.Mount{Destination: "/proc", Type: "proc", Source: "/x", Options: []string{"bind"}}), "nothing but proc"},
		"over /dev/null":    {withMount(specs.Mount{Destination: "/dev/null", Type: "bind", Source: "/x"}), "has to be the device"},
		"over /dev/ptmx":    {withMount(specs.Mount{Destination: "/dev/ptmx", Type: "bind", Source: "/dev/ptmx"}), "has to be the device"},
		"the root":          {withMount(specs.Mount{Destination: "//.", Type: "tmpfs"}), "root itself"},
		"NUL":               {withMount(specs.Mount{Destination: "/a\x00", Type: "tmpfs"}), "NUL"},
		"no source":         {withMount(specs.Mount{Destination: "/a", Type: "bind"}), "no source"},
		"NUL in source":     {withMount(specs.Mount{Destination: "/a", Type: "bind", Source: "/\x00"}), "NUL"},
		"unknown type":      {withMount(specs.Mount{Destination: "/a", Type: "nfs", Source: "x"}), `"nfs"`},
		"all groups":        {withMount(specs.Mount{Destination: "/a", Type: "bind", Source: "/sys/fs/"}), "the control groups of the whole guest"},
		"a process's root":  {withMount(specs.Mount{Destination: "/a", Type: "bind", Source: "/proc/1/root"}), "is about a process of the host"},
		"the runtime's own": {withMount(specs.Mount{Destination: "/a", Type: "bind", Source: "/proc/./self/"}), "is about a process of the host"},
		"the host's group":  {withMount(specs.Mount{Destination: "/a", Type: "bind", Source: "/sys/fs/cgroup/memory"}), "is a control group of the host"},
		"shared":            {withMount(specs.Mount{Destination: "/a", Type: "bind", Source: "/x", Options: []string{"rshared"}}), "rslave"},
		"data of a bind":    {withMount(specs.Mount{Destination: "/a", Type: "bind", Source: "/x", Options: []string{"ro", "size=1m"}}), "a bind has no option size=1m"},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := New(container(c.change), "/bundle")
			if !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.says) {
				t.Errorf("New = %v", err)
			}
		})
	}
}

// Of file systems of the guest's own runc passes recursive options over, and the last propagation
// holds; a bind keeps them.
func TestLocalOptions(t *testing.T) {
	p, err := New(container(
		withMount(specs.Mount{Destination: "/a", Type: "tmpfs", Options: []string{"rro", "rslave", "noexec", "private", "rexec", "size=1m", "tmpcopyup"}}),
		withMount(specs.Mount{Destination: "/b", Type: "bind", Source: "/proc/version", Options: []string{"bind", "rro", "rslave", "private", "tmpcopyup"}}),
		withMount(specs.Mount{Destination: "/c", Type: "mqueue", Options: []string{"tmpcopyup", "nodev"}}),
	), "/bundle")
	if err != nil {
		t.Fatal(err)
	}
	mounts := p.guestMounts(Places{})
	for i, want := range []string{"noexec private size=1m tmpcopyup", "bind rro private", "nodev"} {
		if got := strings.Join(mounts[i].Options, " "); got != want {
			t.Errorf("%s has options %s, want %s", mounts[i].Destination, got, want)
		}
	}
}

// What may be where others may not, and how the guest is told of a place.
func TestPlaces(t *testing.T) {
	for _, c := range []struct{ kind, source, destination, want string }{
		{"proc", "proc", "/proc/", "/proc"},
		{"bind", "/proc", "/proc", "/proc"},
		{"bind", "/x", "/proc/sys/../cpuinfo", "/proc/cpuinfo"},
		{"bind", "/x", "/proc/sys/kernel/ns_last_pid", "/proc/sys/kernel/ns_last_pid"},
		{"bind", "/dev//null", "/dev/null", "/dev/null"},
		{"bind", "/x", "/process", "/process"},
		{"bind", "/x", "/a//b/../c/", "/a/c"},
		{"tmpfs", "tmpfs", "/a/./b/..", "/a"},
	} {
		p, err := New(container(withMount(specs.Mount{Destination: c.destination, Type: c.kind, Source: c.source})), "/bundle")
		if err != nil {
			t.Errorf("%s: %v", c.destination, err)
			continue
		}
		if got := p.guestMounts(Places{Binds: []string{"/x"}})[0].Destination; got != c.want {
			t.Errorf("%s is %s to the guest, want %s", c.destination, got, c.want)
		}
	}
}

// The last option holds, and what is recursive holds longer.
func TestReadOnlyOptions(t *testing.T) {
	for options, want := range map[string][2]bool{
		"ro": {true, false}, "ro rw": {}, "rw ro": {true, false}, "rro": {true, true}, "rro rw": {true, true}, "rro rrw": {}, "ro rrw": {},
		"rrw rro": {true, true}, "rrw ro": {true, false},
	} {
		var b Bind
		for option := range strings.FieldsSeq(options) {
			if err := b.apply(option); err != nil {
				t.Fatal(err)
			}
		}
		if got := [2]bool{b.ReadOnly, b.RecursiveReadOnly}; got != want {
			t.Errorf("%s: %v, want %v", options, got, want)
		}
	}
}

func TestBinds(t *testing.T) {
	for name, c := range map[string]struct {
		mount specs.Mount
		want  *Bind // nil: the guest's own
	}{
		"read-write":            {specs.Mount{Type: "bind", Source: "/s", Options: []string{"rbind", "rw"}}, &Bind{Source: "/s", Recursive: true}},
		"bind is not recursive": {specs.Mount{Type: "bind", Source: "/s", Options: []string{"bind"}}, &Bind{Source: "/s"}},
		"behind a link or not":  {specs.Mount{Type: "bind", Source: "/s/../t"}, &Bind{Source: "/s/../t"}},
		"nothing but a dir":     {specs.Mount{Type: "bind", Source: "/s/"}, &Bind{Source: "/s/"}},
		"perhaps not proc":      {specs.Mount{Type: "bind", Source: "/s/../proc"}, &Bind{Source: "/s/../proc"}},
		"proc":                  {specs.Mount{Type: "bind", Source: "//proc/./"}, nil},
		"bind by option alone":  {specs.Mount{Type: "none", Source: "/s", Options: []string{"bind"}}, &Bind{Source: "/s"}},
		"read-only":             {specs.Mount{Type: "bind", Source: "/s", Options: []string{"ro"}}, &Bind{Source: "/s", ReadOnly: true}},
		"the last one holds":    {specs.Mount{Type: "bind", Source: "/s", Options: []string{"ro", "rw"}}, &Bind{Source: "/s"}},
		"recursively":           {specs.Mount{Type: "bind", Source: "/s", Options: []string{"rbind", "rro"}}, &Bind{Source: "/s", Recursive: true, ReadOnly: true, RecursiveReadOnly: true}},
		"slave":                 {specs.Mount{Type: "bind", Source: "/s", Options: []string{"rslave"}}, &Bind{Source: "/s", Slave: true}},
		"relative to bundle":    {specs.Mount{Type: "bind", Source: "s"}, &Bind{Source: "/bundle/s"}},
		"a socket":              {specs.Mount{Type: "uds", Source: "/s"}, &Bind{Source: "/s", Socket: true}},
		"no file for a socket":  {specs.Mount{Type: "uds", Source: "/dev/null"}, &Bind{Source: "/dev/null", Socket: true}},
		"a device":              {specs.Mount{Type: "bind", Source: "/dev/null"}, nil},
		"sysfs":                 {specs.Mount{Type: "bind", Source: "/sys/fs/cgroup"}, nil},
		"not sysfs":             {specs.Mount{Type: "bind", Source: "/system"}, &Bind{Source: "/system"}},
		"tmpfs":                 {specs.Mount{Type: "tmpfs", Source: "tmpfs"}, nil},
		"cgroup":                {specs.Mount{Type: "cgroup", Source: "cgroup"}, nil},
	} {
		t.Run(name, func(t *testing.T) {
			c.mount.Destination = "/d"
			plan, err := New(container(withMount(c.mount)), "/bundle")
			if err != nil {
				t.Fatal(err)
			}
			if c.want == nil {
				if len(plan.Binds) != 0 {
					t.Fatalf("shares %+v", plan.Binds)
				}
				return
			}
			if len(plan.Binds) != 1 {
				t.Fatalf("%d binds", len(plan.Binds))
			}
			got := plan.Binds[0]
			got.Destination, got.options = "", nil
			if got.Source != c.want.Source || got.ReadOnly != c.want.ReadOnly || got.RecursiveReadOnly != c.want.RecursiveReadOnly ||
				got.Recursive != c.want.Recursive || got.Slave != c.want.Slave || got.Socket != c.want.Socket {
				t.Errorf("bind %+v, want %+v", got, *c.want)
			}
		})
	}
}

func TestGuest(t *testing.T) {
	shares := uint64(2)
	spec := container(
		withMount(specs.Mount{Destination: "/proc", Type: "proc", Source: "proc"}),
		withMount(specs.Mount{Destination: "/a", Type: "bind", Source: "/a", Options: []string{"rbind", "ro", "nosuid", "rprivate"}}),
		withMount(specs.Mount{Destination: "/b", Type: "bind", Source: "/b", Options: []string{"bind", "rslave"}}),
		func(s *specs.Spec) {
			s.Linux.Resources = &specs.LinuxResources{
				CPU: &specs.LinuxCPU{Shares: &shares, Cpus: "4-5", Mems: "1"}, BlockIO: &specs.LinuxBlockIO{},
			}
		})
	plan, err := New(spec, "/bundle")
	if err != nil {
		t.Fatal(err)
	}
	data, err := plan.Guest(Places{Rootfs: "/guest/rootfs", Cgroup: "/group", Network: "/guest/network", Binds: []string{"/guest/a", "/guest/b"}})
	if err != nil {
		t.Fatal(err)
	}
	var guest specs.Spec
	if err := json.Unmarshal(data, &guest); err != nil {
		t.Fatal(err)
	}
	if guest.Root.Path != "/guest/rootfs" || guest.Linux.CgroupsPath != "/group" {
		t.Errorf("root %s, cgroup %s", guest.Root.Path, guest.Linux.CgroupsPath)
	}
	if guest.Process.ApparmorProfile+guest.Process.SelinuxLabel+guest.Linux.MountLabel != "" {
		t.Error("labels of the host's security modules reach the guest")
	}
	if cpu := guest.Linux.Resources.CPU; cpu.Cpus+cpu.Mems != "" || *cpu.Shares != 2 || guest.Linux.Resources.BlockIO != nil {
		t.Errorf("resources %+v", guest.Linux.Resources)
	}
	if guest.Mounts[0].Source != "proc" {
		t.Errorf("proc became %+v", guest.Mounts[0])
	}
	for i, want := range []specs.Mount{
		{Source: "/guest/a", Options: []string{"rbind", "ro", "nosuid", "rprivate"}},
		{Source: "/guest/b", Options: []string{"rbind", "rslave"}},
	} {
		if got := guest.Mounts[i+1]; got.Source != want.Source || !slices.Equal(got.Options, want.Options) {
			t.Errorf("mount %+v, want %+v", got, want)
		}
	}
	if spec.Root.Path != "rootfs" || spec.Mounts[1].Source != "/a" {
		t.Error("the plan's own spec was changed")
	}
}

func TestLoad(t *testing.T) {
	for name, content := range map[string]string{"not JSON": "{", "another type": `{"root": 1}`, "null": "null", "empty": ""} {
		t.Run(name, func(t *testing.T) {
			dir := t.TempDir()
			if err := os.WriteFile(filepath.Join(dir, "config.json"), []byte(content), 0o600); err != nil {
				t.Fatal(err)
			}
			if _, err := Load(dir); !errdefs.IsInvalidArgument(err) {
				t.Errorf("Load = %v", err)
			}
		})
	}
	if _, err := Load(t.TempDir()); !errdefs.IsInvalidArgument(err) {
		t.Errorf("Load of an empty bundle = %v", err)
	}
}

func TestGuestProcess(t *testing.T) {
	process, err := plain(t).GuestProcess(&anypb.Any{TypeUrl: "type", Value: []byte(`{"args":["a"],"cwd":"/","apparmorProfile":"p"}`)})
	if err != nil || strings.Contains(string(process.Value), "apparmor") || process.TypeUrl != "type" {
		t.Errorf("GuestProcess = %v, %v", process, err)
	}
	if _, err := plain(t).GuestProcess(nil); !errdefs.IsInvalidArgument(err) {
		t.Errorf("GuestProcess(nil) = %v", err)
	}
}
