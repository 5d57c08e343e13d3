// Package network is the network of the guest's containers: a namespace that they
// join, with the virtio-net devices in it that stand for interfaces of the host's
// namespace. A device without one is in the guest's first namespace, out of sight.
package network

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"sync"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/guest/resolver"
	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
)

// A Network is changed by one call at a time.
type Network struct {
	mu        sync.Mutex
	resolvers *resolver.Resolvers
}

// New makes the namespace, with loopback in it.
func New(resolvers *resolver.Resolvers) (*Network, error) {
	path := api.NetworkPath()
	if err := os.MkdirAll(filepath.Dir(path), 0o711); err != nil {
		return nil, err
	}
	place, err := os.OpenFile(path, os.O_CREATE|os.O_RDONLY, 0o600)
	if err != nil {
		return nil, err
	}
	place.Close()
	return &Network{resolvers: resolvers}, thread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("making a network namespace: %w", err)
		}
		return keep("/proc/thread-self/ns/net")
	})
}

// Replace makes another namespace that of the containers, before anything is in the
// first.
func (n *Network) Replace(namespace string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if err := unix.Unmount(api.NetworkPath(), 0); err != nil {
		return &os.PathError{Op: "unmount", Path: api.NetworkPath(), Err: err}
	}
	return keep(namespace)
}

