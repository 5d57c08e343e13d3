package network

import (
	"errors"
	"fmt"

	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
)

// Move takes the network of a VM that runs already from the namespace that Open has made for
// it to the one at a path in a mount namespace, of which it refuses what Open does. The TAP
// devices go there and stay the VM's, because its VMM holds them; the VMM itself stays where
// it is. It is called before Follow. After an error the network is where it was, as far as
// the kernel lets it go back: the caller closes it.
func (n *Network) Move(mounts mountns.Namespace, path string) error {
	n.mu.Lock()
	defer n.mu.Unlock()
	to := &Network{path: path}
	if err := to.enter(mounts); err != nil {
		return err
	}
	for _, device := range n.devices {
		if err := n.moveTap(device.Tap, to); err != nil {
			return errors.Join(err, to.Close())
		}
	}
	n.handle.Close()
	err := n.namespace.Close()
	n.path, n.namespace, n.handle = to.path, to.namespace, to.handle
	return err
}

// moveTap moves one TAP device. What is set by namespace is set again.
func (n *Network) moveTap(name string, to *Network) error {
	link, err := n.handle.LinkByName(name)
	if err != nil {
		return fmt.Errorf("the TAP device %s: %w", name, err)
	}
	if err := n.handle.LinkSetNsFd(link, int(to.namespace.Fd())); err != nil {
		return fmt.Errorf("moving the TAP device %s into the network namespace %s: %w", name, to.path, err)
	}
	return thread.InNetwork(to.namespace, func() error { return withoutIPv6(name) })
}
