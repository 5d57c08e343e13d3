// Package network joins the network namespace that a client prepared for a
// container with the virtio-net devices of its microVM.
//
// The VM has a few devices from its start, because none can be added later, each
// with a TAP device in the namespace. When an interface appears there, by CNI for
// instance, it is joined with a TAP device by traffic control: a packet that
// arrives at one of the two leaves by the other. The guest's device takes over the
// interface's name, hardware address, MTU, addresses, routes and neighbours. What
// changes in the namespace later is followed.
package network

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/containerd/errdefs"
	"github.com/containerd/log"
	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netlink/nl"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"
	"google.golang.org/protobuf/proto"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
	"github.com/msb-runtime/containerd-shim-msb/vm"
)

// settle is how long changes are collected before the guest is told.
const settle = 20 * time.Millisecond

// patience is how long the guest may take for a change.
const patience = 30 * time.Second

// A Network is a network namespace with the TAP devices of a VM.
type Network struct {
	path      string // of the namespace; empty if it is this VM's own
	namespace *os.File
	handle    *netlink.Handle
	devices   []vm.Interface // each with its TAP device
	follow    *nl.NetlinkSocket

	mu     sync.Mutex
	joined map[int]vm.Interface   // by the index of the namespace's interface
	told   *api.SetNetworkRequest // what the guest has
	closed bool
}

// Open opens the namespace at a path in a mount namespace, or makes one if the path is empty,
// and makes the TAP devices. After an error nothing of it is left.
func Open(mounts mountns.Namespace, path string) (_ *Network, err error) {
	n := &Network{path: path, joined: make(map[int]vm.Interface), told: new(api.SetNetworkRequest)}
	if err := n.enter(mounts); err != nil {
		return nil, err
	}
	if err := n.addDevices(vm.MaxInterfaces); err != nil {
		return nil, errors.Join(err, n.Close())
	}
	return n, nil
}

// enter opens the namespace, or makes it, and refuses one that the VM cannot have. After an
// error nothing is open.
func (n *Network) enter(mounts mountns.Namespace) (err error) {
	if n.path == "" {
		n.namespace, err = newNamespace()
	} else {
		n.namespace, err = openNamespace(mounts, n.path)
	}
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			err = errors.Join(err, n.Close())
		}
	}()
	if n.handle, err = netlink.NewHandleAt(netns.NsHandle(n.namespace.Fd()), unix.NETLINK_ROUTE); err != nil {
		return fmt.Errorf("speaking to the network namespace: %w", err)
	}
	current, err := read(n.handle)
	if err != nil {
		return err
	}
	if err := n.refuseTaken(current); err != nil {
		// Close must not sweep what is another's.
		n.handle.Close()
		n.handle = nil
		return err
	}
	interfaces := current.interfaces()
	if without := interfaces[min(len(interfaces), vm.MaxInterfaces):]; len(without) > 0 {
		return tooMany(len(interfaces), vm.MaxInterfaces, without)
	}
	for _, link := range interfaces {
		if err := check(link); err != nil {
			return err
		}
	}
	return nil
}

// refuseTaken refuses a namespace that another microVM has, or processes of others.
func (n *Network) refuseTaken(current state) error {
	if n.path == "" {
		return nil // a new one
	}
	for _, link := range current.links {
		if isTap(link.Attrs().Name) {
			return fmt.Errorf("the network namespace %s is another microVM's: two cannot share one: %w", n.path, errdefs.ErrFailedPrecondition)
		}
	}
	return refuseOthers(n.namespace, n.path)
}

// tooMany says that there is no device for some interfaces.
func tooMany(interfaces, devices int, without []netlink.Link) error {
	const named = 8
	var names []string
	for _, link := range without[:min(len(without), named)] {
		names = append(names, link.Attrs().Name)
	}
	if len(without) > named {
		names = append(names, "...")
	}
	return fmt.Errorf("the network namespace has %d interfaces, and this microVM has devices for %d: give it fewer networks; the guest would be without %s: %w",
		interfaces, devices, strings.Join(names, ", "), errdefs.ErrFailedPrecondition)
}

func (n *Network) addDevices(count int) error {
	for i := range count {
		device := vm.Interface{Tap: fmt.Sprint(tapPrefix, i), HardwareAddress: make(net.HardwareAddr, 6)}
		if _, err := rand.Read(device.HardwareAddress); err != nil {
			return err
		}
		// Locally administered, of one station (IEEE 802).
		device.HardwareAddress[0] = device.HardwareAddress[0]&^1 | 2
		if err := thread.InNetwork(n.namespace, func() error { return makeTap(device.Tap) }); err != nil {
			return err
		}
		n.devices = append(n.devices, device)
	}
	return nil
}

// VM is how the machine stands in the network. It holds the namespace only as long
// as the Network is open.
func (n *Network) VM() vm.Network {
	return vm.Network{Namespace: n.namespace, Interfaces: n.devices}
}

// A Guest is told what its network is to look like.
type Guest interface {
	SetNetwork(context.Context, *api.SetNetworkRequest) (*api.SetNetworkResponse, error)
}

// Sync joins what interfaces there are and tells the guest. What cannot be joined is
// left out, and the error names it; the guest has all the rest then.
func (n *Network) Sync(ctx context.Context, guest Guest) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.closed {
		return nil
	}
	current, err := read(n.handle)
	if err != nil {
		return err
	}
	return errors.Join(n.join(current), n.tell(ctx, guest, current.describe(n.joined)))
}