// keep binds a namespace to the place where containers find it, and brings its loopback
// up.
func keep(namespace string) error {
	path := api.NetworkPath()
	if err := unix.Mount(namespace, path, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("keeping the network namespace at %s: %w", path, err)
	}
	its, err := netns.GetFromPath(path)
	if err != nil {
		return err
	}
	defer its.Close()
	inside, err := netlink.NewHandleAt(its, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer inside.Close()
	loopback, err := inside.LinkByName("lo")
	if err != nil {
		return err
	}
	return inside.LinkSetUp(loopback)
}

// Set makes the network look as described. What of the resolvers cannot be had, such as by a
// kernel without BPF in control groups, is in the response, and takes no network away.
func (n *Network) Set(request *api.SetNetworkRequest) (*api.SetNetworkResponse, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	path := api.NetworkPath()
	if request.Host {
		path = "/proc/self/ns/net"
	}
	namespace, err := netns.GetFromPath(path)
	if err != nil {
		return nil, err
	}
	defer namespace.Close()
	first, err := netlink.NewHandle(unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer first.Close()
	inside, err := netlink.NewHandleAt(namespace, unix.NETLINK_ROUTE)
	if err != nil {
		return nil, err
	}
	defer inside.Close()
	c := change{first: first, inside: inside, namespace: int(namespace), host: request.Host}
	response := new(api.SetNetworkResponse)
	if err := n.resolvers.Set(path, request.Resolvers); err != nil {
		response.ResolversError = err.Error()
	}
	return response, c.make(request)
}

// change is one call of Set.
type change struct {
	first     *netlink.Handle // of the guest's first namespace
	inside    *netlink.Handle // of the containers'
	namespace int             // descriptor of the containers'
	host      bool            // both are the same
	links     map[string]netlink.Link
}

// make goes on after what the kernel refuses: one address or route of an interface takes
// no other away.
func (c *change) make(request *api.SetNetworkRequest) error {
	errs := []error{c.putAway(request.Interfaces)}
	c.links = make(map[string]netlink.Link)
	for _, i := range request.Interfaces {
		link, err := c.setInterface(i)
		if link != nil {
			c.links[i.Name] = link
		}
		if err != nil {
			errs = append(errs, fmt.Errorf("interface %s: %w", i.Name, err))
		}
	}
	return errors.Join(append(errs, c.setRoutes(request.Routes), c.setNeighbours(request.Neighbours))...)
}

// device finds the virtio-net device that was made with an address.
func device(links []netlink.Link, address []byte) netlink.Link {
	for _, link := range links {
		attributes := link.Attrs()
		own := attributes.PermHWAddr
		if len(own) == 0 {
			own = attributes.HardwareAddr // the kernel has told of no other
		}
		if own.String() == net.HardwareAddr(address).String() {
			return link
		}
	}
	return nil
}

// putAway takes the devices out of the namespace that are not to be in it.
func (c *change) putAway(wanted []*api.Interface) error {
	if c.host {
		return nil
	}
	links, err := c.inside.LinkList()
	if err != nil {
		return err
	}
	var errs []error
	for _, link := range links {
		attributes := link.Attrs()
		if len(attributes.PermHWAddr) == 0 || attributes.Flags&net.FlagLoopback != 0 {
			continue // not a device
		}
		needed := false
		for _, i := range wanted {
			needed = needed || device([]netlink.Link{link}, i.Device) != nil
		}
		if needed {
			continue
		}
		err := errors.Join(
			c.inside.LinkSetDown(link),
			c.inside.LinkSetName(link, spareName(attributes.PermHWAddr)),
			c.inside.LinkSetNsPid(link, os.Getpid()))
		if err != nil {
			errs = append(errs, fmt.Errorf("taking interface %s away: %w", attributes.Name, err))
		}
	}
	return errors.Join(errs...)
}

// spareName is a name that no other interface has: of 15 bytes at most.
func spareName(address net.HardwareAddr) string { return fmt.Sprintf("msb%x", []byte(address)) }

func (c *change) setInterface(i *api.Interface) (netlink.Link, error) {
	link, err := c.bring(i)
	if err != nil {
		return nil, err
	}
	attributes := link.Attrs()
	address := net.HardwareAddr(i.HardwareAddress)
	if attributes.Name != i.Name || attributes.HardwareAddr.String() != address.String() {
		if err := c.inside.LinkSetDown(link); err != nil {
			return nil, err
		}
		if err := c.inside.LinkSetName(link, i.Name); err != nil {
			return nil, fmt.Errorf("naming it: %w", err)
		}
		if err := c.inside.LinkSetHardwareAddr(link, address); err != nil {
			return link, fmt.Errorf("giving it the address %s: %w", address, err)
		}
	}
	if attributes.MTU != int(i.Mtu) {
		if err := c.inside.LinkSetMTU(link, int(i.Mtu)); err != nil {
			return link, fmt.Errorf("MTU %d: %w", i.Mtu, err)
		}
	}
	if !i.Up {
		return link, c.inside.LinkSetDown(link)
	}
	// The addresses of IPv6 go with a link that goes down; so it comes up first.
	if err := c.inside.LinkSetUp(link); err != nil {
		return link, err
	}
	return link, c.setAddresses(link, i.Addresses)
}

// bring finds an interface's device and brings it into the namespace.
func (c *change) bring(i *api.Interface) (netlink.Link, error) {
	links, err := c.inside.LinkList()
	if err != nil {
		return nil, err
	}
	if link := device(links, i.Device); link != nil {
		return link, nil
	}
	if links, err = c.first.LinkList(); err != nil {
		return nil, err
	}
	link := device(links, i.Device)
	if link == nil {
		return nil, fmt.Errorf("the guest has no device %s", net.HardwareAddr(i.Device))
	}
	// The kernel has named it eth0 or the like, which another may have inside.
	err = errors.Join(
		c.first.LinkSetDown(link),
		c.first.LinkSetName(link, spareName(i.Device)),
		c.first.LinkSetNsFd(link, c.namespace))
	if err != nil {
		return nil, fmt.Errorf("giving it to the containers: %w", err)
	}
	if links, err = c.inside.LinkList(); err != nil {
		return nil, err
	}
	if link = device(links, i.Device); link == nil {
		return nil, errors.New("the device did not come into the namespace")
	}
	return link, nil
}

func (c *change) setAddresses(link netlink.Link, wanted []*api.Address) error {
	current, err := c.inside.AddrList(link, netlink.FAMILY_ALL)
	if err != nil {
		return err
	}
	var errs []error
	keep := make(map[string]bool)
	for _, address := range wanted {
		parsed, err := parseAddress(address)
		if err != nil {
			errs = append(errs, err)
			continue
		}
		keep[parsed.IPNet.String()] = true
		if err := c.inside.AddrReplace(link, parsed); err != nil {
			errs = append(errs, fmt.Errorf("address %s: %w", address.Prefix, err))
		}
	}
	for _, address := range current {
		if keep[address.IPNet.String()] || address.IP.IsLinkLocalUnicast() && address.IP.To4() == nil {
			continue
		}
		if err := c.inside.AddrDel(link, &address); err != nil && !errors.Is(err, unix.EADDRNOTAVAIL) {
			errs = append(errs, fmt.Errorf("removing address %s: %w", address.IPNet, err))
		}
	}
	return errors.Join(errs...)
}

func parseAddress(a *api.Address) (*netlink.Addr, error) {
	address, err := netlink.ParseAddr(a.Prefix)
	if err != nil {
		return nil, fmt.Errorf("address %q: %w", a.Prefix, err)
	}
	address.Scope = int(a.Scope)
	if a.Broadcast != "" {
		address.Broadcast = net.ParseIP(a.Broadcast)
	}
	if a.Peer != "" {
		if _, address.Peer, err = net.ParseCIDR(a.Peer); err != nil {
			return nil, fmt.Errorf("peer %q: %w", a.Peer, err)
		}
	}
	if address.IP.To4() == nil {
		// Whether somebody else has it, the host's interface has found out.
		address.Flags = unix.IFA_F_NODAD
	}
	return address, nil
}
