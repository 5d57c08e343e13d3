package network

import (
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
	"github.com/msb-runtime/containerd-shim-msb/vm"
)

// attach opens a TAP device as a VMM does.
func attach(t *testing.T, n *Network, name string) *os.File {
	t.Helper()
	var fd int
	err := thread.InNetwork(n.namespace, func() (err error) {
		if fd, err = unix.Open(tunDevice, unix.O_RDWR|unix.O_CLOEXEC|unix.O_NONBLOCK, 0); err != nil {
			return err
		}
		request, err := unix.NewIfreq(name)
		if err != nil {
			return err
		}
		request.SetUint16(unix.IFF_TAP | unix.IFF_NO_PI | unix.IFF_VNET_HDR)
		return unix.IoctlIfreq(fd, unix.TUNSETIFF, request)
	})
	if err != nil {
		t.Fatal(err)
	}
	file := os.NewFile(uintptr(fd), name)
	t.Cleanup(func() { file.Close() })
	return file
}

// namesAt are the interfaces of the namespace at a path.
func namesAt(t *testing.T, path string) (names string) {
	t.Helper()
	in(t, path, func() error {
		found, err := linkNames()
		names = strings.Join(found, " ")
		return err
	})
	return names
}

// own is the network of a VM that has booted before it is needed.
func own(t *testing.T) *Network {
	t.Helper()
	n, err := Open(mountns.Namespace{}, "")
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// pathOf is a path to the namespace that a network has now.
func pathOf(n *Network) string { return fmt.Sprintf("/proc/self/fd/%d", n.namespace.Fd()) }

// taps are the names of all TAP devices of a VM.
func taps() string {
	var names []string
	for i := range vm.MaxInterfaces {
		names = append(names, fmt.Sprint(tapPrefix, i))
	}
	return strings.Join(names, " ")
}

// A VM that runs gets the namespace of its bundle: its TAP devices are there, and are its
// VMM's as before.
func TestMove(t *testing.T) {
	path := namespace(t)
	in(t, path, func() error { return addVeth("eth0", "10.1.0.2/24") })
	n := own(t)
	before := n.VM().Interfaces
	device := attach(t, n, before[0].Tap)
	old, err := openNamespace(mountns.Namespace{}, pathOf(n))
	if err != nil {
		t.Fatal(err)
	}
	defer old.Close()
	if err := n.Move(mountns.Namespace{}, path); err != nil {
		t.Fatal(err)
	}
	if got := namesAt(t, fmt.Sprintf("/proc/self/fd/%d", old.Fd())); got != "lo" {
		t.Errorf("its old namespace has %s", got)
	}
	for _, name := range strings.Fields(taps()) {
		if got := namesAt(t, path); !strings.Contains(got, name) {
			t.Errorf("the namespace has %s, and not %s", got, name)
		}
	}
	if after := n.VM().Interfaces; fmt.Sprint(after) != fmt.Sprint(before) {
		t.Errorf("the machine has the devices %v, and had %v", after, before)
	}
	given, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	if now, err := n.VM().Namespace.Stat(); err != nil || !os.SameFile(given, now) {
		t.Errorf("the machine stands elsewhere: %v", err)
	}
	in(t, path, func() error {
		for _, name := range strings.Fields(taps()) {
			value, err := os.ReadFile("/proc/sys/net/ipv6/conf/" + name + "/disable_ipv6")
			if errors.Is(err, os.ErrNotExist) {
				continue // a kernel without IPv6
			}
			if err != nil || string(value) != "1\n" {
				t.Errorf("disable_ipv6 of %s is %q, %v", name, value, err)
			}
		}
		return nil
	})
	var g guest
	if err := n.Sync(t.Context(), &g); err != nil {
		t.Fatal(err)
	}
	if got := g.names(); got != "p-eth0 eth0" {
		t.Errorf("the guest has %q", got)
	}
	leaves(t, path, device)
	if err := n.Follow(t.Context(), &g); err != nil {
		t.Fatal(err)
	}
	in(t, path, func() error { return addVeth("eth1", "10.2.0.2/24") })
	g.await(t, "one of two more, which one device is left for", "p-eth0 eth0 p-eth1")
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	if got := namesAt(t, path); got != "lo p-eth0 eth0 p-eth1 eth1" {
		t.Errorf("the namespace is left with %s", got)
	}
}

// leaves sends a frame through a TAP device that somebody has held since before it moved. The
// first device is that of p-eth0, through which it leaves and comes to eth0.
func leaves(t *testing.T, path string, device *os.File) {
	t.Helper()
	bytes := func() (count uint64) {
		in(t, path, func() error {
			link, err := netlink.LinkByName("eth0")
			if err != nil {
				return err
			}
			count = link.Attrs().Statistics.RxBytes
			return nil
		})
		return count
	}
	in(t, path, func() error {
		link, err := netlink.LinkByName("p-eth0")
		if err != nil {
			return err
		}
		return netlink.LinkSetUp(link)
	})
	before := bytes()
	const virtioHeader, frame = 10, 1000
	data := make([]byte, virtioHeader+frame)
	copy(data[virtioHeader:], "\xff\xff\xff\xff\xff\xff\x02\x00\x00\x00\x00\x01\x88\xb5") // for local experiments (IEEE 802)
	if _, err := device.Write(data); err != nil {
		t.Fatalf("a TAP device that has moved takes no frame: %v", err)
	}
	for deadline := time.Now().Add(time.Minute); bytes() < before+frame-100; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the frame does not arrive")
		}
	}
}

