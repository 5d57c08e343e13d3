package socket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/internal/rawcall"
	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
	"github.com/msb-runtime/containerd-shim-msb/shim/shield/acl"
	"github.com/msb-runtime/containerd-shim-msb/test/itself"
	"github.com/msb-runtime/containerd-shim-msb/vm/mux"
)

// The goroutine for all signals stays (os/signal).
func init() {
	signals := make(chan os.Signal, 1)
	signal.Notify(signals, unix.SIGIO)
	signal.Stop(signals)
}

// told is what a container's guest was told of its sockets.
type told struct {
	t     *testing.T
	dir   string
	table *Table
	*Directories

	mu    sync.Mutex
	calls [][]*api.DirectorySocket // guarded by mu
}

// forward forwards the sockets of a directory to a guest, and waits for the first look.
func forward(t *testing.T, dir string, identities *Identities) *told {
	t.Helper()
	itself.NothingLeft(t)
	file, err := os.OpenFile(dir, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	g := &told{t: t, dir: dir, table: new(Table)}
	g.Directories = g.table.Forward(t.Context(), []Directory{{Share: "dm_1", Destination: "/d", File: file}}, identities, g.tell)
	t.Cleanup(func() {
		if err := g.Close(); err != nil {
			t.Error(err)
		}
		if len(g.table.sockets) != 0 {
			t.Errorf("%d sockets are left", len(g.table.sockets))
		}
	})
	bounded, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	g.Await(bounded)
	return g
}

func (g *told) tell(_ context.Context, sockets []*api.DirectorySocket) error {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.calls = append(g.calls, sockets)
	return nil
}

// looked is how many looks there were.
func (g *told) looked() int {
	g.Directories.mu.Lock()
	defer g.Directories.mu.Unlock()
	return g.looks
}

// sockets are those that the guest was told of last, by their paths.
func (g *told) sockets() map[string]*api.DirectorySocket {
	g.mu.Lock()
	defer g.mu.Unlock()
	all := make(map[string]*api.DirectorySocket)
	if len(g.calls) > 0 {
		for _, one := range g.calls[len(g.calls)-1] {
			all[string(one.Path)] = one
		}
	}
	return all
}

func (g *told) paths() (paths []string) {
	for path := range g.sockets() {
		paths = append(paths, path)
	}
	slices.Sort(paths)
	return paths
}

func (g *told) path(name string) string { return filepath.Join(g.dir, name) }

// eventually waits for the guest to be told of exactly these.
func (g *told) eventually(paths ...string) {
	g.t.Helper()
	itself.Await(g.t, fmt.Sprint(paths), func() bool { return slices.Equal(g.paths(), paths) })
}

// answer is what the server of a socket answers to a peer.
func (g *told) answer(session *mux.Session, tag string, peer *api.Peer) (string, error) {
	g.t.Helper()
	stream, err := openAs(g.t, session, tag, peer)
	if err != nil {
		return "", err
	}
	defer stream.Close()
	_ = stream.SetReadDeadline(time.Now().Add(patience))
	answer, err := io.ReadAll(stream)
	return string(answer), err
}

// identify serves a socket that tells each peer its ids.
func identify(t *testing.T, path string) net.Listener {
	t.Helper()
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.AcceptUnix()
			if err != nil {
				return
			}
			raw, _ := conn.SyscallConn()
			_ = raw.Control(func(fd uintptr) {
				peer, _ := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
				groups, _ := rawcall.PeerGroups(int(fd), api.MaxGroups)
				fmt.Fprintf(conn, "%d:%d%v", peer.Uid, peer.Gid, groups)
			})
			conn.Close()
		}
	}()
	return listener
}

func mkdir(t *testing.T, path string) {
	t.Helper()
	if err := os.MkdirAll(path, 0o755); err != nil {
		t.Fatal(err)
	}
}

