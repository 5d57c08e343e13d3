package e2e

import (
	"fmt"
	"io"
	"net"
	"os"
	"testing"

	"github.com/opencontainers/runtime-spec/specs-go"
	"golang.org/x/sys/unix"
)

// greet serves a socket that tells each who connects a word and who it is.
func greet(t *testing.T, path, word string) *net.UnixListener {
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
			_, _ = fmt.Fprint(conn, word, " ", peerOf(conn))
			_ = conn.CloseWrite()
			_, _ = io.Copy(io.Discard, conn)
			conn.Close()
		}
	}()
	return listener
}

// peerOf is the user and the group that has connected.
func peerOf(conn *net.UnixConn) (ids string) {
	raw, err := conn.SyscallConn()
	if err != nil {
		return err.Error()
	}
	_ = raw.Control(func(fd uintptr) {
		peer, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		ids = fmt.Sprintf("%d:%d %v", peer.Uid, peer.Gid, err)
	})
	return ids
}

// socketDirectories makes the directories with sockets, and their mounts.
func (c contract) socketDirectories(t *testing.T) []specs.Mount {
	t.Helper()
	if err := os.MkdirAll(c.path("sockets/a/b"), 0o755); err != nil {
		t.Fatal(err)
	}
	greet(t, c.path("sockets/top"), "top")
	greet(t, c.path("sockets/a/b/deep"), "deep")
	greet(t, c.path("sockets/groups"), "groups")
	if err := os.Mkdir(c.path("sockets/mount"), 0o755); err != nil {
		t.Fatal(err)
	}
	c.mountTmpfs(t, "sockets/mount")
	greet(t, c.path("sockets/mount/socket"), "mounted")
	c.mode(t, "sockets/top", 0o666, 0, 0)
	c.mode(t, "sockets/groups", 0o660, 0, 1003)
	return []specs.Mount{
		bind(c.path("sockets"), "/d/sockets", "rw"),
		bind(c.path("sockets"), "/d/sockets-ro", "ro"),
		bind(c.path("sockets"), "/d/no-sockets", "rw", "x-msb.sockets=off"),
	}
}

func (c contract) mode(t *testing.T, name string, mode os.FileMode, uid, gid int) {
	t.Helper()
	if err := os.Chown(c.path(name), uid, gid); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(c.path(name), mode); err != nil {
		t.Fatal(err)
	}
}

// wantSockets compares what servers answer, by what the probe is told to do.
func (c contract) wantSockets(want map[string]string) {
	c.t.Helper()
	for args, answer := range want {
		if got := c.probe(args); got != answer {
			c.t.Errorf("%s: %q, want %q", args, got, answer)
		}
	}
}

func vmSockets(t *testing.T, c contract) {
	for _, line := range []struct {
		name string
		test func(*testing.T, contract)
	}{
		{"VM10 those that are there", vmSocketsAtCreation},
		{"VM11 one that appears later", vmLaterSocket},
		{"VM11 one that is replaced", vmReplacedSocket},
		{"VM12 the guest's own", vmOwnSocket},
	} {
		t.Run(line.name, func(t *testing.T) { line.test(t, c.on(t)) })
	}
}

func vmSocketsAtCreation(_ *testing.T, c contract) {
	c.wantSockets(map[string]string{
		"connect /d/sockets/top x":                            "top 0:0 <nil>",
		"connect /d/sockets-ro/top x":                         "top 0:0 <nil>",
		"connect /d/sockets/a/b/deep x":                       "deep 0:0 <nil>",
		"as 1001 1002 probe connect /d/sockets/top x":         "top 1001:1002 <nil>",
		"as 1001 1002 probe connect /d/sockets/groups x":      "EACCES",
		"as 1001 1002,1003 probe connect /d/sockets/groups x": "groups 1001:1002 <nil>",
		"connect /d/sockets/mount/socket x":                   "mounted 0:0 <nil>",
		"connect /d/no-sockets/top x":                         "ECONNREFUSED",
	})
}

func vmLaterSocket(t *testing.T, c contract) {
	if err := os.MkdirAll(c.path("sockets/late"), 0o755); err != nil {
		t.Fatal(err)
	}
	greet(t, c.path("sockets/late/socket"), "late")
	c.mode(t, "sockets/late/socket", 0o666, 0, 0)
	c.eventually("a later socket", `[ "$(probe as 7 8 probe connect /d/sockets/late/socket x)" = "late 7:8 <nil>" ]`)
}

// A daemon that starts again makes another socket, and some have systemd make the
// directory anew.
func vmReplacedSocket(t *testing.T, c contract) {
	const reached = `[ "$(probe connect /d/sockets/run/daemon x)" = "%s 0:0 <nil>" ]`
	for i := range 3 {
		if err := os.MkdirAll(c.path("sockets/run"), 0o755); err != nil {
			t.Fatal(err)
		}
		word := fmt.Sprint("daemon", i)
		listener := greet(t, c.path("sockets/run/daemon"), word)
		c.eventually(word, fmt.Sprintf(reached, word))
		listener.Close() // removes it
		if i == 1 {
			if err := os.Remove(c.path("sockets/run")); err != nil {
				t.Fatal(err)
			}
		}
	}
}

// A socket of the guest's on the directory is the guest's, also where the host had one.
func vmOwnSocket(t *testing.T, c contract) {
	own := map[string]string{"new": "/d/sockets/own", "in the place of the host's": "/d/sockets/run/daemon"}
	for name, path := range own {
		c.eventually("the end of the host's", "[ ! -e "+path+" ]") // what is forwarded cannot be unlinked (docs/decisions/0083)
		c.must("probe greet " + path + " mine >/dev/null 2>&1 &")
		c.eventually(name, `[ "$(probe connect `+path+` x)" = mine ]`)
	}
	c.must("sleep 2.5") // looks at the host
	for name, path := range own {
		if got := c.probe("connect " + path + " x"); got != "mine" {
			t.Errorf("%s: %q", name, got)
		}
	}
}
