package socket

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
	"github.com/msb-runtime/containerd-shim-msb/test/itself"
)

// After the look the guest puts something else in the socket's place, or in that of a
// directory on the way: nothing outside of the directory is connected to.
func TestVM13PlantedLinks(t *testing.T) {
	for name, plant := range map[string]func(dir, outside string) error{
		"a link to a socket": func(dir, outside string) error {
			return replace(filepath.Join(dir, "a/socket"), func(at string) error { return os.Symlink(filepath.Join(outside, "socket"), at) })
		},
		"a link that leads up": func(dir, outside string) error {
			return replace(filepath.Join(dir, "a/socket"), func(at string) error { return os.Symlink("../../../../../"+outside+"/socket", at) })
		},
		"a link of proc": func(dir, outside string) error {
			return replace(filepath.Join(dir, "a"), func(at string) error { return os.Symlink("/proc/self/root/"+outside, at) })
		},
		"a link to a directory": func(dir, outside string) error {
			return replace(filepath.Join(dir, "a"), func(at string) error { return os.Symlink(outside, at) })
		},
		"a file": func(dir, _ string) error {
			return replace(filepath.Join(dir, "a/socket"), func(at string) error { return os.WriteFile(at, nil, 0o666) })
		},
		"nothing": func(dir, _ string) error { return os.Rename(filepath.Join(dir, "a"), filepath.Join(dir, "b")) },
	} {
		t.Run(name, func(t *testing.T) {
			dir, outside := t.TempDir(), t.TempDir()
			identify(t, filepath.Join(outside, "socket"))
			mkdir(t, filepath.Join(dir, "a"))
			identify(t, filepath.Join(dir, "a/socket"))
			table, identities := new(Table), new(Identities)
			tag, err := table.addBelow(Directory{File: openDir(t, dir)}, "a/socket", identities)
			if err != nil {
				t.Fatal(err)
			}
			g := &told{t: t}
			session := guest(t, table)
			if got, err := g.answer(session, tag, &api.Peer{}); got != "0:0[]" {
				t.Fatalf("before: %q, %v", got, err)
			}
			if err := plant(dir, outside); err != nil {
				t.Fatal(err)
			}
			if got, err := g.answer(session, tag, &api.Peer{}); err == nil {
				t.Errorf("something answers %q", got)
			}
			if err := table.Remove(tag); err != nil {
				t.Error(err)
			}
		})
	}
}

// replace removes what is at a path and puts something else there.
func replace(at string, by func(string) error) error {
	if err := os.RemoveAll(at); err != nil {
		return err
	}
	return by(at)
}

// Links are no way to sockets for the look, either.
func TestVM13LookFollowsNoLinks(t *testing.T) {
	outside, dir := t.TempDir(), t.TempDir()
	identify(t, filepath.Join(outside, "socket"))
	for name, target := range map[string]string{"dir": outside, "socket": filepath.Join(outside, "socket"), "proc": "/proc/self/root" + outside} {
		if err := os.Symlink(target, filepath.Join(dir, name)); err != nil {
			t.Fatal(err)
		}
	}
	if got := forward(t, dir, new(Identities)).paths(); len(got) != 0 {
		t.Errorf("sockets: %v", got)
	}
}

// What is mounted over a place hides what is below it.
func TestMountedOver(t *testing.T) {
	dir := t.TempDir()
	mkdir(t, filepath.Join(dir, "hidden"))
	identify(t, filepath.Join(dir, "hidden/socket"))
	if err := unix.Mount("tmpfs", filepath.Join(dir, "hidden"), "tmpfs", 0, ""); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = unix.Unmount(filepath.Join(dir, "hidden"), unix.MNT_DETACH) }()
	identify(t, filepath.Join(dir, "hidden/mounted"))
	if got := forward(t, dir, new(Identities)).paths(); len(got) != 1 || got[0] != "hidden/mounted" {
		t.Errorf("sockets: %v", got)
	}
	l := look{watch: notify}
	found := l.sockets(root{openDir(t, dir), unix.RESOLVE_NO_XDEV})
	closeAll(l.dirs)
	if len(found) != 0 {
		t.Errorf("of one mount: %v", found)
	}
}

