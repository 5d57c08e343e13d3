package e2e

import (
	"bytes"
	"context"
	"flag"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/core/containers"
	"github.com/containerd/containerd/v2/pkg/cio"
	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/msb-runtime/containerd-shim-msb/test/document"
	"github.com/msb-runtime/containerd-shim-msb/test/harness"
)

var updateGuest = flag.Bool("update-guest", false, "write the table into docs/guest.md")

// An ability is what containers can do with the guest's kernel: a line of docs/guest.md.
type ability struct {
	// name is the subtest's of TestGuest, which shows it.
	name string
	// use is what people do with it, and works what of it there is.
	use, works string
	// needs are the capabilities that it takes besides those that every container has,
	// or privileged.
	needs string
	// long is set where it takes builds and minutes that not every run has (harness.Many).
	long bool
	// script shows it, as bash reads it in a container with the host's programs; or test does.
	script string
	test   func(*testing.T, *guests)
}

const privileged = "privileged"

// guests are the containers that the lines are tried in, each in a VM of its own: one that
// has what every container has and two devices, and a privileged one. They are in one network.
type guests struct {
	plain, privileged *task
}

// What the containers have in the network.
const (
	guestPlainAddress      = "10.99.0.2"
	guestPrivilegedAddress = "10.99.0.3"
)

// programsOfTheHost are mounts of its programs and their libraries, read-only.
func programsOfTheHost(t *testing.T) (mounts []specs.Mount) {
	t.Helper()
	for _, dir := range []string{"/usr", "/lib", "/lib64"} {
		source, err := filepath.EvalSymlinks(dir)
		if err != nil {
			t.Fatal(err)
		}
		mounts = append(mounts, bind(source, dir, "ro", "x-msb.sockets=off"))
	}
	return append(mounts, bind(filepath.Join(host.Output, "tools"), "/probe", "ro", "x-msb.sockets=off"),
		specs.Mount{Destination: "/sys/fs/cgroup", Type: "cgroup", Source: "cgroup", Options: []string{"ro", "nosuid", "noexec", "nodev"}},
		specs.Mount{Destination: "/tmp", Type: "tmpfs", Source: "tmpfs"}, specs.Mount{Destination: "/run", Type: "tmpfs", Source: "tmpfs"})
}

// withDevices gives a container /dev/fuse and /dev/net/tun, as "docker run --device" does.
func withDevices(_ context.Context, _ oci.Client, _ *containers.Container, s *specs.Spec) error {
	for path, minor := range map[string]int64{"/dev/fuse": 229, "/dev/net/tun": 200} {
		major := int64(10)
		s.Linux.Devices = append(s.Linux.Devices, specs.LinuxDevice{Path: path, Type: "c", Major: major, Minor: minor})
		s.Linux.Resources.Devices = append(s.Linux.Resources.Devices, specs.LinuxDeviceCgroup{Allow: true, Type: "c", Major: &major, Minor: &minor, Access: "rwm"})
	}
	return nil
}

func newGuests(t *testing.T) *guests {
	t.Helper()
	lan := host.NewLAN(t)
	plug := func(name, address, address6 string) oci.SpecOpts {
		port := lan.Port(name)
		port.Plug("eth0", 1500, address+"/24", address6+"/64")
		return oci.WithLinuxNamespace(specs.LinuxNamespace{Type: specs.NetworkNamespace, Path: port.Path})
	}
	mounts := programsOfTheHost(t)
	engine := append(slices.Clone(mounts), bind(filepath.Join(host.Output, "cache", "docker"), "/docker", "ro", "x-msb.sockets=off"), bind(filepath.Join(host.Output, "images"), "/images", "ro"),
		bind(filepath.Join(host.Output, "cni"), "/cni", "ro", "x-msb.sockets=off"),
		specs.Mount{Destination: "/var/lib/docker", Type: "tmpfs", Source: "tmpfs"})
	if harness.Many(0, 1) == 1 {
		engine = append(engine, bind(filepath.Join(host.Output, "kubernetes"), "/kubernetes", "ro", "x-msb.sockets=off"))
	}
	return &guests{
		plain: start(t, options{spec: []oci.SpecOpts{plug("plain", guestPlainAddress, "fd99::2"), oci.WithMounts(mounts), withDevices}}, sleeper...),
		privileged: start(t, options{spec: []oci.SpecOpts{
			plug("privileged", guestPrivilegedAddress, "fd99::3"), oci.WithMounts(engine), oci.WithMemoryLimit(1 << 30),
			oci.WithPrivileged, oci.WithHostDevices, oci.WithAllDevicesAllowed,
			oci.WithAddedCapabilities([]string{"CAP_SYS_RESOURCE"}), // a client gives what its own root has, which may lack it
		}}, sleeper...),
	}
}