// tell has the guest do what it has not done yet.
func (n *Network) tell(ctx context.Context, guest Guest, request *api.SetNetworkRequest) error {
	if proto.Equal(request, n.told) {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if _, err := guest.SetNetwork(ctx, request); err != nil {
		n.told = nil // some of it
		return fmt.Errorf("taking the network over into the guest: %w", err)
	}
	n.told = request
	return nil
}

// join gives each interface a device, and takes back those of interfaces that have
// gone. An interface that stays keeps its device, whatever comes beside it.
func (n *Network) join(current state) error {
	interfaces := current.interfaces()
	present := make(map[int]bool)
	for _, link := range interfaces {
		present[link.Attrs().Index] = true
	}
	var errs []error
	for index, device := range n.joined {
		if !present[index] {
			errs = append(errs, n.unjoin(index, device))
		}
	}
	var without []netlink.Link
	for _, link := range interfaces {
		err := n.joinOne(link)
		if errors.Is(err, errNoDevice) {
			without = append(without, link)
			continue
		}
		errs = append(errs, err)
	}
	if len(without) > 0 {
		errs = append(errs, tooMany(len(interfaces), len(n.devices), without))
	}
	return errors.Join(errs...)
}

var errNoDevice = errors.New("all devices are in use")

func (n *Network) joinOne(link netlink.Link) error {
	index, mtu := link.Attrs().Index, link.Attrs().MTU
	if err := check(link); err != nil {
		return err
	}
	device, joined := n.joined[index]
	if !joined {
		var ok bool
		if device, ok = n.free(); !ok {
			return errNoDevice
		}
	}
	tap, err := n.handle.LinkByName(device.Tap)
	if err != nil {
		return fmt.Errorf("the TAP device %s: %w", device.Tap, err)
	}
	if tap.Attrs().MTU != mtu {
		if err := n.handle.LinkSetMTU(tap, mtu); err != nil {
			return fmt.Errorf("giving the TAP device %s the MTU %d: %w", device.Tap, mtu, err)
		}
	}
	if joined {
		return nil
	}
	if err := n.handle.LinkSetUp(tap); err != nil {
		return fmt.Errorf("setting the TAP device %s up: %w", device.Tap, err)
	}
	if err := join(n.handle, link, tap); err != nil {
		return err
	}
	n.joined[index] = device
	return nil
}

// free is a device that no interface has, if there is one.
func (n *Network) free() (vm.Interface, bool) {
	for _, device := range n.devices {
		used := false
		for _, other := range n.joined {
			used = used || other.Tap == device.Tap
		}
		if !used {
			return device, true
		}
	}
	return vm.Interface{}, false
}

// unjoin follows the end of an interface, with which its redirection went. The TAP
// device stays up: a VMM that writes to one that is down gets an error.
func (n *Network) unjoin(index int, device vm.Interface) error {
	delete(n.joined, index)
	tap, err := n.handle.LinkByName(device.Tap)
	if err != nil {
		return fmt.Errorf("the TAP device %s: %w", device.Tap, err)
	}
	return unredirect(n.handle, tap)
}

// Follow keeps the guest's network like the namespace's until Close. What cannot
// be done is logged.
func (n *Network) Follow(ctx context.Context, guest Guest) error {
	socket, err := nl.SubscribeAt(netns.NsHandle(n.namespace.Fd()), netns.None(), unix.NETLINK_ROUTE,
		unix.RTNLGRP_LINK, unix.RTNLGRP_NEIGH, unix.RTNLGRP_IPV4_IFADDR, unix.RTNLGRP_IPV4_ROUTE, unix.RTNLGRP_IPV6_IFADDR, unix.RTNLGRP_IPV6_ROUTE)
	if err != nil {
		return fmt.Errorf("following the network namespace: %w", err)
	}
	n.follow = socket
	changed := make(chan struct{}, 1)
	go func() {
		defer close(changed)
		for {
			// Messages that were lost (ENOBUFS) are a change too.
			if _, _, err := socket.Receive(); err != nil && !errors.Is(err, unix.ENOBUFS) {
				return
			}
			select {
			case changed <- struct{}{}:
			default:
			}
		}
	}()
	go func() {
		var last string
		for range changed {
			time.Sleep(settle)
			err := n.Sync(ctx, guest)
			if err == nil {
				last = ""
			} else if err.Error() != last && ctx.Err() == nil {
				last = err.Error()
				log.G(ctx).WithError(err).Error("following the network")
			}
		}
	}()
	return nil
}

// Close takes away what was put into the namespace. The VM has ended.
func (n *Network) Close() error {
	var errs []error
	if n.follow != nil {
		n.follow.Close()
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	n.closed = true
	if n.handle != nil {
		if n.path != "" {
			errs = append(errs, sweep(n.handle))
		} // its own ends with its last user
		n.handle.Close()
	}
	return errors.Join(append(errs, n.namespace.Close())...)
}

// Sweep takes away what the sandbox of a dead shim has left in the namespace at a
// path, in the caller's mount namespace. One that has ended has nothing left.
func Sweep(path string) error {
	namespace, err := openNamespace(mountns.Namespace{}, path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return err
	}
	defer namespace.Close()
	handle, err := netlink.NewHandleAt(netns.NsHandle(namespace.Fd()), unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer handle.Close()
	return sweep(handle)
}