// 10,000 files come and go: there is a look a second at most, and it is done.
func TestWatchStorm(t *testing.T) {
	dir := t.TempDir()
	g := forward(t, dir, new(Identities))
	start := time.Now()
	for n := range 10_000 {
		path := g.path(fmt.Sprint("file", n))
		if err := os.WriteFile(path, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	identify(t, g.path("socket"))
	g.eventually("socket")
	if most := int(time.Since(start)/lookPause) + 2; g.looked() > most {
		t.Errorf("%d looks in %v", g.looked(), time.Since(start))
	}
}

// A socket that is replaced 1,000 times is reached afterwards, and leaves nothing.
func TestReplacedOften(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "socket")
	identify(t, path)
	g := forward(t, dir, new(Identities))
	before := descriptors(t)
	for range 1000 {
		next := path + ".new"
		listener, err := net.ListenUnix("unix", &net.UnixAddr{Name: next, Net: "unix"})
		if err != nil {
			t.Fatal(err)
		}
		listener.SetUnlinkOnClose(false)
		if err := os.Rename(next, path); err != nil {
			t.Fatal(err)
		}
		listener.Close()
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	identify(t, path)
	session := guest(t, g.table)
	itself.Await(t, "an answer of it", func() bool {
		got, _ := g.answer(session, g.sockets()["socket"].GetTag(), &api.Peer{})
		return got == "0:0[]"
	})
	g.table.mu.Lock()
	tags := len(g.table.sockets)
	g.table.mu.Unlock()
	if tags != 1 {
		t.Errorf("%d tags", tags)
	}
	itself.Await(t, "descriptors to be as many as before", func() bool { return descriptors(t) <= before+2 })
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir("/proc/self/fd")
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}

// A guest says who connects: the server is told that, and the host refuses who the
// container cannot be, and what that user may not do.
func TestHostileClaims(t *testing.T) {
	dir := t.TempDir()
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	for name, mode := range map[string]os.FileMode{"all": 0o666, "roots": 0o600, "group": 0o660, "own": 0o600} {
		identify(t, filepath.Join(dir, name))
		if err := os.Chmod(filepath.Join(dir, name), mode); err != nil {
			t.Fatal(err)
		}
	}
	for name, owner := range map[string]int{"group": 50, "own": 100_001} {
		if err := os.Chown(filepath.Join(dir, name), owner, owner); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chown(filepath.Join(dir, "own"), 100_001, 200_001); err != nil {
		t.Fatal(err)
	}
	fixed := NewIdentities(spec.IDMap{}, spec.Identity{UID: 10, GID: 11, Groups: []uint32{50}, Fixed: true})
	users := NewIdentities(mapped, spec.Identity{})
	many := make([]uint32, api.MaxGroups+1)
	for _, c := range []struct {
		name, socket string
		identities   *Identities
		peer         *api.Peer
		want         string // empty: refused
	}{
		{"nobody", "all", new(Identities), nil, ""},
		{"too many groups", "all", new(Identities), &api.Peer{Groups: many}, ""},
		{"as many as may be", "all", new(Identities), &api.Peer{Uid: 1, Gid: 2, Groups: many[:3]}, "1:2[0 0 0]"},
		{"minus one", "all", new(Identities), &api.Peer{Uid: noID}, ""},
		{"root", "roots", new(Identities), &api.Peer{}, "0:0[]"},
		{"a user whom the guest has let", "roots", new(Identities), &api.Peer{Uid: 7, Gid: 7}, "7:7[]"},
		{"the host's root out of a user namespace", "all", users, &api.Peer{}, ""},
		{"the root of a user namespace", "all", users, &api.Peer{Uid: 100_000, Gid: 200_000}, "100000:200000[]"},
		{"the same at the host's root's", "roots", users, &api.Peer{Uid: 100_000, Gid: 200_000}, ""},
		{"the same at its user's", "own", users, &api.Peer{Uid: 100_000, Gid: 200_000}, "100000:200000[]"},
		{"with a group of the host's", "group", users, &api.Peer{Uid: 100_000, Gid: 200_000, Groups: []uint32{50}}, ""},
		{"one who stays who it is", "all", fixed, &api.Peer{Uid: 10, Gid: 11}, "10:11[]"},
		{"the same as root", "all", fixed, &api.Peer{}, ""},
		{"the same at root's", "roots", fixed, &api.Peer{Uid: 10, Gid: 11}, ""},
		{"the same with its group", "group", fixed, &api.Peer{Uid: 10, Gid: 11, Groups: []uint32{50}}, "10:11[50]"},
		{"the same without its group", "group", fixed, &api.Peer{Uid: 10, Gid: 11}, ""},
	} {
		t.Run(c.name, func(t *testing.T) {
			table := new(Table)
			tag, err := table.addBelow(Directory{File: openDir(t, dir)}, c.socket, c.identities)
			if err != nil {
				t.Fatal(err)
			}
			g := &told{t: t}
			got, err := g.answer(guest(t, table), tag, c.peer)
			if got != c.want || (err == nil) != (c.want != "") {
				t.Errorf("%q, %v; want %q", got, err, c.want)
			}
			if err := table.Remove(tag); err != nil {
				t.Error(err)
			}
		})
	}
}

// The thread that connects as a user is none that this user could signal or trace (kill(2),
// ptrace(2)): its real and its saved ids stay root's. Other threads stay as they were.
func TestPeersThread(t *testing.T) {
	ids := func(path string) string {
		status, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		var all []string
		for line := range strings.Lines(string(status)) {
			if name, value, _ := strings.Cut(line, ":"); slices.Contains([]string{"Uid", "Gid", "Groups", "CapEff", "CapPrm"}, name) {
				all = append(all, strings.Join(strings.Fields(value), " "))
			}
		}
		return strings.Join(all, ", ")
	}
	before := ids("/proc/self/status")
	for overriding, capabilities := range map[bool]string{false: "0000000000000000", true: "0000000000000002"} {
		err := thread.Run(func() error {
			if err := (Peer{12, 34, []uint32{56}}).become(overriding); err != nil {
				return err
			}
			want := fmt.Sprintf("0 12 0 12, 0 34 0 34, 56, %[1]s, %[1]s", capabilities)
			if got := ids("/proc/thread-self/status"); got != want {
				t.Errorf("the thread is %s, want %s", got, want)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	if after := ids("/proc/self/status"); after != before {
		t.Errorf("the process was %s and is %s", before, after)
	}
}