// prelude is what the scripts have: a server that answers one connection, a client that
// waits for a server, one that does not, and what is to fail. Bash ends at the first command
// that fails, unless that is before && or after !.
const prelude = `set -euo pipefail
export PATH=/usr/bin:/usr/sbin:/probe
trap 'kill $(jobs -p) 2>/dev/null || true' EXIT
serve() { /bin/nc -l -p "$1" <<<"$2" >/dev/null 2>&1 & }
try() { (exec 3<>"/dev/tcp/$1/$2" && cat <&3) 2>/dev/null; }
ask() { until try "$1" "$2"; do sleep 0.1; done; }
fails() { if "$@"; then echo "succeeded: $*"; return 1; fi; }
can() { probe can "$@"; }
`

// run runs a script in the container that a line's needs name, with no more than they say.
func (g *guests) run(t *testing.T, needs, script string) string {
	t.Helper()
	in := g.plain.on(t)
	if needs == privileged {
		in = g.privileged.on(t)
	}
	var out harness.Buffer
	process, exit := in.startExec(cio.NewCreator(cio.WithStreams(bytes.NewReader(nil), &out, &out)), func(p *specs.Process) {
		if needs != privileged && needs != "" {
			ctx := context.Background()
			added := strings.Split(needs, ", ")
			for i, name := range added {
				added[i] = "CAP_" + name
			}
			if err := oci.WithAddedCapabilities(added)(ctx, nil, &containers.Container{}, &oci.Spec{Process: p}); err != nil {
				t.Fatal(err)
			}
		}
	}, "/usr/bin/bash", "-c", prelude+script)
	code := await(t, exit)
	if _, err := process.Delete(in.ctx); err != nil {
		t.Error(err)
	}
	if code != 0 {
		t.Errorf("exit code %d:\n%s\nof\n%s", code, out.String(), script)
	}
	return strings.TrimSpace(out.String())
}

// Each line of docs/guest.md, in a container.
func TestGuest(t *testing.T) {
	nothingLeft(t)
	g := newGuests(t)
	for _, ability := range guestAbilities {
		if ability.long && harness.Many(0, 1) == 0 {
			continue
		}
		t.Run(ability.name, func(t *testing.T) {
			if ability.test != nil {
				ability.test(t, g)
				return
			}
			g.run(t, ability.needs, ability.script)
		})
	}
}

// guestPlace is the table's.
var guestPlace = document.Place{
	Path:   filepath.Join("..", "..", "docs", "guest.md"),
	Begin:  "<!-- The table is test/e2e's; \"make guest-table\" writes it. -->\n",
	End:    "<!-- end of the table -->\n",
	Writes: "make guest-table",
}

// The document has the lines that TestGuest tries, and no others.
func TestGuestTable(t *testing.T) {
	var table strings.Builder
	table.WriteString("| use | what works | needs | shown by `TestGuest` |\n|---|---|---|---|\n")
	seen := make(map[string]bool)
	for _, line := range guestAbilities {
		if seen[line.name] || (line.script == "") == (line.test == nil) {
			t.Errorf("line %s is there twice, or is not tried in one way", line.name)
		}
		seen[line.name] = true
		needs := line.needs
		if needs != "" && needs != privileged {
			needs = "`" + strings.ReplaceAll(needs, ", ", "`, `") + "`"
		}
		fmt.Fprintf(&table, "| %s | %s | %s | `%s` |\n", line.use, line.works, needs, line.name)
	}
	text := strings.ReplaceAll(table.String(), "|  |", "| |")
	guestPlace.Holds(t, text, *updateGuest)
}
