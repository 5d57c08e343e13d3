package network

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/containerd/errdefs"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
	"github.com/msb-runtime/containerd-shim-msb/shim/mountns"
	"github.com/msb-runtime/containerd-shim-msb/vm"
)

// namespace is a client's, at a path.
func namespace(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Fatal("this test makes network namespaces: run it as root")
	}
	file, err := newNamespace()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { file.Close() })
	return fmt.Sprintf("/proc/self/fd/%d", file.Fd())
}

func in(t *testing.T, path string, do func() error) {
	t.Helper()
	file, err := openNamespace(mountns.Namespace{}, path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if err := thread.InNetwork(file, do); err != nil {
		t.Fatal(err)
	}
}

// addVeth makes an interface with another end in the same namespace.
func addVeth(name, address string) error {
	attributes := netlink.NewLinkAttrs()
	attributes.Name = name
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: attributes, PeerName: "p-" + name}); err != nil {
		return err
	}
	link, err := netlink.LinkByName(name)
	if err != nil {
		return err
	}
	parsed, err := netlink.ParseAddr(address)
	if err != nil {
		return err
	}
	return errors.Join(netlink.AddrAdd(link, parsed), netlink.LinkSetUp(link))
}

// guest remembers what it was told.
type guest struct {
	mu   sync.Mutex
	told []*api.SetNetworkRequest
	err  error
}

func (g *guest) SetNetwork(_ context.Context, r *api.SetNetworkRequest) (*api.SetNetworkResponse, error) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.told = append(g.told, r)
	return &api.SetNetworkResponse{}, g.err
}

// names are those of the interfaces that the guest has now.
func (g *guest) names() string {
	g.mu.Lock()
	defer g.mu.Unlock()
	if len(g.told) == 0 {
		return ""
	}
	var names []string
	for _, i := range g.told[len(g.told)-1].Interfaces {
		names = append(names, i.Name)
	}
	return strings.Join(names, " ")
}

func linkNames() (names []string, err error) {
	links, err := netlink.LinkList()
	for _, link := range links {
		names = append(names, link.Attrs().Name)
	}
	return names, err
}

// What is joined is taken apart again, an interface that comes later is joined, and
// one that goes gives its device back.
func TestFollow(t *testing.T) {
	path := namespace(t)
	in(t, path, func() error { return addVeth("eth0", "10.1.0.2/24") })
	n, err := Open(mountns.Namespace{}, path)
	if err != nil {
		t.Fatal(err)
	}
	// The veth's other end counts too.
	if got := len(n.VM().Interfaces); got != 3 {
		t.Errorf("%d devices", got)
	}
	var g guest
	if err := n.Sync(t.Context(), &g); err != nil {
		t.Fatal(err)
	}
	if got := g.names(); got != "p-eth0 eth0" {
		t.Errorf("the guest has %q", got)
	}
	if _, err := Open(mountns.Namespace{}, path); !errdefs.IsFailedPrecondition(err) || !strings.Contains(err.Error(), "another microVM's") {
		t.Errorf("a second one: %v", err)
	}
	if err := n.Sync(t.Context(), &g); err != nil || len(g.told) != 1 {
		t.Errorf("nothing has changed, and the guest was told: %v", err)
	}
	if err := n.Follow(t.Context(), &g); err != nil {
		t.Fatal(err)
	}
	in(t, path, func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return err
		}
		return netlink.LinkDel(link)
	})
	g.await(t, "taken away", "")
	in(t, path, func() error { return addVeth("eth1", "10.2.0.2/24") })
	g.await(t, "another", "p-eth1 eth1")
	if err := n.Close(); err != nil {
		t.Error(err)
	}
	in(t, path, func() error {
		names, err := linkNames()
		if got := strings.Join(names, " "); got != "lo p-eth1 eth1" {
			t.Errorf("the namespace is left with %s", got)
		}
		links, listErr := netlink.LinkList()
		for _, link := range links {
			qdiscs, qdiscErr := netlink.QdiscList(link)
			err = errors.Join(err, qdiscErr)
			for _, qdisc := range qdiscs {
				if qdisc.Type() == "ingress" {
					t.Errorf("%s is left with a qdisc", link.Attrs().Name)
				}
			}
		}
		return errors.Join(err, listErr)
	})
	if err := n.Sync(t.Context(), &g); err != nil {
		t.Errorf("after Close: %v", err)
	}
}

// What a dead shim has left is swept; another's qdisc and its filters are not.
func TestSweep(t *testing.T) {
	path := namespace(t)
	in(t, path, func() error {
		if err := addVeth("eth0", "10.1.0.2/24"); err != nil {
			return err
		}
		link, err := netlink.LinkByName("p-eth0")
		if err != nil {
			return err
		}
		return errors.Join(
			netlink.QdiscAdd(&netlink.Ingress{QdiscAttrs: netlink.QdiscAttrs{LinkIndex: link.Attrs().Index, Parent: netlink.HANDLE_INGRESS}}),
			netlink.FilterAdd(&netlink.U32{
				FilterAttrs: netlink.FilterAttrs{LinkIndex: link.Attrs().Index, Parent: netlink.HANDLE_MIN_INGRESS, Priority: 0x7000, Protocol: unix.ETH_P_ALL},
				Actions:     []netlink.Action{netlink.NewMirredAction(1)},
			}))
	})
	n, err := Open(mountns.Namespace{}, path)
	if err != nil {
		t.Fatal(err)
	}
	if err := n.Sync(t.Context(), &guest{}); err != nil {
		t.Fatal(err)
	}
	if err := Sweep(path); err != nil {
		t.Error(err)
	}
	in(t, path, func() error {
		names, err := linkNames()
		if got := strings.Join(names, " "); got != "lo p-eth0 eth0" {
			t.Errorf("the namespace is left with %s", got)
		}
		for name, want := range map[string]int{"eth0": 0, "p-eth0": 1} {
			link, findErr := netlink.LinkByName(name)
			if findErr != nil {
				return findErr
			}
			filters, _ := netlink.FilterList(link, netlink.HANDLE_MIN_INGRESS)
			if len(filters) != want {
				t.Errorf("%s has %d filters, want %d", name, len(filters), want)
			}
		}
		return err
	})
	if err := errors.Join(n.Close(), Sweep(path), Sweep("/run/netns/there-is-none")); err != nil {
		t.Errorf("once more: %v", err)
	}
}

