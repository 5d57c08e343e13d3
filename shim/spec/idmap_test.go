package spec

import (
	"strings"
	"testing"

	"github.com/containerd/errdefs"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/msb-runtime/containerd-shim-msb/shim/spec/cri"
)

var shifted = []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100000, Size: 65536}}

// inUserNamespace gives a container a user namespace with these mappings.
func inUserNamespace(path string, uids, gids []specs.LinuxIDMapping) func(*specs.Spec) {
	return func(s *specs.Spec) {
		s.Linux.Namespaces = append(s.Linux.Namespaces, specs.LinuxNamespace{Type: specs.UserNamespace, Path: path})
		s.Linux.UIDMappings, s.Linux.GIDMappings = uids, gids
	}
}

func TestIDMapOwner(t *testing.T) {
	users := IDMap{
		UIDs: []specs.LinuxIDMapping{{ContainerID: 0, HostID: 1000, Size: 10}, {ContainerID: 4294967290, HostID: 5, Size: 5}},
		GIDs: shifted,
	}
	for _, c := range []struct{ uid, gid, wantUID, wantGID uint32 }{
		{0, 0, 1000, 100000}, {9, 65535, 1009, 165535}, {10, 65536, nobody, nobody}, {4294967294, 1, 9, 100001},
	} {
		if uid, gid := users.Owner(c.uid, c.gid); uid != c.wantUID || gid != c.wantGID {
			t.Errorf("%d:%d is %d:%d, want %d:%d", c.uid, c.gid, uid, gid, c.wantUID, c.wantGID)
		}
	}
	if uid, gid := (IDMap{}).Owner(7, 8); uid != 7 || gid != 8 {
		t.Errorf("without mappings 7:8 is %d:%d", uid, gid)
	}
	if uids, gids := users.Options(); uids != "0:1000:10,4294967290:5:5" || gids != "0:100000:65536" {
		t.Errorf("options %s and %s", uids, gids)
	}
}

