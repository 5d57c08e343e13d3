package network

import (
	"errors"
	"fmt"
	"net"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
)

// setRoutes adds the routes in their order: those that lead to a gateway come
// after those by which it is reached.
func (c *change) setRoutes(wanted []*api.Route) error {
	var errs []error
	keep := make(map[string]bool)
	for _, route := range wanted {
		parsed, err := c.parseRoute(route)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		keep[routeKey(parsed)] = true
		if err := c.inside.RouteReplace(parsed); err != nil {
			errs = append(errs, fmt.Errorf("route %s: the guest's kernel refused it: %w", describe(route), err))
		}
	}
	current, err := c.inside.RouteListFiltered(netlink.FAMILY_ALL, &netlink.Route{Table: unix.RT_TABLE_MAIN}, netlink.RT_FILTER_TABLE)
	if err != nil {
		return errors.Join(append(errs, err)...)
	}
	for _, route := range current {
		if route.Protocol == unix.RTPROT_KERNEL || route.Protocol == unix.RTPROT_RA || keep[routeKey(&route)] {
			continue
		}
		if err := c.inside.RouteDel(&route); err != nil && !errors.Is(err, unix.ESRCH) {
			errs = append(errs, fmt.Errorf("removing route %s: %w", route, err))
		}
	}
	return errors.Join(errs...)
}

func (c *change) parseRoute(r *api.Route) (*netlink.Route, error) {
	route := &netlink.Route{
		Table: unix.RT_TABLE_MAIN, Protocol: unix.RTPROT_STATIC, Priority: int(r.Priority),
		Scope: netlink.Scope(r.Scope), Type: int(r.Type), MTU: int(r.Mtu),
		Gw: net.ParseIP(r.Gateway), Src: net.ParseIP(r.Source),
	}
	if r.OnLink {
		route.Flags = int(netlink.FLAG_ONLINK)
	}
	destination := r.Destination
	if destination == "" {
		destination = "0.0.0.0/0"
		if r.Ipv6 {
			destination = "::/0"
		}
	}
	var err error
	if _, route.Dst, err = net.ParseCIDR(destination); err != nil {
		return nil, fmt.Errorf("route %s: %w", describe(r), err)
	}
	if r.Interface == "" {
		return route, nil
	}
	link := c.links[r.Interface]
	if link == nil && r.Interface == "lo" {
		if link, err = c.inside.LinkByName("lo"); err != nil {
			return nil, err
		}
	}
	if link == nil {
		return nil, fmt.Errorf("route %s: there is no such interface", describe(r))
	}
	route.LinkIndex = link.Attrs().Index
	return route, nil
}

// routeKey is what tells routes apart.
func routeKey(route *netlink.Route) string {
	destination := "default"
	if ones := 0; route.Dst != nil {
		if ones, _ = route.Dst.Mask.Size(); ones > 0 || !route.Dst.IP.IsUnspecified() {
			destination = route.Dst.String()
		}
	}
	family := "4"
	if route.Family == netlink.FAMILY_V6 || route.Dst != nil && route.Dst.IP.To4() == nil || route.Gw != nil && route.Gw.To4() == nil {
		family = "6"
	}
	priority := route.Priority
	if family == "6" && priority == 0 {
		priority = 1024 // what the kernel makes of none (IP6_RT_PRIO_USER)
	}
	return fmt.Sprint(family, " ", destination, " ", route.LinkIndex, " ", priority)
}

func describe(r *api.Route) string {
	text := r.Destination
	if text == "" {
		text = "default"
	}
	if r.Gateway != "" {
		text += " via " + r.Gateway
	}
	if r.Interface != "" {
		text += " dev " + r.Interface
	}
	return text
}

func (c *change) setNeighbours(wanted []*api.Neighbour) error {
	var errs []error
	for _, n := range wanted {
		if err := c.setNeighbour(n); err != nil {
			errs = append(errs, fmt.Errorf("neighbour %s on %s: %w", n.Address, n.Interface, err))
		}
	}
	return errors.Join(errs...)
}

func (c *change) setNeighbour(n *api.Neighbour) error {
	link := c.links[n.Interface]
	if link == nil {
		return errors.New("there is no such interface")
	}
	return c.inside.NeighSet(&netlink.Neigh{
		LinkIndex: link.Attrs().Index, IP: net.ParseIP(n.Address), HardwareAddr: n.HardwareAddress,
		State: netlink.NUD_PERMANENT,
	})
}
