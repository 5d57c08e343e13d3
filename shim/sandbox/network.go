package sandbox

import (
	"context"
	"net"
	"slices"
	"sync"

	"github.com/containerd/log"
	"google.golang.org/protobuf/proto"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
	"github.com/msb-runtime/containerd-shim-msb/shim/network"
	"github.com/msb-runtime/containerd-shim-msb/shim/resolver"
	"github.com/msb-runtime/containerd-shim-msb/vm"
	"github.com/msb-runtime/containerd-shim-msb/vm/qemu"
)

// A Network joins a network namespace of the host with the VM; see network.Network.
type Network interface {
	VM() vm.Network
	Follow(context.Context, network.Guest) error
	Sync(context.Context, network.Guest) error
	Move(mounts mountns.Namespace, path string) error
	Close() error
}

var _ Network = (*network.Network)(nil)

// openNetwork is a Platform's OpenNetwork.
func openNetwork(mounts mountns.Namespace, path string) (Network, error) {
	joined, err := network.Open(mounts, path)
	if err != nil {
		return nil, err
	}
	return joined, nil
}

// A hostNetwork is the host's end of the network that a VM has.
type hostNetwork struct {
	vm     vm.Network
	joined Network // nil with the host's network
}

// openNetwork makes the host's end.
func (p *Prepared) openNetwork() (hostNetwork, error) {
	if p.config.Network.Host {
		return hostNetwork{vm: vm.Network{Host: true}}, nil
	}
	joined, err := p.platform.OpenNetwork(p.platform.Mounts, p.config.Network.Path)
	if err != nil {
		return hostNetwork{}, err
	}
	p.undo.Add(joined.Close)
	return hostNetwork{joined.VM(), joined}, nil
}

// A told guest has what it was told, and beside its network the resolvers of the host's.
type told struct {
	guest     network.Guest
	resolvers *resolver.Set

	mu        sync.Mutex
	network   *api.SetNetworkRequest // without resolvers
	addresses []string               // of the resolvers
}

// SetNetwork implements network.Guest.
func (t *told) SetNetwork(ctx context.Context, request *api.SetNetworkRequest) (*api.SetNetworkResponse, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.set(ctx, request, t.resolvers.Addresses())
}

// Sync tells it of resolvers that have come since.
func (t *told) Sync(ctx context.Context) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	addresses := t.resolvers.Addresses()
	if slices.Equal(addresses, t.addresses) {
		return nil
	}
	_, err := t.set(ctx, t.network, addresses)
	return err
}

// set tells the guest. The caller holds t.mu.
func (t *told) set(ctx context.Context, request *api.SetNetworkRequest, addresses []string) (*api.SetNetworkResponse, error) {
	t.network = request
	whole := proto.CloneOf(request)
	whole.Resolvers = addresses
	response, err := t.guest.SetNetwork(ctx, whole)
	if err != nil {
		return nil, err
	}
	if text := response.GetResolversError(); text != "" && !slices.Equal(addresses, t.addresses) {
		log.G(ctx).Warnf("resolvers of the host's side do not answer in this VM, the rest of its network works: %s", text)
	}
	t.addresses = addresses
	return response, nil
}

// connectNetwork makes the guest's end, and keeps it like the host's.
func (s *Sandbox) connectNetwork(ctx context.Context) error {
	s.told = &told{guest: s.Guest, resolvers: &s.Sockets.Resolvers, network: new(api.SetNetworkRequest)}
	if s.network.joined == nil {
		if s.driver.Name() == qemu.Name { // under libkrun the guest's sockets are the host's
			s.Sockets.Resolvers.Join(nil)
		}
		_, err := s.told.SetNetwork(ctx, hostsNetwork(s.driver))
		return err
	}
	if s.network.vm.Namespace != nil {
		s.Sockets.Resolvers.Join(s.network.vm.Namespace)
	}
	if err := s.network.joined.Follow(context.WithoutCancel(ctx), s.told); err != nil {
		return err
	}
	if s.config.Pod && s.network.vm.Namespace != nil {
		s.openLoopback(ctx)
	}
	return s.SyncNetwork(ctx)
}

// openLoopback is not worth failing for: all of a pod's network but this needs no more
// of the kernel than the rest.
func (s *Sandbox) openLoopback(ctx context.Context) {
	loopback, err := network.OpenLoopback(s.network.vm.Namespace, func(ctx context.Context, port uint32) (net.Conn, error) {
		return s.Guest.Dial(ctx, &api.StreamHeader{Purpose: &api.StreamHeader_Port{Port: &api.PortStream{Port: port}}})
	})
	if err != nil {
		log.G(ctx).WithError(err).Warn("port-forward does not work for this pod")
		return
	}
	s.undo.Add(loopback.Close)
}

// SyncNetwork takes over into the guest what the network namespace has now.
func (s *Sandbox) SyncNetwork(ctx context.Context) error {
	if s.network.joined != nil {
		if err := s.network.joined.Sync(ctx, s.told); err != nil {
			return err
		}
	}
	return s.told.Sync(ctx)
}

// hostsNetwork is what a guest that has the host's network is to do for it. Under
// libkrun nothing: its kernel makes sockets the VMM's.
func hostsNetwork(driver vm.Driver) *api.SetNetworkRequest {
	request := &api.SetNetworkRequest{Host: true}
	if driver.Name() != qemu.Name {
		return request
	}
	device := vm.HostHardwareAddress
	request.Interfaces = []*api.Interface{{
		Device: device, HardwareAddress: device, Name: "eth0", Mtu: 1500, Up: true,
		Addresses: []*api.Address{{Prefix: qemu.UserAddress}, {Prefix: qemu.UserAddress6}},
	}}
	request.Routes = []*api.Route{
		{Interface: "eth0", Gateway: qemu.UserGateway, Type: api.RouteUnicast},
		{Interface: "eth0", Gateway: qemu.UserGateway6, Ipv6: true, Type: api.RouteUnicast},
	}
	return request
}
