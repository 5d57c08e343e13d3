package network

import (
	"cmp"
	"fmt"
	"net"
	"slices"
	"strconv"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/vm"
)

// state is what a network namespace has.
type state struct {
	links      []netlink.Link
	addresses  []netlink.Addr
	routes     []netlink.Route
	neighbours []netlink.Neigh
}

func read(handle *netlink.Handle) (s state, err error) {
	if s.links, err = handle.LinkList(); err != nil {
		return s, fmt.Errorf("reading the namespace's interfaces: %w", err)
	}
	if s.addresses, err = handle.AddrList(nil, netlink.FAMILY_ALL); err != nil {
		return s, fmt.Errorf("reading the namespace's addresses: %w", err)
	}
	table := &netlink.Route{Table: unix.RT_TABLE_MAIN}
	if s.routes, err = handle.RouteListFiltered(netlink.FAMILY_ALL, table, netlink.RT_FILTER_TABLE); err != nil {
		return s, fmt.Errorf("reading the namespace's routes: %w", err)
	}
	if s.neighbours, err = handle.NeighList(0, netlink.FAMILY_ALL); err != nil {
		return s, fmt.Errorf("reading the namespace's neighbours: %w", err)
	}
	return s, nil
}

// interfaces are those whose packets go to the guest: of Ethernet, neither
// loopback nor part of another interface.
func (s state) interfaces() (all []netlink.Link) {
	for _, link := range s.links {
		a := link.Attrs()
		if a.EncapType == "ether" && a.Flags&net.FlagLoopback == 0 && a.MasterIndex == 0 && !isTap(a.Name) && len(a.HardwareAddr) == 6 {
			all = append(all, link)
		}
	}
	slices.SortFunc(all, func(a, b netlink.Link) int { return cmp.Compare(a.Attrs().Index, b.Attrs().Index) })
	return all
}

// least is the smallest MTU of IPv4 (RFC 791); Linux accepts less only from
// interfaces that carry none.
const least = 68

func check(link netlink.Link) error {
	a := link.Attrs()
	if a.MTU < least || a.MTU > 65535 {
		return fmt.Errorf("interface %s has an MTU of %d, which a guest's cannot have: set one from %d to 65535: %w", a.Name, a.MTU, least, errdefs.ErrInvalidArgument)
	}
	return nil
}

// describe is the state for the guest. devices are the interfaces' virtio-net
// devices, by the interfaces' indexes; an interface without one is left out, and so is
// one that no guest can have.
func (s state) describe(devices map[int]vm.Interface) *api.SetNetworkRequest {
	request := new(api.SetNetworkRequest)
	names := make(map[int]string)
	for _, link := range s.interfaces() {
		a := link.Attrs()
		device, ok := devices[a.Index]
		if !ok || check(link) != nil {
			continue
		}
		names[a.Index] = a.Name
		i := &api.Interface{
			Device: device.HardwareAddress, Name: a.Name, HardwareAddress: a.HardwareAddr,
			Mtu: uint32(a.MTU), Up: a.Flags&net.FlagUp != 0,
		}
		for _, address := range s.addresses {
			if address.LinkIndex == a.Index && !automatic(address) {
				i.Addresses = append(i.Addresses, describeAddress(address))
			}
		}
		request.Interfaces = append(request.Interfaces, i)
	}
	for _, route := range s.sortedRoutes() {
		name := names[route.LinkIndex]
		if name == "" && route.LinkIndex != 0 || ownRoute(route) || len(route.MultiPath) > 0 {
			continue
		}
		request.Routes = append(request.Routes, describeRoute(route, name))
	}
	for _, neighbour := range s.neighbours {
		if name := names[neighbour.LinkIndex]; name != "" && neighbour.State&netlink.NUD_PERMANENT != 0 && len(neighbour.HardwareAddr) > 0 && !neighbour.IP.IsMulticast() {
			request.Neighbours = append(request.Neighbours, &api.Neighbour{
				Interface: name, Address: neighbour.IP.String(), HardwareAddress: neighbour.HardwareAddr,
			})
		}
	}
	return request
}

// automatic addresses are made by every kernel for itself from the hardware address.
func automatic(a netlink.Addr) bool { return a.IP.To4() == nil && a.IP.IsLinkLocalUnicast() }

func describeAddress(a netlink.Addr) *api.Address {
	described := &api.Address{Prefix: a.IPNet.String(), Scope: uint32(a.Scope)}
	if a.Broadcast != nil {
		described.Broadcast = a.Broadcast.String()
	}
	if a.Peer != nil && a.Peer.String() != a.IPNet.String() {
		described.Peer = a.Peer.String()
	}
	return described
}

// sortedRoutes has routes to a gateway after those by which it is reached.
func (s state) sortedRoutes() []netlink.Route {
	sorted := slices.Clone(s.routes)
	slices.SortStableFunc(sorted, func(a, b netlink.Route) int {
		return cmp.Or(
			cmp.Compare(len(a.Gw), len(b.Gw)),
			cmp.Compare(a.LinkIndex, b.LinkIndex),
			-cmp.Compare(ones(a), ones(b)))
	})
	return sorted
}

func ones(route netlink.Route) int {
	if route.Dst == nil {
		return 0
	}
	n, _ := route.Dst.Mask.Size()
	return n
}

// ownRoute tells a route that every kernel makes for itself: with an address, or
// for link-local and multicast addresses; or because of a router's word.
func ownRoute(route netlink.Route) bool {
	return route.Protocol == unix.RTPROT_KERNEL || route.Protocol == unix.RTPROT_RA ||
		route.Dst != nil && (route.Dst.IP.IsMulticast() || route.Dst.IP.To4() == nil && route.Dst.IP.IsLinkLocalUnicast() && ones(route) == 64 && route.Gw == nil)
}

func describeRoute(route netlink.Route, name string) *api.Route {
	described := &api.Route{
		Interface: name, Ipv6: route.Family == netlink.FAMILY_V6,
		Priority: uint32(route.Priority), Scope: uint32(route.Scope), Type: uint32(route.Type), Mtu: uint32(route.MTU),
		OnLink: route.Flags&int(netlink.FLAG_ONLINK) != 0,
	}
	if route.Dst != nil {
		described.Destination = route.Dst.IP.String() + "/" + strconv.Itoa(ones(route))
	}
	if route.Gw != nil {
		described.Gateway = route.Gw.String()
	}
	if route.Src != nil {
		described.Source = route.Src.String()
	}
	return described
}