// What is there at first, what comes, changes, is replaced and goes: each is told.
func TestVM10VM11Directory(t *testing.T) {
	dir := t.TempDir()
	mkdir(t, filepath.Join(dir, "a/b"))
	identify(t, filepath.Join(dir, "top"))
	identify(t, filepath.Join(dir, "a/b/deep"))
	if err := os.Chmod(filepath.Join(dir, "top"), 0o640); err != nil {
		t.Fatal(err)
	}
	g := forward(t, dir, new(Identities))
	if got := g.paths(); !slices.Equal(got, []string{"a/b/deep", "top"}) {
		t.Fatalf("at first there are %v", got)
	}
	if got := g.sockets()["top"]; got.Mode != 0o640 || got.Share != "dm_1" || got.Destination != "/d" {
		t.Errorf("top is %v", got)
	}
	mkdir(t, g.path("late/dir"))
	late := identify(t, g.path("late/dir/socket"))
	g.eventually("a/b/deep", "late/dir/socket", "top")
	if err := os.Chmod(g.path("late/dir/socket"), 0o600); err != nil {
		t.Fatal(err)
	}
	itself.Await(t, "the mode", func() bool { return g.sockets()["late/dir/socket"].GetMode() == 0o600 })
	late.Close()
	identify(t, g.path("late/dir/socket"))
	if err := os.Chmod(g.path("late/dir/socket"), 0o777); err != nil {
		t.Fatal(err)
	}
	itself.Await(t, "the new socket", func() bool { return g.sockets()["late/dir/socket"].GetMode() == 0o777 })
	tag := g.sockets()["late/dir/socket"].Tag
	if got, err := g.answer(guest(t, g.table), tag, &api.Peer{Uid: 5, Gid: 6, Groups: []uint32{7, 8}}); got != "5:6[7 8]" {
		t.Errorf("the server took the guest for %q, %v", got, err)
	}
}

// The probe disturbs nobody, and what is not for streams is left alone.
func TestVM12OnlyServed(t *testing.T) {
	dir := t.TempDir()
	packets, err := net.ListenPacket("unixgram", filepath.Join(dir, "datagrams"))
	if err != nil {
		t.Fatal(err)
	}
	defer packets.Close()
	if err := unix.Mknod(filepath.Join(dir, "guests"), unix.S_IFSOCK|0o777, 0); err != nil {
		t.Fatal(err)
	}
	served, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "served"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer served.Close()
	g := forward(t, dir, new(Identities))
	if got := g.paths(); !slices.Equal(got, []string{"served"}) {
		t.Fatalf("there are %v", got)
	}
	_ = served.SetDeadline(time.Now().Add(50 * time.Millisecond))
	if conn, err := served.Accept(); err == nil {
		t.Errorf("the look has connected: %v", conn)
	}
	// The guest takes the name: its own socket is not the host's.
	if err := os.Remove(g.path("served")); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mknod(g.path("served"), unix.S_IFSOCK|0o777, 0); err != nil {
		t.Fatal(err)
	}
	g.eventually()
}

// A server that has gone and left its socket may come back.
func TestServerAway(t *testing.T) {
	dir := t.TempDir()
	listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: filepath.Join(dir, "socket"), Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	listener.SetUnlinkOnClose(false)
	g := forward(t, dir, new(Identities))
	listener.Close()
	identify(t, g.path("other"))
	g.eventually("other", "socket")
}

// As many as may be, those that were there before others, and what is beyond the bounds is
// told in the log, once.
func TestVM13Bounds(t *testing.T) {
	dir := t.TempDir()
	mkdir(t, filepath.Join(dir, "1/2/3"))
	identify(t, filepath.Join(dir, "1/2/3/beyond"))
	for n := range MaxSockets + 8 {
		identify(t, filepath.Join(dir, fmt.Sprint("socket", n)))
	}
	g := forward(t, dir, new(Identities))
	before := g.paths()
	if len(before) != MaxSockets || slices.Contains(before, "1/2/3/beyond") {
		t.Fatalf("%d sockets: %v", len(before), before)
	}
	if len(g.warned) != 1 || !strings.Contains(g.warned["sockets"], "8 are not") {
		t.Errorf("warnings: %v", g.warned)
	}
	identify(t, g.path("1/later"))
	if err := os.Remove(g.path(before[0])); err != nil {
		t.Fatal(err)
	}
	itself.Await(t, "one in the place of another", func() bool { return g.sockets()[before[0]] == nil })
	if after := g.paths(); len(after) != MaxSockets {
		t.Errorf("%d sockets", len(after))
	}
}