func TestUserNamespaceRefused(t *testing.T) {
	for name, c := range map[string]struct {
		change func(*specs.Spec)
		says   string
	}{
		"no mappings":                    {inUserNamespace("", nil, nil), "has 0 mappings"},
		"no groups":                      {inUserNamespace("", shifted, nil), "has 0 mappings"},
		"an empty range":                 {inUserNamespace("", shifted, []specs.LinuxIDMapping{{}}), "maps 0 ids"},
		"beyond all ids":                 {inUserNamespace("", shifted, []specs.LinuxIDMapping{{HostID: 4294967290, Size: 10}}), "there are no such ids"},
		"more than the kernel takes":     {inUserNamespace("", shifted, make([]specs.LinuxIDMapping, 341)), "has 341 mappings"},
		"an overlap":                     {inUserNamespace("", append(shifted, specs.LinuxIDMapping{ContainerID: 1000, HostID: 1, Size: 1}), shifted), "the ranges overlap"},
		"an overlap of the host's":       {inUserNamespace("", shifted, append(shifted, specs.LinuxIDMapping{ContainerID: 1 << 20, HostID: 165535, Size: 1})), "the ranges overlap"},
		"no root":                        {inUserNamespace("", []specs.LinuxIDMapping{{ContainerID: 1, HostID: 1, Size: 1}}, shifted), "maps no root"},
		"the host's":                     {inUserNamespace("/run/userns", shifted, shifted), "/run/userns"},
		"a tmpfs's ids":                  {withMount(specs.Mount{Destination: "/a", Type: "tmpfs", UIDMappings: shifted, GIDMappings: shifted}), "not for tmpfs"},
		"only a mount's users":           {withMount(specs.Mount{Destination: "/a", Type: "bind", Source: "/x", UIDMappings: shifted}), "mount /a has 0 mappings"},
		"idmap without a user namespace": {withMount(specs.Mount{Destination: "/a", Type: "bind", Source: "/x", Options: []string{"idmap"}}), "the container has none"},
	} {
		if _, err := New(container(c.change), "/bundle"); !errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.says) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestIDMappedMounts(t *testing.T) {
	own := []specs.LinuxIDMapping{{ContainerID: 0, HostID: 7, Size: 1}}
	for name, c := range map[string]struct {
		mount     specs.Mount
		want      []specs.LinuxIDMapping
		recursive bool
	}{
		"none":               {specs.Mount{}, nil, false},
		"its own":            {specs.Mount{UIDMappings: own, GIDMappings: own}, own, false},
		"its own, recursive": {specs.Mount{UIDMappings: own, GIDMappings: own, Options: []string{"ridmap"}}, own, true},
		"the container's":    {specs.Mount{Options: []string{"idmap"}}, shifted, false},
	} {
		c.mount.Destination, c.mount.Type, c.mount.Source = "/d", "bind", "/s"
		plan, err := New(container(inUserNamespace("", shifted, shifted), withMount(c.mount)), "/bundle")
		if err != nil {
			t.Errorf("%s: %v", name, err)
			continue
		}
		if bind := plan.Binds[0]; !bind.IDMap.Equal(IDMap{c.want, c.want}) || bind.RecursiveIDMap != c.recursive {
			t.Errorf("%s: %+v", name, bind)
		}
	}
}

// In the guest the container joins a user namespace that is there; mounts have been
// mapped on the host.
func TestGuestUsers(t *testing.T) {
	for name, path := range map[string]string{"sandbox": "/run/kept/user", "container": "/proc/12/ns/user"} {
		guest := guestSpec(t, Places{Users: "/guest/users", Binds: []string{"/guest/d"}}, inPod(name), inUserNamespace(path, shifted, shifted),
			withMount(specs.Mount{Destination: "/d", Type: "bind", Source: "/s", UIDMappings: shifted, GIDMappings: shifted, Options: []string{"rbind", "ridmap"}}))
		last := guest.Linux.Namespaces[len(guest.Linux.Namespaces)-2] // its cgroup namespace is added
		if last.Type != specs.UserNamespace || last.Path != "/guest/users" || guest.Linux.UIDMappings != nil || guest.Linux.GIDMappings != nil {
			t.Errorf("%s: namespace %+v, mappings %v", name, last, guest.Linux.UIDMappings)
		}
		if mount := guest.Mounts[0]; mount.Source != "/guest/d" || mount.UIDMappings != nil || strings.Contains(strings.Join(mount.Options, ","), "idmap") {
			t.Errorf("%s: mount %+v", name, mount)
		}
	}
}

func TestIOOwner(t *testing.T) {
	asUser := func(s *specs.Spec) { s.Process.User = specs.User{UID: 5, GID: 6} }
	for name, c := range map[string]struct {
		change   []func(*specs.Spec)
		uid, gid uint32
	}{
		"the guest's":      {[]func(*specs.Spec){asUser}, 0, 0},
		"a user namespace": {[]func(*specs.Spec){asUser, inUserNamespace("", shifted, shifted)}, 100005, 100006},
	} {
		plan, err := New(container(c.change...), "/bundle")
		if err != nil {
			t.Fatal(err)
		}
		if uid, gid := plan.IOOwner(); uid != c.uid || gid != c.gid {
			t.Errorf("%s: %d:%d", name, uid, gid)
		}
	}
}

func TestUsersOfPod(t *testing.T) {
	one := []*cri.IDMapping{{HostId: 100000, Length: 65536}}
	for name, c := range map[string]struct {
		options *cri.UserNamespace
		want    IDMap
		says    string
	}{
		"none":          {nil, IDMap{}, ""},
		"the node's":    {&cri.UserNamespace{Mode: cri.NamespaceMode_NODE, Uids: one}, IDMap{}, ""},
		"its own":       {&cri.UserNamespace{Mode: cri.NamespaceMode_POD, Uids: one, Gids: one}, IDMap{shifted, shifted}, ""},
		"no mappings":   {&cri.UserNamespace{Mode: cri.NamespaceMode_POD}, IDMap{}, "has 0 mappings"},
		"a container's": {&cri.UserNamespace{Mode: cri.NamespaceMode_CONTAINER, Uids: one, Gids: one}, IDMap{}, "it is POD or NODE"},
	} {
		got, err := usersOfPod(c.options)
		if c.says == "" && (err != nil || !got.Equal(c.want)) || c.says != "" && (!errdefs.IsInvalidArgument(err) || !strings.Contains(err.Error(), c.says)) {
			t.Errorf("%s: %v, %v", name, got, err)
		}
	}
}