// One's own namespace ends with its last user.
func TestOwnNamespace(t *testing.T) {
	before, _ := linkNames()
	n, err := Open(mountns.Namespace{}, "")
	if err != nil {
		t.Fatal(err)
	}
	if len(n.VM().Interfaces) != vm.MaxInterfaces {
		t.Errorf("%d devices", len(n.VM().Interfaces))
	}
	err = thread.InNetwork(n.VM().Namespace, func() error {
		loopback, err := net.InterfaceByName("lo")
		if err == nil && loopback.Flags&net.FlagUp == 0 {
			t.Error("loopback is down")
		}
		return err
	})
	if err := errors.Join(err, n.Close()); err != nil {
		t.Error(err)
	}
	if after, _ := linkNames(); len(after) != len(before) {
		t.Errorf("the host had %v and has %v", before, after)
	}
}

func TestOpenRefuses(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	many := namespace(t)
	in(t, many, func() error { return errors.Join(addVeth("a", "10.1.0.1/24"), addVeth("b", "10.2.0.1/24")) })
	for path, says := range map[string]string{
		"/run/netns/there-is-none": "/run/netns/there-is-none", file: "not a network namespace", "/proc/self/ns/mnt": "not a network namespace",
		many: "has 4 interfaces, and this microVM has devices for 3",
	} {
		if n, err := Open(mountns.Namespace{}, path); err == nil {
			t.Errorf("%s was opened", path)
			_ = n.Close()
		} else if !strings.Contains(err.Error(), says) {
			t.Errorf("%s: %v", path, err)
		}
	}
	in(t, many, func() error {
		names, err := linkNames()
		if len(names) != 5 {
			t.Errorf("left with %v", names)
		}
		return err
	})
}

// await waits until the guest has interfaces of these names.
func (g *guest) await(t *testing.T, what, names string) {
	t.Helper()
	for deadline := time.Now().Add(time.Minute); g.names() != names; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("%s: the guest has %q", what, g.names())
		}
	}
}

// Interfaces that have no device are named, and take nothing from the others; one that goes
// leaves its device to the next.
func TestMoreThanFit(t *testing.T) {
	path := namespace(t)
	n, err := Open(mountns.Namespace{}, path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := n.Close(); err != nil {
			t.Error(err)
		}
	})
	var g guest
	sync := func(what string, says ...string) {
		t.Helper()
		err := n.Sync(t.Context(), &g)
		if (err == nil) != (len(says) == 0) || err != nil && !errdefs.IsFailedPrecondition(err) && !errdefs.IsInvalidArgument(err) {
			t.Errorf("%s: %v", what, err)
		}
		for _, word := range says {
			if !strings.Contains(fmt.Sprint(err), word) {
				t.Errorf("%s: %v; it does not say %q", what, err, word)
			}
		}
	}
	addTaps := func(names ...string) {
		in(t, path, func() (err error) {
			for _, name := range names {
				attributes := netlink.NewLinkAttrs()
				attributes.Name = name
				err = errors.Join(err, netlink.LinkAdd(&netlink.Tuntap{LinkAttrs: attributes, Mode: netlink.TUNTAP_MODE_TAP}))
			}
			return err
		})
	}
	remove := func(name string) {
		in(t, path, func() error {
			link, err := netlink.LinkByName(name)
			if err != nil {
				return err
			}
			return netlink.LinkDel(link)
		})
	}
	addTaps("e0", "e1", "e2", "e3")
	sync("a fourth", "has 4 interfaces, and this microVM has devices for 3", "without e3:")
	g.await(t, "the first three", "e0 e1 e2")
	sync("once more", "without e3:")
	if len(g.told) != 1 {
		t.Errorf("the guest was told %d times", len(g.told))
	}
	remove("e0")
	sync("one has gone")
	g.await(t, "one has gone", "e1 e2 e3")
	for i := range 17 {
		addTaps(fmt.Sprint("f", i))
	}
	sync("twenty", "has 20 interfaces", "without f0, f1, f2, f3, f4, f5, f6, f7, ...:")
	g.await(t, "twenty", "e1 e2 e3")
	if _, err := Open(mountns.Namespace{}, path); !strings.Contains(fmt.Sprint(err), "another microVM's") {
		t.Errorf("a second one: %v", err)
	}
	// A guest that refuses is told everything again.
	g.err = errdefs.ErrInternal
	remove("e2")
	if err := n.Sync(t.Context(), &g); !errors.Is(err, errdefs.ErrInternal) {
		t.Errorf("a guest that refuses: %v", err)
	}
	g.err = nil
	told := len(g.told)
	sync("it obeys", "has 19 interfaces")
	if len(g.told) != told+1 {
		t.Error("a guest that refused is not told again")
	}
	g.await(t, "it obeys", "e1 e3 f0")
}
