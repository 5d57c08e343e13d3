package e2e

import (
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/containerd/containerd/v2/pkg/oci"
	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// contract is one container with every kind of mount, what is mounted, and a shell that is kept.
type contract struct {
	*task
	dir string
}

// path is a source on the host.
func (c contract) path(name string) string { return filepath.Join(c.dir, name) }

// probe runs the probe in the container and returns what it printed.
func (c contract) probe(args string) string {
	c.t.Helper()
	output, _ := c.exec("probe " + args)
	return strings.TrimSpace(output)
}

// on is the same container for a subtest.
func (c contract) on(t *testing.T) contract { return contract{c.task.on(t), c.dir} }

// The lines of the contract of a mount (docs/file-mounts.md) that one container
// can show, in a container that owns its guest as far as a container can.
func TestContract(t *testing.T) {
	nothingLeft(t)
	c := contract{dir: t.TempDir()}
	mounts := c.sources(t)
	c.task = start(t, options{spec: []oci.SpecOpts{
		oci.WithPrivileged, oci.WithAllDevicesAllowed, oci.WithMounts(mounts), oci.WithAnnotations(hiddenEverywhere),
	}}, sleeper...)
	c.keepShell()
	for _, line := range []struct {
		name string
		test func(*testing.T, contract)
	}{
		{"FM01 read-only reads the host's bytes", fmReadOnlyReads},
		{"FM02 a write is seen on the host", fmWrite},
		{"FM03 FM04 a write of the host is seen, of equal length too", fmHostWrites},
		{"FM05 truncate from either side", fmTruncate},
		{"FM06 parallel appends lose nothing", fmAppend},
		{"FM07 a shared mapping", fmMapping},
		{"FM08 O_DIRECT", fmDirect},
		{"FM09 locks exclude processes of the guest", fmLocks},
		{"FM10 FM11 FM14 rename over, unlink, sed -i", fmReplace},
		{"FM12 replaced on the host", fmReplacedOnHost},
		{"FM13 unlinked on the host", fmUnlinkedOnHost},
		{"FM15 FM16 FM17 empty, sparse, holes", fmSizes},
		{"FM18 identity is stable", fmIdentity},
		{"FM20 FM21 noexec, nosuid", fmExec},
		{"FM22 FM23 FM25 read-only holds", fmReadOnlyHolds},
		{"FM26 FM29 FM33 targets", fmTargets},
		{"FM30 FM31 FM32 FM34 sources", fmSources},
		{"FM35 names", fmNames},
		{"FM40 a socket", fmSocket},
		{"FM43 another file system", fmOtherFileSystem},
		{"FM55 FM56 metadata stays the guest's", fmMetadata},
		{"FM24 FM50 FM51 FM52 FM54 FM66 the guest's root outside all containers", fmEscape},
		{"FM69 a ConfigMap's swap", fmConfigMap},
		{"DM03 DM04 submounts and propagation", dmSubmounts},
		{"DM08 DM09 many entries, names", dmEntries},
		{"DM10 DM11 links and file system calls", dmCalls},
		{"VM01 VM02 a group's directory", vmGroups},
		{"VM03 an access control list", vmACL},
		{"VM04 default lists", vmDefaultACL},
		{"VM05 an overlay on a volume", vmOverlay},
		{"VM30 VM32 hidden paths", vmHidden},
		{"VM31 VM33 hidden paths, changed on the host", vmHiddenOnHost},
		{"VM35 many hidden paths", vmHiddenMany},
		{"VM10 VM11 VM12 sockets in a directory", vmSockets},
		{"VM20 changes of the host raise no event", vmWatch},
		{"VM40 a full volume", vmFull},
	} {
		t.Run(line.name, func(t *testing.T) { line.test(t, c.on(t)) })
	}
}

// sources makes what is mounted and returns the mounts.
func (c contract) sources(t *testing.T) (mounts []specs.Mount) {
	t.Helper()
	file := func(name, content, destination string, options ...string) {
		write(t, c.path(name), content)
		mounts = append(mounts, bind(c.path(name), destination, options...))
	}
	again := func(name, destination string, options ...string) {
		mounts = append(mounts, bind(c.path(name), destination, options...))
	}
	file("etc/rw", "content", "/f/rw", "rw")
	write(t, c.path("etc/secret"), "secret")
	file("etc/ro", "read-only", "/f/ro", "ro")
	again("etc/rw", "/f/rw-again", "rw")
	again("etc/rw", "/f/rw-ro", "ro")
	file("host", "content", "/f/host", "rw", "x-msb.metadata=host")
	file("pinned", "old", "/f/pinned", "rw", "x-other.option=passed-over")
	file("follow", "old", "/f/follow", "rw", "x-msb.update=follow")
	file("unlinked", "content", "/f/unlinked", "rw")
	file("empty", "", "/f/empty", "rw")
	file("sparse", "", "/f/sparse", "rw")
	if err := os.Truncate(c.path("sparse"), 10<<30); err != nil {
		t.Fatal(err)
	}
	file("append", "", "/f/append", "rw")
	file("script", "#!/bin/sh\necho ran\n", "/f/script", "rw")
	again("script", "/f/noexec", "rw", "noexec")
	if err := os.Chmod(c.path("script"), 0o755); err != nil {
		t.Fatal(err)
	}
	probe, err := os.ReadFile(filepath.Join(host.Output, "tools", "probe"))
	if err != nil {
		t.Fatal(err)
	}
	write(t, c.path("tools/probe"), string(probe))
	if err := os.Chmod(c.path("tools/probe"), 0o755); err != nil {
		t.Fatal(err)
	}
	again("tools", "/probe", "ro")
	write(t, c.path("suid"), string(probe))
	if err := os.Chmod(c.path("suid"), 0o755|os.ModeSetuid); err != nil {
		t.Fatal(err)
	}
	again("suid", "/f/suid", "ro")
	again("suid", "/f/nosuid", "ro", "nosuid")
	file("a/same", "a", "/f/same-a", "rw")
	file("b/same", "b", "/f/same-b", "rw")
	write(t, c.path("real"), "real")
	if err := os.Symlink("real", c.path("link")); err != nil {
		t.Fatal(err)
	}
	again("link", "/f/link", "rw")
	for i, name := range oddNames {
		file(filepath.Join("names", name), name, fmt.Sprintf("/f/name%d", i), "rw")
	}
	raw := c.path("names/\xff\xfe")
	write(t, raw, "raw")
	if err := os.Symlink(raw, c.path("names/to-raw")); err != nil {
		t.Fatal(err)
	}
	again("names/to-raw", "/f/raw", "rw", "x-msb.update=follow")
	file("twice1", "first", "/f/twice", "rw")
	file("twice2", "second", "/f/twice", "rw")
	// Directories.
	for _, sub := range []string{"dir/sub", "dir/below", "late", "many", "full"} {
		if err := os.MkdirAll(c.path(sub), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	write(t, c.path("dir/sibling"), "sibling")
	write(t, c.path("dir/target"), "covered")
	c.mountTmpfs(t, "dir/sub")
	write(t, c.path("dir/sub/submount"), "submount")
	again("dir", "/d/rbind", "rw")
	again("etc/ro", "/d/rbind/target", "ro")
	mounts = append(mounts, specs.Mount{Type: "bind", Source: c.path("dir"), Destination: "/d/bind", Options: []string{"bind"}})
	c.mountTmpfs(t, "late")
	if err := unix.Mount("", c.path("late"), "", unix.MS_SHARED, ""); err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(os.Mkdir(c.path("late/mnt"), 0o755)); err != nil {
		t.Fatal(err)
	}
	again("late", "/d/rslave", "rslave")
	again("late", "/d/rprivate", "rprivate")
	again("many", "/d/many", "rw")
	c.sourceRights(t)
	again("rights", "/d/rights", "rw")
	c.mountTmpfs(t, "full", fmt.Sprintf("size=%d", fullSize))
	again("full", "/d/full", "rw")
	write(t, c.path("map/..1/key"), "old")
	if err := errors.Join(os.Symlink("..1", c.path("map/..data")), os.Symlink("..data/key", c.path("map/key"))); err != nil {
		t.Fatal(err)
	}
	again("map", "/d/map", "ro")
	again("map/key", "/f/key", "ro")
	// A file of another file system, and of another mount of the same.
	if err := errors.Join(os.Mkdir(c.path("tmpfs"), 0o755), os.Mkdir(c.path("other"), 0o755)); err != nil {
		t.Fatal(err)
	}
	c.mountTmpfs(t, "tmpfs")
	file("tmpfs/file", "tmpfs", "/f/tmpfs", "rw")
	if err := unix.Mount(c.path("etc"), c.path("other"), "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(c.path("other"), unix.MNT_DETACH) })
	again("other/rw", "/f/other", "rw")
	// A socket whose server echoes, once it has seen the end.
	listen(t, c.path("socket"))
	again("socket", "/f/socket", "ro")
	again("socket", "/f/socket-rw", "rw")
	mounts = append(mounts, c.hiddenSources(t)...)
	return append(mounts, c.socketDirectories(t)...)
}

func (c contract) mountTmpfs(t *testing.T, name string, options ...string) {
	t.Helper()
	if err := unix.Mount("tmpfs", c.path(name), "tmpfs", 0, strings.Join(options, ",")); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = unix.Unmount(c.path(name), unix.MNT_DETACH) })
}

// listen serves a socket: what comes goes back.
func listen(t *testing.T, path string) {
	t.Helper()
	listener, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go serveEcho(listener)
}

func serveEcho(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer conn.Close()
			_, _ = io.Copy(conn, conn)
		}()
	}
}

var oddNames = []string{"a:b", "a;b", "a,b", "a b", "a\nb", "ümläut–✓", strings.Repeat("n", 255)}

// eventually waits for the guest to see something; the contract gives it 5 s.
func (c contract) eventually(what, script string) {
	c.t.Helper()
	if output, code := c.exec("for i in 1 2 3 4 5 6 7 8 9 10 11; do { " + script + "; } && exit 0; sleep 0.5; done; exit 1"); code != 0 {
		c.t.Errorf("%s: not seen within 5 s\n%s", what, output)
	}
}
