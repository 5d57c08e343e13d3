package e2e

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/containerd/containerd/v2/client"
	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"github.com/vishvananda/netlink"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/msb-runtime/containerd-shim-msb/test/harness"
	"github.com/msb-runtime/containerd-shim-msb/vm/kvm"
)

// echoPort is where servers send back what they get.
const echoPort = "7"

// networked is a container in a network namespace, with the probe.
func networked(t *testing.T, port *harness.Port, more ...oci.SpecOpts) contract {
	t.Helper()
	spec := []oci.SpecOpts{
		oci.WithMounts([]specs.Mount{bind(filepath.Join(host.Output, "tools"), "/probe", "ro")}),
		oci.WithAddedCapabilities([]string{"CAP_NET_ADMIN"}),
	}
	if port != nil {
		spec = append(spec, oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: port.Path}))
	}
	c := contract{start(t, options{spec: append(spec, more...)}, sleeper...), ""}
	c.keepShell()
	return c
}

// ping sends packets until one is answered, or three were not.
func (c contract) ping(addresses ...string) {
	c.t.Helper()
	for _, address := range addresses {
		c.must("ping -c 1 -W 5 " + address + " || ping -c 2 -W 60 " + address)
	}
}

// serve runs the probe's server in the container.
func (c contract) serve() {
	c.t.Helper()
	reader, writer := io.Pipe()
	process, _ := c.startExec(cio.NewCreator(cio.WithStreams(nil, writer, writer)), nil, "/probe/probe", "echo", echoPort)
	c.t.Cleanup(func() {
		if _, err := process.Delete(c.ctx, client.WithProcessKill); err != nil {
			process.IO().Cancel() // its container is gone
			_ = process.IO().Close()
		}
	})
	if line, err := bufio.NewReader(reader).ReadString('\n'); line != "listening\n" {
		c.t.Fatalf("the server says %q, %v", line, err)
	}
}

// echoes serves TCP and UDP in the host's network until the test's end: what comes
// goes back.
func echoes(t *testing.T, addresses ...string) {
	t.Helper()
	for _, address := range addresses {
		echoesIn(t, host.InNetwork, net.JoinHostPort(address, echoPort))
	}
}

