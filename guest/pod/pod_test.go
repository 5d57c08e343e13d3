package pod

import (
	"testing"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
)

var shifted = []*api.IDMapping{{Container: 0, Guest: 100000, Size: 65536}, {Container: 70000, Guest: 7, Size: 1}}

func TestGuestID(t *testing.T) {
	for _, c := range []struct {
		mappings []*api.IDMapping
		id, want int
		mapped   bool
	}{
		{nil, 5, 5, true}, {shifted, 0, 100000, true}, {shifted, 65535, 165535, true}, {shifted, 65536, 65536, false}, {shifted, 70000, 7, true},
	} {
		if id, mapped := guestID(c.mappings, c.id); id != c.want || mapped != c.mapped {
			t.Errorf("%d is %d, %v", c.id, id, mapped)
		}
	}
	for want, mappings := range map[string][]*api.IDMapping{
		"65534": shifted, "999": {{Guest: 5, Size: 1000}}, "0": {{Guest: 5, Size: 1}},
	} {
		if got := lowly(mappings); got != want {
			t.Errorf("the lowly one of %v is %s, want %s", mappings, got, want)
		}
	}
}

func TestSysctlPath(t *testing.T) {
	for name, want := range map[string]string{
		"kernel.shmmax": "/kernel/shmmax", "net/ipv4/conf/eth0.1/mtu": "/net/ipv4/conf/eth0.1/mtu",
		"net.ipv4.conf.eth0/1.mtu": "/net/ipv4/conf/eth0.1/mtu", "/../../etc/passwd": "/etc/passwd",
	} {
		if got := sysctlPath(name); got != want {
			t.Errorf("%s is %s, want %s", name, got, want)
		}
	}
}

func TestSeenByGuest(t *testing.T) {
	p := &Pod{users: &api.UserNamespace{Uids: shifted, Gids: shifted}}
	for _, c := range []struct{ path, value, want string }{
		{"/kernel/shmmax", "1", "1"},
		{"/net/ipv4/ping_group_range", "0\t65535", "100000 165535"},
		{"/net/ipv4/ping_group_range", "0 65536", ""},
		{"/net/ipv4/ping_group_range", "all", ""},
		{"/user/max_user_namespaces", "1", ""},
	} {
		if got, err := p.seenByGuest(c.path, c.value); got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s %q: %q, %v", c.path, c.value, got, err)
		}
	}
}
