package e2e

import (
	"fmt"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
)

// Port 53 of the loopback addresses that resolv.conf names is that of the namespace on the
// host, where somebody is there, and nothing else of its loopback; what the container has
// at port 53 itself is its own.
func TestResolvers(t *testing.T) {
	nothingLeft(t)
	lan := host.NewLAN(t)
	port := lan.Port("resolvers")
	in := func(do func() error) error { return thread.InNetworkAt(port.Path, do) }
	echoesIn(t, in, "127.0.0.5:53", "[::1]:53", "127.0.0.5:54", "127.0.0.7:53")
	conf := filepath.Join(t.TempDir(), "resolv.conf")
	write(t, conf, "nameserver 127.0.0.5\nnameserver ::1\nnameserver 127.0.0.1\n")
	c := networked(t, port, oci.WithMounts([]specs.Mount{bind(conf, "/etc/resolv.conf", "ro")}))
	for address, want := range map[string]string{
		"127.0.0.5:53": "hello", "[::1]:53": "hello", "[::ffff:127.0.0.5]:53": "hello",
		"127.0.0.5:54": "ECONNREFUSED", "127.0.0.7:53": "ECONNREFUSED",
	} {
		for _, network := range []string{"tcp", "udp"} {
			if got := c.probe(fmt.Sprintf("connect %s:%s hello", network, address)); got != want {
				t.Errorf("%s to %s: %s, want %s", network, address, got, want)
			}
		}
	}
	if got := c.probe("pump tcp:127.0.0.5:53 100 20000"); got != "ok" {
		t.Errorf("100 connections: %s", got)
	}
	// Nobody is there: not a wait for the end of a client's patience.
	if got := c.probe("connect tcp:127.0.0.1:53 hello"); !strings.HasPrefix(got, "E") {
		t.Errorf("where nobody is: %s", got)
	}
	c.must("probe echo 53 >/dev/null 2>&1 &")
	c.eventually("a server of the container's own at port 53", `[ "$(probe connect tcp:127.0.0.1:53 own)" = own ]`)
	for _, address := range []string{"tcp:127.0.0.1:53", "udp:127.0.0.1:53", "udp:127.0.0.5:53"} {
		if got := c.probe("connect " + address + " hello"); got != "hello" {
			t.Errorf("%s, with a server of the container's own: %s", address, got)
		}
	}
}
