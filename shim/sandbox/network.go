package sandbox

import (
	"context"
	"net"

	"github.com/containerd/log"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/shim/network"
	"github.com/msb-runtime/containerd-shim-msb/vm"
	"github.com/msb-runtime/containerd-shim-msb/vm/qemu"
)

// openNetwork makes the VM's end of the network that the sandbox has.
func (s *Sandbox) openNetwork() (vm.Network, error) {
	if s.host.Network.Host {
		return vm.Network{Host: true}, nil
	}
	var err error
	if s.network, err = network.Open(s.host.Network.Path); err != nil {
		return vm.Network{}, err
	}
	return s.network.VM(), nil
}

// connectNetwork makes the guest's end, and keeps it like the host's.
func (s *Sandbox) connectNetwork(ctx context.Context, driver vm.Driver) error {
	if s.network == nil {
		_, err := s.Guest.SetNetwork(ctx, hostNetwork(driver))
		return err
	}
	if err := s.network.Follow(context.WithoutCancel(ctx), s.Guest); err != nil {
		return err
	}
	if s.host.Pod {
		s.openLoopback(ctx)
	}
	return s.SyncNetwork(ctx)
}

// openLoopback is not worth failing for: all of a pod's network but this needs no more
// of the kernel than the rest.
func (s *Sandbox) openLoopback(ctx context.Context) {
	loopback, err := network.OpenLoopback(s.vmNetwork.Namespace, func(ctx context.Context, port uint32) (net.Conn, error) {
		return s.Dial(ctx, &api.StreamHeader{Purpose: &api.StreamHeader_Port{Port: &api.PortStream{Port: port}}})
	})
	if err != nil {
		log.G(ctx).WithError(err).Warn("port-forward does not work for this pod")
		return
	}
	s.loopback = loopback
}

// SyncNetwork takes over into the guest what the network namespace has now.
func (s *Sandbox) SyncNetwork(ctx context.Context) error {
	if s.network == nil {
		return nil
	}
	return s.network.Sync(ctx, s.Guest)
}

// hostNetwork is what a guest that has the host's network is to do for it. Under
// libkrun nothing: its kernel makes sockets the VMM's.
func hostNetwork(driver vm.Driver) *api.SetNetworkRequest {
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
