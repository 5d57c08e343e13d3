package task_test

import (
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/opencontainers/runtime-spec/specs-go"

	"github.com/msb-runtime/containerd-shim-msb/guest/api"
	"github.com/msb-runtime/containerd-shim-msb/test/fake"
	"github.com/msb-runtime/containerd-shim-msb/test/rig"
)

// greet serves a socket that says a word to everybody.
func (c client) greet(path, word string) {
	c.T.Helper()
	listener, err := net.Listen("unix", path)
	c.must(err)
	c.T.Cleanup(func() { listener.Close() })
	c.must(os.Chmod(path, 0o666))
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			_, _ = io.WriteString(conn, word)
			conn.Close()
		}
	}()
}

// toldSockets are what the agent was told last of a container's sockets, by their paths.
func (c client) toldSockets() map[string]*api.DirectorySocket {
	told := make(map[string]*api.DirectorySocket)
	if requests := fake.Requests[*api.SetSocketsRequest](c.Agent()); len(requests) > 0 {
		for _, one := range requests[len(requests)-1].Sockets {
			told[one.Destination+"/"+string(one.Path)] = one
		}
	}
	return told
}

// answer is what a socket says to a process of the guest.
func (c client) answer(tag string, peer *api.Peer) string {
	conn, err := c.Agent().OpenSocketAs(tag, peer)
	if err != nil {
		return fmt.Sprint("refused: ", err)
	}
	defer conn.Close()
	answer, _ := io.ReadAll(conn)
	return string(answer)
}

// withDirectory is a container that mounts a directory, as a user who stays one.
func withDirectory(dir string, options ...string) *specs.Spec {
	spec := rig.Spec("sleep")
	spec.Process.User, spec.Process.NoNewPrivileges = specs.User{UID: 1000, GID: 1000}, true
	spec.Mounts = []specs.Mount{{Destination: "/d", Type: "bind", Source: dir, Options: append([]string{"rbind"}, options...)}}
	return spec
}

// The guest is told of a directory's sockets when it has created the container and before it
// starts it, then of later ones; and after the deletion they are not reached.
func TestVM10VM11DirectorySockets(t *testing.T) {
	c := open(t)
	dir := t.TempDir()
	c.must(os.Chmod(dir, 0o755))
	c.greet(filepath.Join(dir, "socket"), "first")
	c.must(c.create("c", withDirectory(dir)))
	first := c.toldSockets()["/d/socket"] // a look has 2 s before the creation goes on without
	for deadline := time.Now().Add(time.Minute); first == nil && time.Now().Before(deadline); time.Sleep(10 * time.Millisecond) {
		first = c.toldSockets()["/d/socket"]
	}
	if first == nil || first.Mode != 0o666 || first.Share == "" {
		t.Fatalf("told when created: %v", c.toldSockets())
	}
	user, root := &api.Peer{Uid: 1000, Gid: 1000}, &api.Peer{}
	if got := c.answer(first.Tag, user); got != "first" {
		t.Errorf("the user: %s", got)
	}
	if got := c.answer(first.Tag, root); got == "first" {
		t.Error("the user's container connects as root")
	}
	c.must(c.exec("c", "e", "sh")) // as root
	if got := c.answer(first.Tag, root); got != "first" {
		t.Errorf("an exec of root: %s", got)
	}
	c.greet(filepath.Join(dir, "later"), "later")
	for deadline := time.Now().Add(time.Minute); c.toldSockets()["/d/later"] == nil; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatal("the guest is not told of a later socket")
		}
	}
	if got := c.answer(c.toldSockets()["/d/later"].Tag, user); got != "later" {
		t.Errorf("the later one: %s", got)
	}
	c.must(c.start("c", ""))
	c.must(c.kill("c", ""))
	c.expectExit("c", "", killed)
	c.expectDelete("c", "", killed)
	c.ExpectNoMounts()
}

// Off for one mount, or for all.
func TestVM12SocketsOff(t *testing.T) {
	dir := t.TempDir()
	for name, change := range map[string]func(*specs.Spec){
		"option": func(s *specs.Spec) { s.Mounts[0].Options = append(s.Mounts[0].Options, "x-msb.sockets=off") },
		"annotation": func(s *specs.Spec) {
			s.Annotations = map[string]string{"io.containerd.msb.mounts.sockets": "off"}
		},
	} {
		t.Run(name, func(t *testing.T) {
			c := open(t)
			path := filepath.Join(dir, "socket")
			c.greet(path, "word")
			spec := withDirectory(dir)
			change(spec)
			c.must(c.create("c", spec))
			if told := c.toldSockets(); len(told) != 0 {
				t.Errorf("told of %v", told)
			}
			c.expectDelete("c", "", killed)
		})
	}
}

// A guest that refuses to be told, or does not answer, has its container without.
func TestSocketsFail(t *testing.T) {
	for name, behave := range map[string]fake.Behaviour{"refuses": fake.Fail(os.ErrInvalid), "hangs": fake.Hang, "answers garbage": fake.Garbage} {
		t.Run(name, func(t *testing.T) {
			c := open(t)
			dir := t.TempDir()
			c.greet(filepath.Join(dir, "socket"), "word")
			c.Driver.Prepare = func(m *fake.Machine) { m.Agent.On("Guest.SetSockets", behave) }
			c.must(c.create("c", withDirectory(dir)))
			c.must(c.start("c", ""))
			c.must(c.kill("c", ""))
			c.expectExit("c", "", killed)
			c.expectDelete("c", "", killed)
			c.ExpectNoMounts()
		})
	}
}