// A namespace that Open refuses is refused. What another VM has there stays, and so does what
// this one has.
func TestMoveRefused(t *testing.T) {
	path, many := namespace(t), namespace(t)
	in(t, many, func() error { return errors.Join(addVeth("a", "10.1.0.1/24"), addVeth("b", "10.2.0.1/24")) })
	other, err := Open(mountns.Namespace{}, path)
	if err != nil {
		t.Fatal(err)
	}
	n := own(t)
	device := attach(t, n, n.devices[0].Tap)
	for path, want := range map[string]struct {
		says string
		is   func(error) bool
	}{
		path:                       {"another microVM's", errdefs.IsFailedPrecondition},
		"/proc/self/ns/mnt":        {"not a network namespace", errdefs.IsInvalidArgument},
		os.DevNull:                 {"not a network namespace", errdefs.IsInvalidArgument},
		"/run/netns/there-is-none": {"/run/netns/there-is-none", errdefs.IsFailedPrecondition},
		"/proc/self/ns/net":        {"has processes of others", errdefs.IsFailedPrecondition},
		many:                       {"has 4 interfaces", errdefs.IsFailedPrecondition},
	} {
		if err := n.Move(mountns.Namespace{}, path); err == nil || !want.is(err) || !strings.Contains(err.Error(), want.says) {
			t.Errorf("%s: %v", path, err)
		}
	}
	for what, path := range map[string]string{"the other VM's namespace": path, "its own": pathOf(n)} {
		if got := namesAt(t, path); got != "lo "+taps() {
			t.Errorf("%s has %s", what, got)
		}
	}
	if got := namesAt(t, many); strings.Contains(got, tapPrefix) {
		t.Errorf("the one that is full has %s", got)
	}
	// It can still go where it may.
	free := namespace(t)
	if err := n.Move(mountns.Namespace{}, free); err != nil {
		t.Fatal(err)
	}
	if got := namesAt(t, free); got != "lo "+taps() {
		t.Errorf("the free one has %s", got)
	}
	if err := errors.Join(device.Close(), n.Close(), other.Close()); err != nil {
		t.Error(err)
	}
	for _, path := range []string{path, free} {
		if got := namesAt(t, path); got != "lo" {
			t.Errorf("left: %s", got)
		}
	}
}
