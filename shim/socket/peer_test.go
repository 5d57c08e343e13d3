package socket

import (
	"net"
	"os"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"

	"github.com/msb-runtime/containerd-shim-msb/shim/spec"
)

// mapped is a user namespace.
var mapped = spec.IDMap{
	UIDs: []specs.LinuxIDMapping{{ContainerID: 0, HostID: 100_000, Size: 1000}},
	GIDs: []specs.LinuxIDMapping{{ContainerID: 0, HostID: 200_000, Size: 1000}},
}

func TestIdentities(t *testing.T) {
	anybody := spec.Identity{UID: 1000, GID: 1000}
	fixed := spec.Identity{UID: 10, GID: 11, Groups: []uint32{12}, Fixed: true}
	for _, c := range []struct {
		name  string
		users spec.IDMap
		first spec.Identity
		execs []spec.Identity
		peer  Peer
		want  bool
	}{
		{"root", spec.IDMap{}, anybody, nil, Peer{}, true},
		{"any user", spec.IDMap{}, anybody, nil, Peer{5, 6, []uint32{7}}, true},
		{"no user", spec.IDMap{}, anybody, nil, Peer{UID: noID}, false},
		{"no group", spec.IDMap{}, anybody, nil, Peer{GID: noID}, false},
		{"no group beside", spec.IDMap{}, anybody, nil, Peer{Groups: []uint32{noID}}, false},
		{"the host's root out of a user namespace", mapped, anybody, nil, Peer{}, false},
		{"a user namespace's root", mapped, anybody, nil, Peer{UID: 100_000, GID: 200_000}, true},
		{"its last user", mapped, anybody, nil, Peer{UID: 100_999, GID: 200_999}, true},
		{"the next user", mapped, anybody, nil, Peer{UID: 101_000, GID: 200_000}, false},
		{"another group", mapped, anybody, nil, Peer{UID: 100_000, GID: 100_000}, false},
		{"another group beside", mapped, anybody, nil, Peer{100_000, 200_000, []uint32{200_001, 0}}, false},
		{"itself", spec.IDMap{}, fixed, nil, Peer{10, 11, []uint32{12}}, true},
		{"itself without its groups", spec.IDMap{}, fixed, nil, Peer{UID: 10, GID: 12}, true},
		{"root instead", spec.IDMap{}, fixed, nil, Peer{0, 11, nil}, false},
		{"with root's group", spec.IDMap{}, fixed, nil, Peer{10, 0, nil}, false},
		{"with root's group beside", spec.IDMap{}, fixed, nil, Peer{10, 11, []uint32{0}}, false},
		{"itself in a user namespace", mapped, fixed, nil, Peer{100_010, 200_011, []uint32{200_012}}, true},
		{"another in a user namespace", mapped, fixed, nil, Peer{100_000, 200_011, nil}, false},
		{"an exec's", spec.IDMap{}, fixed, []spec.Identity{{UID: 20, GID: 21, Fixed: true}}, Peer{20, 21, nil}, true},
		{"one's user with the other's group", spec.IDMap{}, fixed, []spec.Identity{{UID: 20, GID: 21, Fixed: true}}, Peer{20, 11, nil}, false},
		{"anybody after an exec of root", spec.IDMap{}, fixed, []spec.Identity{{}}, Peer{7, 8, nil}, true},
		{"anybody also after another", spec.IDMap{}, fixed, []spec.Identity{{}, fixed}, Peer{7, 8, nil}, true},
	} {
		t.Run(c.name, func(t *testing.T) {
			i := NewIdentities(c.users, c.first)
			for _, exec := range c.execs {
				i.Add(exec)
			}
			if err := i.check(c.peer); (err == nil) != c.want {
				t.Errorf("check(%v) = %v", c.peer, err)
			}
		})
	}
}

// The container's root is above the permissions of what its user namespace has an owner for.
func TestRules(t *testing.T) {
	fixed := spec.Identity{UID: 10, GID: 11, Fixed: true}
	for _, c := range []struct {
		name     string
		users    spec.IDMap
		first    spec.Identity
		uid, gid uint32
		want     bool
	}{
		{"without a user namespace", spec.IDMap{}, spec.Identity{}, 0, 0, true},
		{"the host's root's", mapped, spec.Identity{}, 0, 0, false},
		{"its own", mapped, spec.Identity{}, 100_001, 200_001, true},
		{"with a group of the host", mapped, spec.Identity{}, 100_001, 0, false},
		{"of a container without root", spec.IDMap{}, fixed, 10, 11, false},
	} {
		if got := NewIdentities(c.users, c.first).rules(c.uid, c.gid); got != c.want {
			t.Errorf("%s: %v", c.name, got)
		}
	}
}

// A server that asks who has sent a message is told the peer, for each part of it.
func TestCredentialsOfMessages(t *testing.T) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		t.Fatal(err)
	}
	server, client := unixConn(t, fds[0]), unixConn(t, fds[1])
	if err := unix.SetsockoptInt(fds[0], unix.SOL_SOCKET, unix.SO_PASSCRED, 1); err != nil {
		t.Fatal(err)
	}
	const size = 1 << 20 // more than a socket takes at once
	sent := make(chan error, 1)
	go func() {
		_, err := Peer{UID: 1000, GID: 1001}.speak(client).Write(make([]byte, size))
		sent <- err
	}()
	data, control := make([]byte, 64<<10), make([]byte, unix.CmsgSpace(unix.SizeofUcred))
	for received := 0; received < size; {
		n, controlSize, _, _, err := server.ReadMsgUnix(data, control)
		if err != nil {
			t.Fatal(err)
		}
		received += n
		messages, err := unix.ParseSocketControlMessage(control[:controlSize])
		if err != nil || len(messages) != 1 {
			t.Fatalf("after %d bytes: %v, %v", received, messages, err)
		}
		if got, err := unix.ParseUnixCredentials(&messages[0]); err != nil || got.Uid != 1000 || got.Gid != 1001 {
			t.Fatalf("after %d bytes the sender is %+v, %v", received, got, err)
		}
	}
	if err := <-sent; err != nil {
		t.Error(err)
	}
}

func unixConn(t *testing.T, fd int) *net.UnixConn {
	t.Helper()
	file := os.NewFile(uintptr(fd), "socket")
	conn, err := net.FileConn(file)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close(); file.Close() })
	return conn.(*net.UnixConn)
}
