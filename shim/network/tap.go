package network

import (
	"errors"
	"fmt"
	"os"
	"strings"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

const (
	// tapPrefix begins the names of the TAP devices in a namespace.
	tapPrefix = "msbtap"
	// priority is that of the filters, by which they are known for this runtime's.
	priority = 0x6d73

	tunDevice = "/dev/net/tun"
)

func isTap(name string) bool { return strings.HasPrefix(name, tapPrefix) }

// makeTap makes a TAP device in the namespace of this thread. It stays until it is
// deleted, or its namespace ends. Whoever is root there may attach to it, also
// without a capability (tuntap.rst; TUNSETOWNER).
func makeTap(name string) error {
	device, err := os.OpenFile(tunDevice, os.O_RDWR, 0)
	if err != nil {
		return fmt.Errorf("%w: load the kernel module tun (%w)", err, errdefs.ErrFailedPrecondition)
	}
	defer device.Close()
	request, err := unix.NewIfreq(name)
	if err != nil {
		return err
	}
	request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
	fd := int(device.Fd())
	if err := unix.IoctlIfreq(fd, unix.TUNSETIFF, request); err != nil {
		return fmt.Errorf("making the TAP device %s: %w", name, err)
	}
	if err := errors.Join(unix.IoctlSetInt(fd, unix.TUNSETOWNER, 0), unix.IoctlSetInt(fd, unix.TUNSETPERSIST, 1)); err != nil {
		return fmt.Errorf("keeping the TAP device %s: %w", name, err)
	}
	return withoutIPv6(name)
}

// withoutIPv6 keeps the own stack of this thread's namespace from a TAP device, on which it
// has no business. A kernel without IPv6 has no such file.
func withoutIPv6(name string) error {
	err := os.WriteFile("/proc/sys/net/ipv6/conf/"+name+"/disable_ipv6", []byte("1"), 0)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	return nil
}

// join sends what arrives at each of two interfaces out of the other, before the
// namespace's own stack sees it (tc-mirred(8)).
func join(handle *netlink.Handle, one, other netlink.Link) (err error) {
	if err := redirect(handle, one, other); err != nil {
		return err
	}
	if err := redirect(handle, other, one); err != nil {
		return errors.Join(err, unredirect(handle, one))
	}
	return nil
}

func redirect(handle *netlink.Handle, from, to netlink.Link) error {
	// Another's ingress or clsact qdisc does as well.
	err := handle.QdiscAdd(&netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: from.Attrs().Index, Parent: netlink.HANDLE_INGRESS, Handle: netlink.MakeHandle(0xffff, 0),
	}})
	if err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("adding an ingress qdisc to %s: %w; the kernel needs CONFIG_NET_SCH_INGRESS (%w)", from.Attrs().Name, err, errdefs.ErrFailedPrecondition)
	}
	err = handle.FilterAdd(&netlink.U32{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: from.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Priority: priority, Protocol: unix.ETH_P_ALL,
		},
		Actions: []netlink.Action{netlink.NewMirredAction(to.Attrs().Index)},
	})
	if err != nil {
		return fmt.Errorf("redirecting %s to %s: %w; the kernel needs CONFIG_NET_CLS_U32 and CONFIG_NET_ACT_MIRRED (%w)",
			from.Attrs().Name, to.Attrs().Name, err, errdefs.ErrFailedPrecondition)
	}
	return nil
}

// unredirect undoes redirect: with its filter the qdisc goes, if no other uses it.
func unredirect(handle *netlink.Handle, link netlink.Link) error {
	filters, err := handle.FilterList(link, netlink.HANDLE_MIN_INGRESS)
	if err != nil {
		return err
	}
	ours, others := false, false
	for _, filter := range filters {
		if filter.Attrs().Priority == priority {
			ours = true
		} else {
			others = true
		}
	}
	switch {
	case !ours:
		return nil
	case others:
		return handle.FilterDel(&netlink.U32{FilterAttrs: netlink.FilterAttrs{
			LinkIndex: link.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Priority: priority, Protocol: unix.ETH_P_ALL,
		}})
	}
	return handle.QdiscDel(&netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: link.Attrs().Index, Parent: netlink.HANDLE_INGRESS, Handle: netlink.MakeHandle(0xffff, 0),
	}})
}

// sweep takes away what a sandbox has put into a namespace: its TAP devices and
// its redirections.
func sweep(handle *netlink.Handle) error {
	links, err := handle.LinkList()
	if err != nil {
		return err
	}
	var errs []error
	for _, link := range links {
		if isTap(link.Attrs().Name) {
			errs = append(errs, handle.LinkDel(link))
		} else if err := unredirect(handle, link); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.ENODEV) {
			errs = append(errs, err) // EINVAL: it has no such qdisc
		}
	}
	return errors.Join(errs...)
}
