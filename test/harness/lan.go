package harness

import (
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
)

// InNetwork does something in the network namespace that containerd and its shims
// are in: what is the host's to containers is the test's own.
func (h *Host) InNetwork(do func() error) error {
	return thread.InNetworkAt(fmt.Sprintf("/proc/%d/ns/net", h.Pid()), do)
}

// Bridge addresses of a LAN.
const (
	BridgeAddress  = "10.99.0.1"
	BridgeAddress6 = "fd99::1"
)

// A T is the part of testing.T that a LAN takes, so that a benchmark can have one.
type T interface {
	Helper()
	Fatal(args ...any)
	Cleanup(f func())
	TempDir() string
}

// A LAN is a bridge in the host's network namespace, and network namespaces for
// containers that are plugged into it.
type LAN struct {
	t      T
	handle *netlink.Handle
	bridge netlink.Link
}

// NewLAN makes one; the test's end takes it away.
func (h *Host) NewLAN(t T) *LAN {
	t.Helper()
	handle := handleOf(t, fmt.Sprintf("/proc/%d/ns/net", h.Pid()))
	l := &LAN{t: t, handle: handle}
	l.bridge = l.add(handle, &netlink.Bridge{LinkAttrs: named("lan", 9000)})
	l.address(handle, l.bridge, BridgeAddress+"/24")
	l.address(handle, l.bridge, BridgeAddress6+"/64")
	l.must(handle.LinkSetUp(l.bridge))
	t.Cleanup(func() { l.must(handle.LinkDel(l.bridge)) })
	return l
}

func handleOf(t T, path string) *netlink.Handle {
	t.Helper()
	namespace, err := netns.GetFromPath(path)
	if err != nil {
		t.Fatal(err)
	}
	defer namespace.Close()
	handle, err := netlink.NewHandleAt(namespace, unix.NETLINK_ROUTE)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(handle.Close)
	return handle
}

func named(name string, mtu int) netlink.LinkAttrs {
	attributes := netlink.NewLinkAttrs()
	attributes.Name, attributes.MTU = name, mtu
	return attributes
}

func (l *LAN) must(err error) {
	l.t.Helper()
	if err != nil {
		l.t.Fatal(err)
	}
}

func (l *LAN) add(handle *netlink.Handle, link netlink.Link) netlink.Link {
	l.t.Helper()
	l.must(handle.LinkAdd(link))
	found, err := handle.LinkByName(link.Attrs().Name)
	l.must(err)
	return found
}

func (l *LAN) address(handle *netlink.Handle, link netlink.Link, prefix string) {
	l.t.Helper()
	address, err := netlink.ParseAddr(prefix)
	l.must(err)
	if address.IP.To4() == nil {
		address.Flags = unix.IFA_F_NODAD
	}
	l.must(handle.AddrAdd(link, address))
}

// A Port is a network namespace for a container.
type Port struct {
	// Path is where it can be opened.
	Path string
	// Handle speaks to it.
	Handle *netlink.Handle
	lan    *LAN
}

// Port makes an empty network namespace with a name.
func (l *LAN) Port(name string) *Port {
	l.t.Helper()
	path := filepath.Join(l.t.TempDir(), name)
	l.must(os.WriteFile(path, nil, 0o600))
	l.must(thread.Run(func() error {
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return err
		}
		return unix.Mount("/proc/thread-self/ns/net", path, "", unix.MS_BIND, "")
	}))
	l.t.Cleanup(func() { l.must(unix.Unmount(path, unix.MNT_DETACH)) })
	n := &Port{Path: path, Handle: handleOf(l.t, path), lan: l}
	loopback, err := n.Handle.LinkByName("lo")
	l.must(err)
	l.must(n.Handle.LinkSetUp(loopback))
	return n
}

// Plug gives the namespace an interface on the bridge, with addresses, as CNI's
// bridge plugin does.
func (n *Port) Plug(name string, mtu int, prefixes ...string) {
	n.lan.t.Helper()
	outside := n.veth(name, mtu)
	n.lan.must(n.lan.handle.LinkSetMaster(outside, n.lan.bridge))
	inside := n.inside(name, prefixes)
	n.lan.must(errors.Join(
		n.Handle.RouteAdd(&netlink.Route{LinkIndex: inside.Attrs().Index, Gw: net.ParseIP(BridgeAddress)}),
		n.Handle.RouteAdd(&netlink.Route{LinkIndex: inside.Attrs().Index, Gw: net.ParseIP(BridgeAddress6)})))
}

// Wire gives it an interface whose other end is the host's, with an address there.
func (n *Port) Wire(name string, mtu int, host string, prefixes ...string) {
	n.lan.t.Helper()
	outside := n.veth(name, mtu)
	n.lan.address(n.lan.handle, outside, host)
	n.inside(name, prefixes)
}

func (n *Port) veth(name string, mtu int) (outside netlink.Link) {
	n.lan.t.Helper()
	namespace, err := netns.GetFromPath(n.Path)
	n.lan.must(err)
	defer namespace.Close()
	outer := fmt.Sprintf("%.6s-%s", filepath.Base(n.Path), name)
	outside = n.lan.add(n.lan.handle, &netlink.Veth{
		LinkAttrs: named(outer, mtu), PeerName: name, PeerNamespace: netlink.NsFd(namespace), PeerMTU: uint32(mtu),
	})
	n.lan.must(n.lan.handle.LinkSetUp(outside))
	// A namespace ends a while after its last user: its interfaces go now.
	n.lan.t.Cleanup(func() { _ = n.lan.handle.LinkDel(outside) })
	return outside
}

func (n *Port) inside(name string, prefixes []string) netlink.Link {
	n.lan.t.Helper()
	inside, err := n.Handle.LinkByName(name)
	n.lan.must(err)
	for _, prefix := range prefixes {
		n.lan.address(n.Handle, inside, prefix)
	}
	n.lan.must(n.Handle.LinkSetUp(inside))
	return inside
}

// Links are the names of the namespace's interfaces, with the kinds of their
// ingress qdiscs.
func (n *Port) Links() (all []string) { return links(n.lan.t, n.Handle) }

// Links are the same of the host's namespace.
func (l *LAN) Links() (all []string) { return links(l.t, l.handle) }

func links(t T, handle *netlink.Handle) (all []string) {
	t.Helper()
	found, err := handle.LinkList()
	if err != nil {
		t.Fatal(err)
	}
	for _, link := range found {
		text := link.Attrs().Name
		qdiscs, err := handle.QdiscList(link)
		if err != nil {
			t.Fatal(err)
		}
		for _, qdisc := range qdiscs {
			if qdisc.Attrs().Parent == netlink.HANDLE_INGRESS {
				text += "+" + qdisc.Type()
			}
		}
		all = append(all, text)
	}
	return all
}
