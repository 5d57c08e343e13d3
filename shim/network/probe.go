package network

import (
	"context"
	"errors"
	"net"

	"github.com/vishvananda/netlink"
	"github.com/vishvananda/netns"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
)

// A Trial is what the networks of VMs need of this host: nil, or why it is not there.
type Trial struct {
	Tap      error // TAP devices
	Redirect error // between two interfaces, by traffic control
	Lookup   error // of sockets by a program, for ports that are forwarded to pods
}

// Try tries it, in a network namespace that ends with the trial.
func Try() Trial {
	namespace, err := newNamespace()
	if err != nil {
		return Trial{err, err, err}
	}
	defer namespace.Close()
	names := []string{tapPrefix + "0", tapPrefix + "1"}
	var t Trial
	t.Tap = thread.InNetwork(namespace, func() error { return errors.Join(makeTap(names[0]), makeTap(names[1])) })
	if t.Redirect = t.Tap; t.Tap == nil {
		t.Redirect = tryRedirect(netns.NsHandle(namespace.Fd()), names)
	}
	loopback, err := OpenLoopback(namespace, func(context.Context, uint32) (net.Conn, error) { return nil, net.ErrClosed })
	if t.Lookup = err; err == nil {
		t.Lookup = loopback.Close()
	}
	return t
}

func tryRedirect(namespace netns.NsHandle, names []string) error {
	handle, err := netlink.NewHandleAt(namespace, unix.NETLINK_ROUTE)
	if err != nil {
		return err
	}
	defer handle.Close()
	one, err := handle.LinkByName(names[0])
	if err != nil {
		return err
	}
	other, err := handle.LinkByName(names[1])
	if err != nil {
		return err
	}
	return join(handle, one, other)
}
