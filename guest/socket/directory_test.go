package socket

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/internal/thread"
	"github.com/msb-runtime/containerd-shim-msb/vm/mux"
)

// place is where the container of these tests mounts its directory.
const place = "/run/container"

// inGuest runs f on a thread with a mount namespace of its own, where the directory dm_1 of
// the pool is mounted at place, too.
func inGuest(t *testing.T, f func(share string)) {
	t.Helper()
	err := thread.Run(func() error {
		share := api.SharePath("dm_1")
		err := errors.Join(
			unix.Unshare(unix.CLONE_NEWNS),
			unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""),
			unix.Mount("tmpfs", "/run", "tmpfs", 0, ""),
			os.MkdirAll(share, 0o755), os.Mkdir(place, 0o755),
			unix.Mount("tmpfs", share, "tmpfs", 0, ""),
			unix.Mount(share, place, "", unix.MS_BIND, ""))
		if err == nil {
			f(share)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// set tells the agent of sockets, whose paths are their tags, too.
func set(s *Sockets, paths ...string) error {
	var described []*api.DirectorySocket
	for _, path := range paths {
		described = append(described, &api.DirectorySocket{
			Tag: "so_" + strings.ReplaceAll(path, "/", "_"), Share: "dm_1", Destination: place, Path: []byte(path), Mode: 0o640, Uid: 5, Gid: 6,
		})
	}
	in := func(f func() error) error { return f() }
	return s.Set(context.Background(), "c", in, described)
}

// hosts makes what this kernel sees of a socket of the host.
func hosts(t *testing.T, paths ...string) {
	t.Helper()
	for _, path := range paths {
		if err := errors.Join(os.MkdirAll(filepath.Dir(path), 0o755), unix.Mknod(path, unix.S_IFSOCK|0o777, 0)); err != nil {
			t.Error(err)
		}
	}
}

// bound are the places below the container's directory where something is mounted.
func bound(t *testing.T) (paths []string) {
	t.Helper()
	data, err := os.ReadFile("/proc/thread-self/mountinfo")
	if err != nil {
		t.Error(err)
	}
	for line := range strings.Lines(string(data)) {
		if path, ok := strings.CutPrefix(strings.Fields(line)[4], place+"/"); ok {
			paths = append(paths, path)
		}
	}
	return paths
}

func wantBound(t *testing.T, want ...string) {
	t.Helper()
	if got := bound(t); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("bound are %v, want %v", got, want)
	}
}

// The sockets are bound once each, with their owner, and who connects is told to the host.
func TestSet(t *testing.T) {
	here, there := net.Pipe()
	host, guest := mux.Host(here), mux.Guest(there)
	defer host.Close()
	defer guest.Close()
	headers := make(chan *api.StreamHeader, 1)
	go func() {
		stream, err := host.Accept()
		if err != nil {
			return
		}
		defer stream.Close()
		header, err := api.AcceptStream(stream)
		if err == nil {
			err = api.ReplyStream(stream, nil)
		}
		_, _ = io.WriteString(stream, fmt.Sprint("answer ", err))
		headers <- header
	}()
	sockets := New(guest)
	inGuest(t, func(share string) {
		hosts(t, share+"/a", share+"/b/c")
		for range 2 {
			if err := set(sockets, "a", "b/c"); err != nil {
				t.Error(err)
			}
			wantBound(t, "a", "b/c")
		}
		var stat unix.Stat_t
		if err := unix.Stat(place+"/a", &stat); err != nil || stat.Mode&0o7777 != 0o640 || stat.Uid != 5 || stat.Gid != 6 {
			t.Errorf("mode %o, owner %d:%d, %v", stat.Mode, stat.Uid, stat.Gid, err)
		}
		fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
		if err != nil {
			t.Error(err)
			return
		}
		defer unix.Close(fd)
		if err := unix.Connect(fd, &unix.SockaddrUnix{Name: place + "/b/c"}); err != nil {
			t.Error(err)
			return
		}
		select {
		case header := <-headers:
			socket := header.GetSocket()
			if socket.GetTag() != "so_b_c" || int(socket.GetPeer().GetUid()) != os.Getuid() || int(socket.GetPeer().GetGid()) != os.Getgid() {
				t.Errorf("the host is told %v", header)
			}
			if groups, _ := os.Getgroups(); len(groups) != len(socket.GetPeer().GetGroups()) {
				t.Errorf("the groups %v are told as %v", groups, socket.GetPeer().GetGroups())
			}
		case <-time.After(time.Minute):
			t.Error("the host is told nothing")
		}
		// One that is described no more has nobody who listens.
		if err := set(sockets, "a"); err != nil {
			t.Error(err)
		}
		if err := connect(place + "/b/c"); !errors.Is(err, unix.ECONNREFUSED) {
			t.Errorf("connecting to one that has gone: %v", err)
		}
		sockets.Close("c")
		if _, err := os.Stat(filepath.Dir(api.SocketPath("c", "t"))); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("something is left: %v", err)
		}
	})
}

func connect(path string) error {
	fd, err := unix.Socket(unix.AF_UNIX, unix.SOCK_STREAM, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	return unix.Connect(fd, &unix.SockaddrUnix{Name: path})
}

// What the container has at a place instead stays: nothing is bound over it, nor elsewhere.
func TestSetPassesOver(t *testing.T) {
	for name, change := range map[string]func(share string) error{
		"it is gone": func(share string) error { return os.Remove(share + "/dir/socket") },
		"it is a link": func(share string) error {
			return errors.Join(os.Rename(share+"/dir/socket", share+"/other"), os.Symlink(share+"/other", share+"/dir/socket"))
		},
		"its directory is a link": func(share string) error {
			return errors.Join(os.Rename(share+"/dir", share+"/other"), os.Symlink("other", share+"/dir"))
		},
		"it is a file": func(share string) error {
			return errors.Join(os.Remove(share+"/dir/socket"), os.WriteFile(share+"/dir/socket", nil, 0o600))
		},
		"another file system is mounted": func(string) error {
			return errors.Join(unix.Mount("tmpfs", place+"/dir", "tmpfs", 0, ""), unix.Mknod(place+"/dir/socket", unix.S_IFSOCK, 0))
		},
		"another directory is mounted": func(string) error { return unix.Mount("tmpfs", place, "tmpfs", 0, "") },
		"there is no destination":      func(string) error { return errors.Join(unix.Unmount(place, 0), os.Remove(place)) },
	} {
		t.Run(name, func(t *testing.T) {
			sockets := New(nil)
			inGuest(t, func(share string) {
				hosts(t, share+"/dir/socket")
				if err := change(share); err != nil {
					t.Error(err)
					return
				}
				before := bound(t)
				if err := set(sockets, "dir/socket"); err != nil {
					t.Error(err)
				}
				wantBound(t, before...)
				sockets.Close("c")
			})
		})
	}
}

// Names that lead elsewhere are refused.
func TestSetRefuses(t *testing.T) {
	inGuest(t, func(share string) {
		hosts(t, share+"/socket", "/run/socket")
		in := func(f func() error) error { return f() }
		for _, socket := range []*api.DirectorySocket{
			{Tag: "../so", Share: "dm_1", Destination: place, Path: []byte("socket")},
			{Tag: "so", Share: "../dm_1", Destination: place, Path: []byte("socket")},
		} {
			sockets := New(nil)
			if err := sockets.Set(context.Background(), "c", in, []*api.DirectorySocket{socket}); err == nil {
				t.Errorf("%v is accepted", socket)
			}
		}
		sockets := New(nil)
		if err := sockets.Set(context.Background(), "c", in, []*api.DirectorySocket{{Tag: "so", Share: "dm_1", Destination: place, Path: []byte("../../../socket")}}); err != nil {
			t.Error(err)
		}
		wantBound(t)
		sockets.Close("c")
	})
}

// A name is asked for again and nothing is made.
func TestRefreshMakesNothing(t *testing.T) {
	inGuest(t, func(share string) {
		refresh(&api.DirectorySocket{Share: "dm_1", Path: []byte("a/b")})
		if err := os.Mkdir(share+"/dir", 0o755); err != nil {
			t.Error(err)
		}
		refresh(&api.DirectorySocket{Share: "dm_1", Path: []byte("dir/b")})
		var found []string
		_ = filepath.WalkDir(share, func(path string, _ os.DirEntry, _ error) error {
			found = append(found, strings.TrimPrefix(path, share))
			return nil
		})
		if fmt.Sprint(found) != "[ /dir]" {
			t.Errorf("there are %q", found)
		}
	})
}