// A socket that is forwarded stays so when the directory gets larger than a look reads.
func TestVM13DirectoryGrows(t *testing.T) {
	dir := t.TempDir()
	mkdir(t, filepath.Join(dir, "a/b"))
	identify(t, filepath.Join(dir, "a/b/socket"))
	g := forward(t, dir, new(Identities))
	for _, sub := range []string{"c", "d", "e", "f", "g"} {
		mkdir(t, g.path(sub))
		for n := range MaxNames {
			if err := os.WriteFile(g.path(fmt.Sprint(sub, "/file", n)), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	looks := g.looked()
	mkdir(t, g.path("last"))
	itself.Await(t, "another look", func() bool { return g.looked() > looks })
	if got := g.paths(); !slices.Equal(got, []string{"a/b/socket"}) {
		t.Errorf("after it grew there are %v", got)
	}
}

// An access control list narrows what the guest judges by.
func TestPermissionsOfList(t *testing.T) {
	path := filepath.Join(t.TempDir(), "socket")
	identify(t, path)
	list := acl.List{{Tag: acl.Owner, Permissions: 6, ID: noID}, {Tag: acl.User, Permissions: 6, ID: 1002}, {Tag: acl.OwnerGroup, ID: noID}, {Tag: acl.Mask, Permissions: 6, ID: noID}, {Tag: acl.Other, ID: noID}}
	if err := unix.Setxattr(path, acl.Attribute, list.Value(), 0); err != nil {
		t.Fatal(err)
	}
	var stat unix.Stat_t
	if err := unix.Stat(path, &stat); err != nil {
		t.Fatal(err)
	}
	file, err := os.OpenFile(path, unix.O_PATH, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	if got := permissions(file, &stat); stat.Mode&0o777 != 0o660 || got != 0o600 {
		t.Errorf("mode %o is %o for the guest", stat.Mode&0o777, got)
	}
}

// What is large takes nothing from what is looked at beside it, as long as there are not many.
func TestLookIsBounded(t *testing.T) {
	dir, beside := t.TempDir(), t.TempDir()
	for _, sub := range []string{"a", "b", "c", "d", "e"} {
		mkdir(t, filepath.Join(dir, sub))
		for n := range MaxNames + 10 {
			if err := os.WriteFile(filepath.Join(dir, sub, fmt.Sprint("file", n)), nil, 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	identify(t, filepath.Join(beside, "socket"))
	l := look{watch: notify}
	found := l.sockets(root{openDir(t, dir), 0}, root{openDir(t, beside), 0})
	closeAll(l.dirs)
	if l.entries > MaxEntries || l.entries < MaxEntries-batch || !l.names || l.directories {
		t.Errorf("%d entries, bounds %+v", l.entries, l.exceeded)
	}
	if len(found) != 1 || found[0].dir != 1 || found[0].path != "socket" {
		t.Errorf("beside a large directory: %v", found)
	}
	dir = t.TempDir()
	for n := range MaxDirectories + 10 {
		mkdir(t, filepath.Join(dir, fmt.Sprint("dir", n)))
	}
	l = look{watch: notify}
	l.sockets(root{openDir(t, dir), 0})
	closeAll(l.dirs)
	if len(l.dirs) != MaxDirectories || l.names || !l.directories {
		t.Errorf("%d directories, bounds %+v", len(l.dirs), l.exceeded)
	}
}

func openDir(t *testing.T, path string) *os.File {
	t.Helper()
	dir, err := os.OpenFile(path, unix.O_PATH|unix.O_DIRECTORY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { dir.Close() })
	return dir
}

// Without the kernel's notices there is what was there at first.
func TestKernelWithoutNotices(t *testing.T) {
	dir := t.TempDir()
	identify(t, filepath.Join(dir, "socket"))
	l := look{watch: func(*os.File) error { return unix.EINVAL }}
	found := l.sockets(root{openDir(t, dir), 0})
	closeAll(l.dirs)
	if len(found) != 1 || !errors.Is(l.blind, unix.EINVAL) {
		t.Errorf("%v, %v", found, l.blind)
	}
}

// The notice comes also when the thread that has asked for it has ended.
func TestNoticeOutlivesThread(t *testing.T) {
	changes := make(chan os.Signal, 1)
	signal.Notify(changes, unix.SIGIO)
	defer signal.Stop(changes)
	path := t.TempDir()
	dir, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer dir.Close()
	if err := thread.Run(func() error { return notify(dir) }); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(path, "file"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	select {
	case <-changes:
	case <-time.After(patience):
		t.Error("no notice")
	}
}