// echoesIn sends back what comes to addresses in a network namespace, in which in does
// something.
func echoesIn(t *testing.T, in func(do func() error) error, addresses ...string) {
	t.Helper()
	for _, address := range addresses {
		var listener net.Listener
		var packets net.PacketConn
		err := in(func() (err error) {
			if listener, err = net.Listen("tcp", address); err != nil {
				return err
			}
			packets, err = net.ListenPacket("udp", address)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { listener.Close(); packets.Close() })
		go serveEcho(listener)
		go func() {
			packet := make([]byte, 64<<10)
			for {
				n, from, err := packets.ReadFrom(packet)
				if err != nil {
					return
				}
				_, _ = packets.WriteTo(packet[:n], from)
			}
		}()
	}
}

// serveNames is a DNS server in the host's network that knows the address of one
// name.
func serveNames(t *testing.T, name string, address [4]byte) {
	t.Helper()
	var packets net.PacketConn
	err := host.InNetwork(func() (err error) {
		packets, err = net.ListenPacket("udp", net.JoinHostPort(harness.BridgeAddress, "53"))
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { packets.Close() })
	go func() {
		packet := make([]byte, 1500)
		for {
			n, from, err := packets.ReadFrom(packet)
			if err != nil {
				return
			}
			var message dnsmessage.Message
			if err := message.Unpack(packet[:n]); err != nil || len(message.Questions) != 1 {
				continue
			}
			question := message.Questions[0]
			answer := dnsmessage.Message{Header: dnsmessage.Header{ID: message.ID, Response: true, RCode: dnsmessage.RCodeNameError}, Questions: message.Questions}
			if question.Name.String() == name {
				answer.RCode = dnsmessage.RCodeSuccess
				if question.Type == dnsmessage.TypeA {
					answer.Answers = []dnsmessage.Resource{{
						Header: dnsmessage.ResourceHeader{Name: question.Name, Type: question.Type, Class: question.Class},
						Body:   &dnsmessage.AResource{A: address},
					}}
				}
			}
			if data, err := answer.Pack(); err == nil {
				_, _ = packets.WriteTo(data, from)
			}
		}
	}()
}

// wantEcho sends a line from the host's network and wants it back.
func wantEcho(t *testing.T, network, address string) {
	t.Helper()
	err := host.InNetwork(func() error {
		conn, err := net.DialTimeout(network, net.JoinHostPort(address, echoPort), harness.Patience)
		if err != nil {
			return err
		}
		defer conn.Close()
		_ = conn.SetDeadline(time.Now().Add(harness.Patience))
		if _, err := fmt.Fprintln(conn, "hello"); err != nil {
			return err
		}
		line, err := bufio.NewReader(conn).ReadString('\n')
		if line != "hello\n" {
			return fmt.Errorf("got %q: %w", line, err)
		}
		return nil
	})
	if err != nil {
		t.Errorf("%s to %s: %v", network, address, err)
	}
}

// wantVhost wants QEMU to use the kernel's vhost-net, where that is to be had; an emulated
// host has it.
func wantVhost(t *testing.T, vmm int) {
	t.Helper()
	device, err := os.OpenFile("/dev/vhost-net", os.O_RDWR, 0)
	if err == nil {
		device.Close()
	} else if harness.Emulated() {
		t.Errorf("the emulated host has no vhost-net: %v", err)
	}
	if line := content(t, fmt.Sprintf("/proc/%d/cmdline", vmm)); strings.Contains(line, "vhost=on") != (err == nil) {
		t.Errorf("vhost-net: %v; QEMU runs as %q", err, line)
	}
}

// Two containers on a bridge, as CNI makes it.
func TestNetwork(t *testing.T) {
	nothingLeft(t)
	lan := host.NewLAN(t)
	echoes(t, harness.BridgeAddress, harness.BridgeAddress6)
	portA, portB := lan.Port("a"), lan.Port("b")
	portA.Plug("eth0", 9000, "10.99.0.2/24", "fd99::2/64")
	portB.Plug("net-b", 1280, "10.99.0.3/24", "fd99::3/64")
	beforeA := portA.Links()

	serveNames(t, "server.example.org.", [4]byte{10, 99, 0, 1})
	resolver := filepath.Join(t.TempDir(), "resolv.conf")
	write(t, resolver, "nameserver "+harness.BridgeAddress+"\n")
	a := networked(t, portA, oci.WithMounts([]specs.Mount{bind(resolver, "/etc/resolv.conf", "ro")}), func(_ context.Context, _ oci.Client, _ *containers.Container, s *specs.Spec) error {
		s.Linux.Sysctl = map[string]string{"net.ipv4.ip_unprivileged_port_start": "5"}
		return nil
	})
	b := networked(t, portB)
	if host.Driver == "qemu" && kvm.Check() == nil {
		wantVhost(t, a.vmm())
	}
	t.Run("what the namespace has", func(t *testing.T) {
		a := a.on(t)
		link, err := portA.Handle.LinkByName("eth0")
		if err != nil {
			t.Fatal(err)
		}
		shown := a.must("ip addr show eth0; ip route; ip -6 route; cat /proc/sys/net/ipv4/ip_unprivileged_port_start")
		for _, want := range []string{"mtu 9000", link.Attrs().HardwareAddr.String(), "10.99.0.2/24", "fd99::2/64", "default via 10.99.0.1", "default via fd99::1", "\n5"} {
			if !strings.Contains(shown, want) {
				t.Errorf("the container does not have %q:\n%s", want, shown)
			}
		}
		if shown := b.on(t).must("ip addr show net-b"); !strings.Contains(shown, "mtu 1280") {
			t.Errorf("MTU 1280: %s", shown)
		}
		a.must("[ \"$(ls /sys/class/net | tr '\\n' ' ')\" = 'eth0 lo ' ]")
	})
	a.serve()
	t.Run("container and host, both ways", func(t *testing.T) {
		a := a.on(t)
		for _, to := range []string{harness.BridgeAddress, "[" + harness.BridgeAddress6 + "]"} {
			for _, network := range []string{"tcp", "udp"} {
				if got := a.probe(fmt.Sprintf("connect %s:%s:%s hello", network, to, echoPort)); got != "hello" {
					t.Errorf("%s to %s: %s", network, to, got)
				}
			}
		}
		a.ping("10.99.0.1", "fd99::1")
		for _, address := range []string{"10.99.0.2", "fd99::2"} {
			wantEcho(t, "tcp", address)
			wantEcho(t, "udp", address)
		}
	})
	t.Run("two containers, MTU 9000 and 1280", func(t *testing.T) {
		b := b.on(t)
		for _, address := range []string{"tcp:10.99.0.2", "udp:10.99.0.2", "tcp:[fd99::2]", "udp:[fd99::2]"} {
			if got := b.probe("connect " + address + ":" + echoPort + " hello"); got != "hello" {
				t.Errorf("%s: %s", address, got)
			}
		}
		b.ping("10.99.0.2", "fd99::2")
		a := a.on(t)
		a.ping("-s 8000 10.99.0.1")
		if got := a.probe("pump tcp:10.99.0.1:7 4 1048576"); got != "ok" {
			t.Errorf("1 MiB over MTU 9000: %s", got)
		}
		if got := b.probe("pump tcp:10.99.0.1:7 4 1048576"); got != "ok" {
			t.Errorf("1 MiB over MTU 1280: %s", got)
		}
	})
	t.Run("names", func(t *testing.T) {
		if got := a.on(t).probe("lookup server.example.org"); got != "10.99.0.1" {
			t.Errorf("server.example.org is %s", got)
		}
		if got := a.on(t).probe("lookup other.example.org"); !strings.Contains(got, "no such host") {
			t.Errorf("other.example.org is %s", got)
		}
	})
	t.Run("loopback", func(t *testing.T) {
		if got := a.on(t).probe("connect tcp:127.0.0.1:7 hello"); got != "hello" {
			t.Errorf("the container's own server: %s", got)
		}
		if got := b.on(t).probe("connect tcp:127.0.0.1:7 hello"); got != "ECONNREFUSED" {
			t.Errorf("another container's loopback: %s", got)
		}
	})
	t.Run("a smaller MTU on the way is found", func(t *testing.T) {
		narrow := lan.Port("narrow")
		narrow.Wire("eth0", 1400, "10.98.0.1/24", "10.98.0.2/24")
		gateway := &netlink.Route{Gw: net.ParseIP("10.98.0.1")}
		if err := narrow.Handle.RouteAdd(gateway); err != nil {
			t.Fatal(err)
		}
		c := networked(t, narrow)
		c.serve()
		a := a.on(t)
		if got := a.probe("pump tcp:10.98.0.2:7 1 1048576"); got != "ok" {
			t.Errorf("through it: %s", got)
		}
		// The first is refused by ICMP, the next ones go in fragments.
		a.must("ping -c 4 -i 0.2 -W 5 -s 4000 10.98.0.2")
		if got := a.probe("mtu udp:10.98.0.2:7"); got != "1400" {
			t.Errorf("the container knows an MTU of %s of the path", got)
		}
		if got := a.probe("connect udp:10.99.0.1:9 hello"); got != "ECONNREFUSED" {
			t.Errorf("a closed UDP port: %s", got)
		}
	})
	t.Run("many connections", func(t *testing.T) {
		if got := a.on(t).probe(fmt.Sprintf("pump tcp:10.99.0.1:7 %d 1000", harness.FewEmulated(250, 1000))); got != "ok" {
			t.Error(got)
		}
	})
	t.Run("an interface and a route that come later, and go", func(t *testing.T) {
		a := a.on(t)
		portA.Wire("eth1", 1500, "10.97.0.1/24", "10.97.0.2/24", "fd97::2/64")
		eth1, err := portA.Handle.LinkByName("eth1")
		if err != nil {
			t.Fatal(err)
		}
		_, far, _ := net.ParseCIDR("10.96.0.0/16")
		route := &netlink.Route{LinkIndex: eth1.Attrs().Index, Dst: far, Gw: net.ParseIP("10.97.0.1")}
		if err := portA.Handle.RouteAdd(route); err != nil {
			t.Fatal(err)
		}
		a.eventually("the interface", "ip addr show eth1 | grep -q 10.97.0.2/24 && ip route | grep -q '10.96.0.0/16 via 10.97.0.1'")
		a.ping("10.97.0.1")
		// Another hardware address, which is also eth0's.
		eth0, err := portA.Handle.LinkByName("eth0")
		if err == nil {
			err = portA.Handle.LinkSetHardwareAddr(eth1, eth0.Attrs().HardwareAddr)
		}
		if err != nil {
			t.Fatal(err)
		}
		a.eventually("the hardware address", "ip link show eth1 | grep -q "+eth0.Attrs().HardwareAddr.String())
		a.ping("10.97.0.1", "10.99.0.1")
		if err := portA.Handle.RouteDel(route); err != nil {
			t.Fatal(err)
		}
		a.eventually("the end of the route", "! ip route | grep -q 10.96")
		if err := portA.Handle.LinkDel(eth1); err != nil {
			t.Fatal(err)
		}
		a.eventually("the end of the interface", "! ip link show eth1")
		portA.Wire("eth1", 1500, "10.97.0.1/24", "10.97.0.3/24")
		a.eventually("another of its name", "ip addr show eth1 | grep -q 10.97.0.3/24")
		a.ping("10.97.0.1", "10.99.0.1")
		if eth1, err = portA.Handle.LinkByName("eth1"); err == nil {
			err = portA.Handle.LinkDel(eth1)
		}
		if err != nil {
			t.Fatal(err)
		}
		a.eventually("its end", "! ip link show eth1")
	})
	t.Run("what the guest does to its interface stays in its namespace", func(t *testing.T) {
		b, before := b.on(t), lan.Links()
		b.must("ip link set net-b promisc on && ip link set net-b down && ip link set net-b address 02:00:00:00:00:66 && ip link set net-b up")
		if links := lan.Links(); !slices.Equal(links, before) {
			t.Errorf("the host's namespace had %v and has %v", before, links)
		}
		for _, path := range []string{"/proc/net/dev", fmt.Sprintf("/proc/%d/net/dev", host.Pid())} {
			if devices, _ := os.ReadFile(path); strings.Contains(string(devices), "msbtap") {
				t.Errorf("a TAP device outside of the container's namespace: %s", devices)
			}
		}
	})
	for _, c := range []contract{a, b} {
		if _, err := c.Delete(c.ctx, client.WithProcessKill); err != nil {
			t.Error(err)
		}
	}
	if links := portA.Links(); !slices.Equal(links, beforeA) {
		t.Errorf("the container's namespace had %v and has %v", beforeA, links)
	}
}
