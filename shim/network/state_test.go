package network

import (
	"net"
	"strings"
	"testing"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/encoding/prototext"

	"github.com/msb-runtime/containerd-shim-msb/vm"
)

func link(index int, name string, change ...func(*netlink.LinkAttrs)) netlink.Link {
	attributes := netlink.LinkAttrs{
		Index: index, Name: name, MTU: 1500, EncapType: "ether", Flags: net.FlagUp,
		HardwareAddr: net.HardwareAddr{2, 0, 0, 0, 0, byte(index)},
	}
	for _, c := range change {
		c(&attributes)
	}
	return &netlink.Veth{LinkAttrs: attributes}
}

func prefix(t *testing.T, text string) *net.IPNet {
	t.Helper()
	ip, network, err := net.ParseCIDR(text)
	if err != nil {
		t.Fatal(err)
	}
	network.IP = ip
	return network
}

// Which interfaces go to the guest.
func TestInterfaces(t *testing.T) {
	s := state{links: []netlink.Link{
		link(9, "last"),
		link(1, "lo", func(a *netlink.LinkAttrs) { a.Flags |= net.FlagLoopback; a.EncapType = "loopback" }),
		link(2, "tunl0", func(a *netlink.LinkAttrs) { a.EncapType = "ipip" }),
		link(3, "msbtap0"),
		link(4, "enslaved", func(a *netlink.LinkAttrs) { a.MasterIndex = 9 }),
		link(5, "down", func(a *netlink.LinkAttrs) { a.Flags = 0 }),
		link(6, "infiniband", func(a *netlink.LinkAttrs) { a.HardwareAddr = make(net.HardwareAddr, 20) }),
	}}
	var names []string
	for _, link := range s.interfaces() {
		names = append(names, link.Attrs().Name)
	}
	if got := strings.Join(names, " "); got != "down last" {
		t.Errorf("interfaces: %s", got)
	}
}

func TestDescribe(t *testing.T) {
	s := state{
		links: []netlink.Link{link(2, "eth0"), link(3, "eth1", func(a *netlink.LinkAttrs) { a.MTU = 9000; a.Flags = 0 }), link(4, "without")},
		addresses: []netlink.Addr{
			{LinkIndex: 2, IPNet: prefix(t, "10.1.0.2/24"), Broadcast: net.IPv4(10, 1, 0, 255).To4()},
			{LinkIndex: 2, IPNet: prefix(t, "fd00::2/64")},
			{LinkIndex: 2, IPNet: prefix(t, "fe80::1/64")},
			{LinkIndex: 3, IPNet: prefix(t, "10.2.0.2/32"), Peer: prefix(t, "10.2.0.1/32")},
			{LinkIndex: 4, IPNet: prefix(t, "10.4.0.2/24")},
		},
		routes: []netlink.Route{
			{LinkIndex: 2, Gw: net.IPv4(169, 254, 1, 1), Flags: int(netlink.FLAG_ONLINK), Type: unix.RTN_UNICAST, Family: netlink.FAMILY_V4},
			{LinkIndex: 2, Dst: prefix(t, "169.254.1.1/32"), Scope: unix.RT_SCOPE_LINK, Type: unix.RTN_UNICAST, Family: netlink.FAMILY_V4, MTU: 1400, Priority: 5},
			{LinkIndex: 2, Dst: prefix(t, "10.1.0.0/24"), Protocol: unix.RTPROT_KERNEL},
			{LinkIndex: 2, Dst: prefix(t, "fe80::/64"), Family: netlink.FAMILY_V6},
			{LinkIndex: 2, Dst: prefix(t, "ff00::/8"), Family: netlink.FAMILY_V6},
			{LinkIndex: 2, Gw: net.ParseIP("fd00::1"), Src: net.ParseIP("fd00::2"), Type: unix.RTN_UNICAST, Family: netlink.FAMILY_V6},
			{Dst: prefix(t, "10.9.0.0/16"), Type: unix.RTN_BLACKHOLE, Family: netlink.FAMILY_V4},
			{LinkIndex: 4, Dst: prefix(t, "10.5.0.0/16")},
			{MultiPath: []*netlink.NexthopInfo{{}}},
		},
		neighbours: []netlink.Neigh{
			{LinkIndex: 2, IP: net.IPv4(169, 254, 1, 1), State: netlink.NUD_PERMANENT, HardwareAddr: net.HardwareAddr{0xee, 0xee, 0xee, 0xee, 0xee, 0xee}},
			{LinkIndex: 2, IP: net.IPv4(10, 1, 0, 1), State: netlink.NUD_REACHABLE, HardwareAddr: net.HardwareAddr{1, 2, 3, 4, 5, 6}},
		},
	}
	request := s.describe(map[int]vm.Interface{
		2: {HardwareAddress: net.HardwareAddr("device")}, 3: {HardwareAddress: net.HardwareAddr("second")},
	})
	var got []string
	for _, i := range request.Interfaces {
		got = append(got, prototext.MarshalOptions{}.Format(i))
	}
	for _, r := range request.Routes {
		got = append(got, prototext.MarshalOptions{}.Format(r))
	}
	for _, n := range request.Neighbours {
		got = append(got, prototext.MarshalOptions{}.Format(n))
	}
	want := []string{
		`device:"device" name:"eth0" hardware_address:"\x02\x00\x00\x00\x00\x02" mtu:1500 up:true addresses:{prefix:"10.1.0.2/24" broadcast:"10.1.0.255"} addresses:{prefix:"fd00::2/64"}`,
		`device:"second" name:"eth1" hardware_address:"\x02\x00\x00\x00\x00\x03" mtu:9000 addresses:{prefix:"10.2.0.2/32" peer:"10.2.0.1/32"}`,
		`destination:"10.9.0.0/16" type:6`,
		`interface:"eth0" destination:"169.254.1.1/32" priority:5 scope:253 type:1 mtu:1400`,
		`interface:"eth0" gateway:"169.254.1.1" type:1 on_link:true`,
		`interface:"eth0" ipv6:true gateway:"fd00::1" source:"fd00::2" type:1`,
		`interface:"eth0" address:"169.254.1.1" hardware_address:"\xee\xee\xee\xee\xee\xee"`,
	}
	if len(got) != len(want) {
		t.Errorf("%d lines, want %d", len(got), len(want))
	}
	for i := range min(len(got), len(want)) {
		if strings.Join(strings.Fields(got[i]), " ") != want[i] {
			t.Errorf("line %d is\n%s, want\n%s", i, got[i], want[i])
		}
	}
}

// An MTU that no guest's interface can have.
func TestMTU(t *testing.T) {
	for mtu, ok := range map[int]bool{0: false, 67: false, 68: true, 65535: true, 65536: false} {
		l := link(2, "eth0", func(a *netlink.LinkAttrs) { a.MTU = mtu })
		if err := check(l); (err == nil) != ok {
			t.Errorf("MTU %d: %v", mtu, err)
		}
		request := state{links: []netlink.Link{l}}.describe(map[int]vm.Interface{2: {}})
		if (len(request.Interfaces) == 1) != ok {
			t.Errorf("describing MTU %d: %v", mtu, request)
		}
	}
}
